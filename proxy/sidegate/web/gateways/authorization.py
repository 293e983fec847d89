"""Credentials in the value of one Authorization header: `Bearer TOKEN`, or a Basic password."""

import re
from base64 import b64encode
from binascii import Error, a2b_base64
from typing import Final

from sidegate.web.server.header_lines import WHITESPACE

_BEARER: Final = re.compile(rb"bearer(?=[ \t]|\Z)( *)", re.IGNORECASE)  # RFC 6750, 2.1: 1*SP
_BASIC: Final = re.compile(rb"basic +", re.IGNORECASE)  # RFC 7617, 2
# As parsers read it that are less strict about blanks.
_ANY_BASIC: Final = re.compile(rb"[ \t]*basic", re.IGNORECASE)


def parse_bearer(value: bytes) -> bytes | None:
    """Return what follows the scheme, or None if it is another scheme."""
    scheme = _BEARER.match(value)
    return None if scheme is None else value[scheme.end() :].rstrip(WHITESPACE)


def parse_basic_password(value: bytes) -> bytes | None:
    """Return the password, or None unless it is Basic in its one text form."""
    scheme = _BASIC.match(value)
    if scheme is None:
        return None
    encoded = value[scheme.end() :].rstrip(WHITESPACE)
    decoded = _decode(encoded)
    if decoded is None or b64encode(decoded) != encoded:
        return None
    _, colon, password = decoded.partition(b":")
    return password if colon else None


def decode_any_basic(value: bytes) -> bytes:
    """Return what a tolerant parser reads from Basic credentials; empty for another scheme."""
    scheme = _ANY_BASIC.match(value)
    if scheme is None:
        return b""
    return _decode(value[scheme.end() :].rstrip(b"= \t") + b"==") or b""


def _decode(encoded: bytes) -> bytes | None:
    """Decode Base64, and ignore characters that are none."""
    try:
        return a2b_base64(encoded)
    except Error:
        return None
