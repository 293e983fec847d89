"""The rules of HTTP that aiohttp's parser leaves to the server, for every listener.

They apply to the message of a request before anything reads it. The fast path's grammar keeps them,
too: what violates one is no plain head.
"""

import re
from typing import Any, Final

from aiohttp import hdrs
from aiohttp.http import HttpVersion, HttpVersion10, HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

_SPOKEN: Final = frozenset({HttpVersion10, HttpVersion11})

# RFC 9110, 5.6.2.
TOKEN_CHAR: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# RFC 3986, 3.2.2, without a comma: two Host lines that a proxy has joined are not one host. Empty
# if the target has no authority (RFC 9112, 3.2).
HOST: Final = rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[!$%&'(*+;=_~)\-.0-9A-Za-z]{0,255})(?::[0-9]{0,5})?"

_HOST_PATTERN: Final = re.compile(HOST.decode("ascii"))
_ABSOLUTE: Final = re.compile(r"https?://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)
_SCHEME: Final = re.compile(r"https?:", re.IGNORECASE)
# Followed by a target, which a line of another protocol has not.
_METHOD_START: Final = re.compile(rb"(%b{1,64}) (?:/|\*|[Hh][Tt][Tt][Pp])" % TOKEN_CHAR)

PREFACE: Final = b"PRI * HTTP/2.0\r\n"
"""What a client of HTTP/2 without TLS sends first (RFC 9113, 3.4)."""


def is_valid(message: Any, *, checks_host: bool) -> bool:
    """Return whether a message may be handled; the others are answered with 400.

    `checks_host`: whether the value of Host is checked here.
    """
    return (
        message.path is not None
        and message.version in _SPOKEN
        and _SCHEME.match(message.path) is None  # an absolute target without an authority
        and not (checks_host and _has_wrong_host(message))
        and not _has_wrong_framing(message)
    )


def to_origin_form(message: Any) -> Any:
    """Return the message of an absolute target with its path, and its authority as the Host.

    RFC 9112, 3.2.2: a server accepts absolute targets, and ignores the Host of the message.
    """
    absolute = None if message.path is None else _ABSOLUTE.fullmatch(message.path)
    if absolute is None:
        return message
    path = absolute[2] if absolute[2].startswith("/") else f"/{absolute[2]}"
    headers = CIMultiDict(message.headers)
    headers[hdrs.HOST] = absolute[1]
    fields = (field for field in message.raw_headers if field[0].lower() != b"host")
    return message._replace(
        path=path,
        url=URL(path, encoded=True),
        headers=CIMultiDictProxy(headers),
        raw_headers=((b"Host", absolute[1].encode("utf-8", "surrogateescape")), *fields),
    )


def has_unknown_method(head_start: bytes) -> bool:
    """Return whether a head that was refused begins with a method, but none of the usual ones.

    Any token is one. A usual one is known to the parser: it has refused something else.
    """
    method = _METHOD_START.match(head_start)
    return method is not None and method[1].decode("ascii") not in hdrs.METH_ALL


def _has_wrong_host(message: Any) -> bool:
    """Return whether Host is invalid (RFC 9112, 3.2)."""
    hosts = message.headers.getall(hdrs.HOST, [])
    return any(_HOST_PATTERN.fullmatch(host.strip(" \t")) is None for host in hosts)


def _has_wrong_framing(message: Any) -> bool:
    """Return whether Transfer-Encoding is empty, or in HTTP/1.0 (RFC 9112, 6.1)."""
    codings = message.headers.getall(hdrs.TRANSFER_ENCODING, [])
    return bool(codings) and (
        message.version == HttpVersion10 or any(not coding.strip(" \t") for coding in codings)
    )


def replace_refused(message: Any) -> Any:
    """Return a message with which aiohttp answers in HTTP/1.1 and closes the connection."""
    return message._replace(
        path="/", url=URL("/"), version=HttpVersion(1, 1), should_close=True, chunked=False
    )
