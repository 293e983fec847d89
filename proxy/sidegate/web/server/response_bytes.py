"""An answer in bytes: as the express lane sends it, and as aiohttp's lane would."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from sidegate.web.server.messages import Field, Response

_OF_NOTHING: Final = b"Content-Length: 0\r\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to GET by HTTP/1.1, but for the date and the end of its head."""

    common: bytes  # is shared by all answers that begin like this
    own: bytes  # tells of the session
    body: bytes = b""


def reply_of(answer: Response) -> Reply:
    """Spell an answer. Its fields are ASCII."""
    common = _common(answer.status, answer.fields, len(answer.body))
    return Reply(common, _spelled(answer.identity), answer.body)


def date_line(now: datetime) -> bytes:
    """Spell when an answer is sent; `now` is UTC."""
    return _spelled([("Date", format_datetime(now, usegmt=True))])


def whole(reply: Reply, date: bytes, *, to_head: bool, old: bool, last: bool) -> bytes:
    """Return all of an answer.

    `to_head`: to the method HEAD. `old`: by HTTP/1.0, where it is the last one of its connection
    anyway. `last`: it is that by HTTP/1.1, too.
    """
    common = reply.common
    if to_head and not reply.body:
        common = common.removesuffix(_OF_NOTHING)  # which aiohttp does not tell HEAD
    if old:
        common = common.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    closing = b"Connection: close\r\n" if last and not old else b""
    body = b"" if to_head else reply.body
    return b"".join((common, reply.own, date, closing, b"\r\n", body))


@lru_cache(maxsize=256)  # gateways and reasons are few
def _common(status: int, fields: tuple[Field, ...], length: int) -> bytes:
    start = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode("ascii")
    always = (("Server", "sidegate"), ("Content-Length", str(length)))
    return start + _spelled((*fields, *always))


def _spelled(fields: Iterable[Field]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("ascii")
