"""Checks and parsers for values in requests.

`check_x` returns its argument unchanged, `parse_x` returns a converted or canonical value. Both
raise ValueError if the value is not acceptable; the message never repeats the value.
"""

import re
import unicodedata
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final

from sidegate.core.binding import DEFAULT_PREFIX_LENGTHS, Signal, reduce_signal
from sidegate.core.lock import LEASE_PATTERN
from sidegate.core.metadata import check_size
from sidegate.core.session import SessionId

# Lengths in characters, sizes in bytes.
MAX_USER_ID_LENGTH: Final = 256
MAX_TEXT_LENGTH: Final = 512
MAX_LABEL_LENGTH: Final = 128
MAX_SCOPES: Final = 64
MAX_SCOPES_SIZE: Final = 2048

# These patterns are also used in JSON Schemas: ECMA-262 and Python agree on their syntax.
CONTROL_CHARACTERS: Final = r"\u0000-\u001f\u007f-\u009f"
# Invisible characters and those that reorder text (bidirectional controls). Not str.isprintable():
# its answer depends on the Unicode version, and two instances might disagree.
FORMAT_CHARACTERS: Final = r"\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
PRINTABLE_PATTERN: Final = re.compile(rf"[^{CONTROL_CHARACTERS}{FORMAT_CHARACTERS}]+")
SCOPE_PATTERN: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 3.3
SESSION_ID_PATTERN: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIMESTAMP_PATTERN: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"
    r"(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_SIGNAL_ERRORS: Final = {
    Signal.IP: "an IPv4 or IPv6 address without a zone",
    Signal.USER_AGENT: "a User-Agent header: name/version first, ASCII, at most 1024 characters",
    Signal.ACCEPT_LANGUAGE: "an Accept-Language header, as in de-CH,de;q=0.9",
    Signal.HEADER: "1 to 1024 ASCII characters, no control characters, not only spaces",
}


def check_user_id(text: str) -> str:
    """Return `text` if it is a valid user id.

    Ids are compared by code point: nothing is case-folded, trimmed or normalised.
    """
    _check_storable_text(text)
    if not 1 <= len(text) <= MAX_USER_ID_LENGTH:
        raise ValueError(f"a user id has 1 to {MAX_USER_ID_LENGTH} characters")
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("a user id has no control characters")
    if text != text.strip():
        raise ValueError("a user id neither begins nor ends with white space")
    return text


def parse_session_id(text: str) -> SessionId:
    """Return `text` as a session id."""
    if not SESSION_ID_PATTERN.fullmatch(text):
        raise ValueError("a session id is a UUID in lower case")
    return SessionId(text)


def check_lease(text: str) -> str:
    """Return `text` if it has the format of a lease."""
    if not LEASE_PATTERN.fullmatch(text):
        raise ValueError("a lease is sgl_ and 43 characters, as returned with the acquired lock")
    return text


def check_text(text: str) -> str:
    """Return `text` if every store can keep it: up to 512 characters."""
    _check_storable_text(text)
    if len(text) > MAX_TEXT_LENGTH:
        raise ValueError(f"at most {MAX_TEXT_LENGTH} characters")
    return text


def check_nonempty_text(text: str) -> str:
    """Return `text` if it passes `check_text` and is not empty."""
    if not text:
        raise ValueError(f"1 to {MAX_TEXT_LENGTH} characters")
    return check_text(text)


def check_label(text: str) -> str:
    """Return `text` if it is a valid name or reason: 1 to 128 printable characters."""
    _check_storable_text(text)
    if len(text) > MAX_LABEL_LENGTH or not PRINTABLE_PATTERN.fullmatch(text):
        raise ValueError(f"1 to {MAX_LABEL_LENGTH} printable characters")
    return text


def parse_address(text: str) -> str:
    """Return an IP address in canonical form."""
    if "%" in text:  # a zone names a network interface of one host
        raise ValueError("an IP address without a zone")
    try:
        return str(ip_address(text))
    except ValueError:  # its message repeats the input
        raise ValueError("an IPv4 or IPv6 address") from None


def check_scopes(scopes: list[str]) -> list[str]:
    """Return `scopes` without duplicates."""
    if len(scopes) > MAX_SCOPES:
        raise ValueError(f"at most {MAX_SCOPES} scopes")
    if len(" ".join(scopes)) > MAX_SCOPES_SIZE:
        raise ValueError(f"the scopes take at most {MAX_SCOPES_SIZE} bytes, joined by spaces")
    return list(dict.fromkeys(scopes))


def check_scope(text: str) -> str:
    """Return `text` if it is a scope token of RFC 6749."""
    if not SCOPE_PATTERN.fullmatch(text):
        raise ValueError('a scope is printable ASCII without space, " and \\ (RFC 6749 3.3)')
    if len(text) > MAX_SCOPES_SIZE:
        raise ValueError(f"a scope has at most {MAX_SCOPES_SIZE} characters")
    return text


def check_json_object(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return `metadata` if it can be stored, and is not over the limit of core/metadata.py."""
    _check_storable(metadata)
    check_size(metadata)
    return metadata


def check_signal(signal: Signal, text: str) -> str:
    """Return `text` if requests can present this value of `signal`.

    A session bound to any other value could never be used.
    """
    if reduce_signal(signal, text, prefixes=DEFAULT_PREFIX_LENGTHS) is None:
        raise ValueError(_SIGNAL_ERRORS[signal])
    return text


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """Return the network of an IP prefix, as in 203.0.113.0/24, or of a single address."""
    if "%" in text:
        raise ValueError("an IP prefix without a zone")
    try:
        return ip_network(text)
    except ValueError:
        raise ValueError("an IP prefix without host bits, as in 203.0.113.0/24") from None


def parse_timestamp(text: str) -> datetime:
    """Return the time of an RFC 3339 timestamp."""
    try:
        at = datetime.fromisoformat(text) if TIMESTAMP_PATTERN.fullmatch(text) else None
    except ValueError:
        at = None
    if at is None or not 1 < at.year < 9999:  # so that converting it to UTC cannot overflow
        raise ValueError("a timestamp with a time zone, as in 2026-03-04T12:00:00Z")
    return at


def _check_storable(value: object) -> None:
    """Check all texts and integers of a JSON document; `strict_json` has limited its depth."""
    match value:
        case str():
            _check_storable_text(value)
        case dict():
            for name, member in value.items():
                _check_storable_text(name)
                _check_storable(member)
        case list():
            for item in value:
                _check_storable(item)
        case int() if not -(2**63) <= value < 2**63:
            raise ValueError("an integer does not fit 64 bits; send it as a string")
        case _:
            pass


def _check_storable_text(text: str) -> None:
    """Raise ValueError for NUL, which Postgres cannot store, and for surrogates (not in UTF-8)."""
    if "\0" in text:
        raise ValueError("no NUL characters")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("no lone surrogates")
