"""Texts and numbers that callers send: checked, and refused with a sentence that says what to do.

Every function returns its argument, perhaps in one canonical spelling. ValueError says why not, and
repeats nothing that was sent.
"""

import json
import re
import unicodedata
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final

from sidegate.core.binding import DEFAULT_WIDTHS, Signal, reduced
from sidegate.core.lock import LEASE
from sidegate.core.session import SessionId

# The longest of each, in characters.
USER_ID: Final = 256
TEXT: Final = 512
LABEL: Final = 128
SCOPES: Final = 64
SCOPES_BYTES: Final = 2048
_METADATA_BYTES: Final = 16 * 1024

# Written so that a JSON Schema may hold them: ECMA-262 and Python read them alike.
CONTROL: Final = r"\u0000-\u001f\u007f-\u009f"
# What hides the text beside it, or turns it round. Not all that Python calls unprintable: that
# depends on the Unicode version, and two instances might disagree.
HIDING: Final = r"\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
PRINTABLE: Final = re.compile(rf"[^{CONTROL}{HIDING}]+")
SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 3.3
SESSION_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"
    r"(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_SHOWABLE: Final = {
    Signal.IP: "an IPv4 or IPv6 address without a zone",
    Signal.USER_AGENT: "a User-Agent header: name/version first, ASCII, at most 1024 characters",
    Signal.ACCEPT_LANGUAGE: "an Accept-Language header, as in de-CH,de;q=0.9",
    Signal.HEADER: "1 to 1024 ASCII characters, no control characters, not only blanks",
}


def user_id(text: str) -> str:
    """Return `text` if it can be a user id. ValueError: why not.

    Its code points are the identity: nothing is folded, trimmed or normalised.
    """
    _storable(text)
    if not 1 <= len(text) <= USER_ID:
        raise ValueError(f"a user id has 1 to {USER_ID} characters")
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("a user id has no control characters")
    if text != text.strip():
        raise ValueError("a user id neither begins nor ends with white space")
    return text


def session_id(text: str) -> SessionId:
    """Return `text` if it can be a session id. ValueError: it is not."""
    if not SESSION_ID.fullmatch(text):
        raise ValueError("a session id is a UUID in lower case")
    return SessionId(text)


def lease(text: str) -> str:
    """Return `text` if it can be a lease. ValueError: it is none that a lock was ever held by."""
    if not LEASE.fullmatch(text):
        raise ValueError("a lease is sgl_ and 43 more characters, as the lock's answer has it")
    return text


def text(given: str) -> str:
    """Take any text a store can hold, up to 512 characters."""
    _storable(given)
    if len(given) > TEXT:
        raise ValueError(f"at most {TEXT} characters")
    return given


def some_text(given: str) -> str:
    """Take any text but none."""
    if not given:
        raise ValueError(f"1 to {TEXT} characters")
    return text(given)


def label(given: str) -> str:
    """Take a name or a reason: 1 to 128 printable characters."""
    _storable(given)
    if len(given) > LABEL or not PRINTABLE.fullmatch(given):
        raise ValueError(f"1 to {LABEL} printable characters")
    return given


def address(text: str) -> str:
    """Take an IP address, and spell it canonically."""
    if "%" in text:  # a zone names an interface of one machine
        raise ValueError("an IP address without a zone")
    try:
        return str(ip_address(text))
    except ValueError:  # its message repeats the input
        raise ValueError("an IPv4 or IPv6 address") from None


def scope_list(scopes: list[str]) -> list[str]:
    """Take scopes, and drop repetitions."""
    if len(scopes) > SCOPES:
        raise ValueError(f"at most {SCOPES} scopes")
    if len(" ".join(scopes)) > SCOPES_BYTES:
        raise ValueError(f"the scopes take at most {SCOPES_BYTES} bytes, joined by spaces")
    return list(dict.fromkeys(scopes))


def scope(text: str) -> str:
    """Take one scope as RFC 6749 spells it."""
    if not SCOPE.fullmatch(text):
        raise ValueError('a scope is printable ASCII without space, " and \\ (RFC 6749 3.3)')
    if len(text) > SCOPES_BYTES:
        raise ValueError(f"a scope has at most {SCOPES_BYTES} characters")
    return text


def json_object(metadata: dict[str, Any]) -> dict[str, Any]:
    """Take any JSON object of up to 16 KiB as compact UTF-8."""
    _check_storable(metadata)
    encoded = json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()
    if len(encoded) > _METADATA_BYTES:
        raise ValueError(f"{len(encoded)} bytes of JSON, at most {_METADATA_BYTES} are kept")
    return metadata


def showable(signal: Signal, text: str) -> str:
    """Take what a request can show: a session bound to anything else would open for nobody."""
    if reduced(signal, text, DEFAULT_WIDTHS) is None:
        raise ValueError(_SHOWABLE[signal])
    return text


def network(text: str) -> IPv4Network | IPv6Network:
    """Read an IP prefix, as in 203.0.113.0/24; an address alone is the network of itself."""
    if "%" in text:
        raise ValueError("an IP prefix without a zone")
    try:
        return ip_network(text)
    except ValueError:
        raise ValueError("an IP prefix without host bits, as in 203.0.113.0/24") from None


def moment(text: str) -> datetime:
    """Read a moment as RFC 3339 spells it, zone included."""
    try:
        read = datetime.fromisoformat(text) if MOMENT.fullmatch(text) else None
    except ValueError:
        read = None
    if read is None or not 1 < read.year < 9999:  # so that no zone leads out of the calendar
        raise ValueError("a moment with its zone, as in 2026-03-04T12:00:00Z")
    return read


def _check_storable(value: object) -> None:
    """Walk a document that `strict_json` read, hence one that is not deep."""
    match value:
        case str():
            _storable(value)
        case dict():
            for name, member in value.items():
                _storable(name)
                _check_storable(member)
        case list():
            for item in value:
                _check_storable(item)
        case int() if not -(2**63) <= value < 2**63:
            raise ValueError("an integer does not fit 64 bits; send it as a string")
        case _:
            pass


def _storable(text: str) -> None:
    """Refuse what no store can hold: Postgres has no NUL, UTF-8 has no surrogates."""
    if "\0" in text:
        raise ValueError("no NUL characters")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("no lone surrogates")
