"""Responses in bytes, as the fast path sends them and aiohttp would."""

from collections.abc import Iterable
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import msgspec

from sidegate.web.server.messages import Field, Response

_ZERO_LENGTH: Final = b"Content-Length: 0\r\n"


class EncodedResponse(msgspec.Struct, gc=False):
    """A response to an HTTP/1.1 GET, without the Date line and the end of the head."""

    shared_head: bytes  # the status line and the fields that sessions share
    identity_lines: bytes  # of the session, and those of the request
    body: bytes = b""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shared_head!r})"  # the lines may contain credentials

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("shared_head", self.shared_head)]


def encode_response(response: Response) -> EncodedResponse:
    """Encode a response, whose fields must be ASCII; `request_lines` are as they are."""
    shared_head = _encode_shared_head(response.status, response.fields, length=len(response.body))
    lines = _encode_fields(response.identity) + response.request_lines
    return EncodedResponse(shared_head, lines, response.body)


def format_date_line(now: datetime) -> bytes:
    """Return the Date line; `now` is UTC."""
    return _encode_fields([("Date", format_datetime(now, usegmt=True))])


def assemble_response(
    response: EncodedResponse, date_line: bytes, *, to_head: bool, is_http10: bool, closes: bool
) -> bytes:
    """Return the bytes of a complete response.

    `to_head`: the method was HEAD. `is_http10`: the version was HTTP/1.0, which closes the
    connection without a header. `closes`: add `Connection: close` with HTTP/1.1.
    """
    head = response.shared_head
    if to_head and not response.body:
        head = head.removesuffix(_ZERO_LENGTH)  # as aiohttp does for HEAD
    if is_http10:
        head = head.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    closing = b"Connection: close\r\n" if closes and not is_http10 else b""
    body = b"" if to_head else response.body
    return b"".join((head, response.identity_lines, date_line, closing, b"\r\n", body))


@lru_cache(maxsize=256)  # one entry per gateway and reason
def _encode_shared_head(status: int, fields: tuple[Field, ...], *, length: int) -> bytes:
    status_line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode("ascii")
    return status_line + _encode_fields((*fields, ("Content-Length", str(length))))


def _encode_fields(fields: Iterable[Field]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("ascii")
