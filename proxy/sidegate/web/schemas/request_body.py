"""Reading a request's body: small, in time, of the announced kind, and with one meaning."""

import asyncio
import re
from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from sidegate.web.schemas import strict_json
from sidegate.web.schemas.problems import FieldError, Problem, invalid

LIMIT: Final = 64 * 1024
PATIENCE: Final = 10.0  # seconds for a body of at most 64 KiB; a slower one is an attack or a ruin
_FIELDS: Final = 32  # of a form; RFC 7009 and 7662 know two
JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
_CHARSET: Final = re.compile(r';[ \t]*charset="?([^";\s]*)"?', re.ASCII | re.IGNORECASE)


async def json_object(request: web.Request, *, optional: bool = False) -> dict[str, Any]:
    """Return the JSON object in the body; `optional`: no body at all is an empty object."""
    if optional and not request.body_exists:
        return {}
    _check_kind(request, JSON)
    raw = await _read(request)
    try:
        document = strict_json.read(raw)
    except ValueError as error:
        raise Problem(400, "invalid_json", f"the body is not acceptable JSON: {error}") from None
    if not isinstance(document, dict):
        raise invalid("invalid_request", [FieldError("", "the body is not a JSON object")])
    return document


async def form(request: web.Request) -> dict[str, str]:
    """Return the fields of the form in the body; a field sent twice is refused (RFC 6749 3.1)."""
    _check_kind(request, FORM)
    raw = await _read(request)
    try:
        pairs = parse_qsl(
            raw.decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_FIELDS,
        )
    except ValueError:  # UnicodeDecodeError is one
        raise Problem(400, "invalid_form", "the body is not an acceptable form") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Problem(400, "invalid_form", "the form names a field twice")
    return fields


def _check_kind(request: web.Request, kind: str) -> None:
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise Problem(415, "unsupported_encoding", "send the body without a Content-Encoding")
    lines = request.headers.getall(hdrs.CONTENT_TYPE, [])
    if len(lines) == 1:
        essence, charsets = lines[0].partition(";")[0], _CHARSET.findall(lines[0])
        if essence.strip(" \t").lower() == kind and all(c.lower() == "utf-8" for c in charsets):
            return
    raise Problem(415, "unsupported_media_type", f"send {kind} in UTF-8", headers={"Accept": kind})


async def _read(request: web.Request) -> bytes:
    too_large = Problem(413, "body_too_large", f"the body is larger than {LIMIT} bytes")
    if (request.content_length or 0) > LIMIT:
        raise too_large
    try:
        async with asyncio.timeout(PATIENCE):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large from None
    except TimeoutError:
        raise Problem(408, "body_timeout", "the body did not arrive in time") from None
    except (HttpProcessingError, RequestPayloadError, ConnectionError):
        raise Problem(400, "broken_body", "the body ended before its end") from None
