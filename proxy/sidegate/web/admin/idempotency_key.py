"""Read the Idempotency-Key header, with which a request can be retried safely."""

import json
import re
from typing import Any, Final

from aiohttp import hdrs, web

from sidegate.core.idempotency import Idempotency
from sidegate.web.admin.auth import parse_key
from sidegate.web.admin.route import Parameter
from sidegate.web.schemas import fields
from sidegate.web.schemas.problems import Problem

# draft-ietf-httpapi-idempotency-key-header requires quotes, which most clients omit: both forms
# are the same key. Without quotes and backslashes inside, so that nothing needs escaping.
_KEY_FORMAT: Final = r""""([ !\x23-\x5b\x5d-\x7e]{1,255})"|([!\x23-\x5b\x5d-\x7e]{1,255})"""
_KEY_PATTERN: Final = re.compile(rf"[ \t]*(?:{_KEY_FORMAT})[ \t]*")

IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key",
    fields.pattern_text(_KEY_FORMAT),
    "A retry of the same request with the same key gets the same response, token included. "
    "Quotes are optional.",
)


def read_idempotency(request: web.Request, document: dict[str, Any]) -> Idempotency | None:
    """Return the identity of an authenticated request with this body; None without the header.

    The order of members and white space in the body make no difference. Raise Problem if the
    header is malformed or duplicate.
    """
    lines = request.headers.getall("Idempotency-Key", [])
    if not lines:
        return None
    match = _KEY_PATTERN.fullmatch(lines[0]) if len(lines) == 1 else None
    if match is None:
        raise Problem(
            400,
            "invalid_idempotency_key",
            detail="send one Idempotency-Key of 1 to 255 printable ASCII characters except quotes",
        )
    api_key = parse_key(request.headers.getall(hdrs.AUTHORIZATION, [])).text
    body = json.dumps(document, sort_keys=True).encode("ascii")
    return Idempotency.from_request(api_key=api_key, key=match[1] or match[2], body=body)
