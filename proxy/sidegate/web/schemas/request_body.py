"""Read JSON and form request bodies, within limits of size, time and media type."""

import asyncio
import re
from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from sidegate.web.schemas import strict_json
from sidegate.web.schemas.problems import FieldError, Problem, validation_problem

MAX_SIZE: Final = 64 * 1024
READ_TIMEOUT: Final = 10.0  # seconds; far more than 64 KiB take on any usable connection
_MAX_FORM_FIELDS: Final = 32  # RFC 7009 and 7662 define two
JSON_MEDIA_TYPE: Final = "application/json"
FORM_MEDIA_TYPE: Final = "application/x-www-form-urlencoded"
_CHARSET: Final = re.compile(r';[ \t]*charset="?([^";\s]*)"?', re.ASCII | re.IGNORECASE)


async def read_json_object(request: web.Request, *, optional: bool = False) -> dict[str, Any]:
    """Return the JSON object in the body; with `optional`, {} if there is no body.

    Raise Problem if the body is anything else.
    """
    if optional and not request.body_exists:
        return {}
    _check_headers(request, JSON_MEDIA_TYPE)
    raw = await _read(request)
    try:
        document = strict_json.parse(raw)
    except ValueError as error:
        raise Problem(400, "invalid_json", detail=f"the body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise validation_problem("invalid_request", [FieldError("", "must be a JSON object")])
    return document


async def read_form(request: web.Request) -> dict[str, str]:
    """Return the fields of the form in the body. Raise Problem if the body is anything else.

    A duplicate field is an error (RFC 6749, section 3.1).
    """
    _check_headers(request, FORM_MEDIA_TYPE)
    raw = await _read(request)
    try:
        pairs = parse_qsl(
            raw.decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_FORM_FIELDS,
        )
    except ValueError:  # includes UnicodeDecodeError
        raise Problem(400, "invalid_form", detail="the body is not a valid form") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Problem(400, "invalid_form", detail="the form has a duplicate field")
    return fields


def _check_headers(request: web.Request, media_type: str) -> None:
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise Problem(
            415, "unsupported_encoding", detail="send the body without a Content-Encoding"
        )
    lines = request.headers.getall(hdrs.CONTENT_TYPE, [])
    if len(lines) == 1:
        essence, charsets = lines[0].partition(";")[0], _CHARSET.findall(lines[0])
        is_utf8 = all(charset.lower() == "utf-8" for charset in charsets)
        if essence.strip(" \t").lower() == media_type and is_utf8:
            return
    raise Problem(
        415,
        "unsupported_media_type",
        detail=f"send {media_type} in UTF-8",
        headers={"Accept": media_type},
    )


async def _read(request: web.Request) -> bytes:
    too_large = Problem(413, "body_too_large", detail=f"the body is larger than {MAX_SIZE} bytes")
    if (request.content_length or 0) > MAX_SIZE:
        raise too_large
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large from None
    except TimeoutError:
        raise Problem(
            408, "body_timeout", detail=f"the body did not arrive within {READ_TIMEOUT:g} seconds"
        ) from None
    except (HttpProcessingError, RequestPayloadError, ConnectionError):
        raise Problem(
            400, "incomplete_body", detail="the request ended before the end of the body"
        ) from None
