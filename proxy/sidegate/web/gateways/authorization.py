"""Credentials in the value of one Authorization header: `Bearer TOKEN`, or a Basic password."""

import re
import string
from base64 import b64encode
from binascii import Error, a2b_base64
from typing import Final

from sidegate.web.server.header_lines import WHITESPACE

_BEARER: Final = re.compile(rb"bearer(?=[ \t]|\Z)( *)", re.IGNORECASE)  # RFC 6750, 2.1: 1*SP
_BASIC: Final = re.compile(rb"basic +", re.IGNORECASE)  # RFC 7617, 2
# As parsers that are less strict about blanks read it.
_ANY_BASIC: Final = re.compile(rb"[ \t]*basic", re.IGNORECASE)
_ALPHABET: Final = f"{string.ascii_letters}{string.digits}+/".encode("ascii")
_FOREIGN: Final = bytes({*range(256)} - {*_ALPHABET, *b"-_="})
# What tolerant parsers do with the padding and with the alphabet for URLs, wherever they stand: the
# characters that change, and those that are ignored. Padding in the middle may also be zero bits.
_TOLERANT: Final = (
    (None, _FOREIGN + b"-_="),
    (bytes.maketrans(b"-_", b"+/"), _FOREIGN + b"="),
    (bytes.maketrans(b"-_=", b"+/A"), _FOREIGN),
)


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


def decode_any_basic(value: bytes) -> list[bytes]:
    """Return what tolerant parsers read from Basic credentials; empty for another scheme."""
    scheme = _ANY_BASIC.match(value)
    if scheme is None:
        return []
    encoded = value[scheme.end() :].rstrip(b"= \t")
    texts = dict.fromkeys(encoded.translate(table, ignored) for table, ignored in _TOLERANT)
    return [_decode_all(text) for text in texts]


def _decode_all(text: bytes) -> bytes:
    """Decode Base64 without padding. The last character of one too many has too few bits."""
    return a2b_base64((text[:-1] if len(text) % 4 == 1 else text) + b"==")


def _decode(encoded: bytes) -> bytes | None:
    """Decode Base64 and ignore other characters. Return None if it is incomplete."""
    try:
        return a2b_base64(encoded)
    except Error:
        return None
