"""Read the Idempotency-Key header: the caller may send this request again."""

import json
import re
from typing import Any, Final

from aiohttp import hdrs, web

from sidegate.core.idempotency import Idempotency
from sidegate.web.admin.auth import presented
from sidegate.web.admin.route import Parameter
from sidegate.web.schemas import fields
from sidegate.web.schemas.problems import Problem

# The draft (draft-ietf-httpapi-idempotency-key-header) has it in quotes, most clients leave those
# out; either spells the same key. No quotes or backslashes within: nothing need be escaped.
_SPELLING: Final = r""""([ !\x23-\x5b\x5d-\x7e]{1,255})"|([!\x23-\x5b\x5d-\x7e]{1,255})"""
_KEY: Final = re.compile(rf"[ \t]*(?:{_SPELLING})[ \t]*")

IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key",
    fields.spelled(_SPELLING),
    "Whoever sends the same request again with the same key gets the same answer, token included. "
    "In quotes or not.",
)


def idempotency_of(request: web.Request, document: dict[str, Any]) -> Idempotency | None:
    """Return what makes an authenticated request with this body the same as another; None: nothing.

    The order of members and the white space of the body make no difference. Problem: the header is
    malformed, or there are two.
    """
    lines = request.headers.getall("Idempotency-Key", [])
    if not lines:
        return None
    spelled = _KEY.fullmatch(lines[0]) if len(lines) == 1 else None
    api_key = presented(request.headers.getall(hdrs.AUTHORIZATION, []))
    if spelled is None or api_key is None:
        raise Problem(
            400,
            "invalid_idempotency_key",
            "send one Idempotency-Key of 1 to 255 printable ASCII characters, no quotes within",
        )
    body = json.dumps(document, sort_keys=True).encode("ascii")
    return Idempotency.of(api_key=api_key, key=spelled[1] or spelled[2], body=body)
