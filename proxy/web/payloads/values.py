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

from proxy.core.binding import DEFAULT_WIDTHS, Signal, reduced
from proxy.core.lock import LEASE
from proxy.core.session import SessionId

_USER_ID: Final = 256
_TEXT: Final = 512
_LABEL: Final = 128
_SCOPES: Final = 64
_SCOPES_BYTES: Final = 2048
_METADATA_BYTES: Final = 16 * 1024
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+", re.ASCII)  # RFC 6749 3.3
_SESSION_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_MOMENT: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)", re.ASCII
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
    if not 1 <= len(text) <= _USER_ID:
        raise ValueError(f"a user id has 1 to {_USER_ID} characters")
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("a user id has no control characters")
    if text != text.strip():
        raise ValueError("a user id neither begins nor ends with white space")
    return text


def session_id(text: str) -> SessionId:
    """Return `text` if it can be a session id. ValueError: it is not."""
    if not _SESSION_ID.fullmatch(text):
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
    if len(given) > _TEXT:
        raise ValueError(f"at most {_TEXT} characters")
    return given


def label(given: str) -> str:
    """Take a name or a reason: 1 to 128 printable characters."""
    _storable(given)
    if not 1 <= len(given) <= _LABEL or not given.isprintable():
        raise ValueError(f"1 to {_LABEL} printable characters")
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
    if len(scopes) > _SCOPES:
        raise ValueError(f"at most {_SCOPES} scopes")
    if len(" ".join(scopes)) > _SCOPES_BYTES:
        raise ValueError(f"the scopes take at most {_SCOPES_BYTES} bytes, joined by spaces")
    return list(dict.fromkeys(scopes))


def scope(text: str) -> str:
    """Take one scope as RFC 6749 spells it."""
    if not _SCOPE.fullmatch(text):
        raise ValueError('a scope is printable ASCII without space, " and \\ (RFC 6749 3.3)')
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
        read = datetime.fromisoformat(text) if _MOMENT.fullmatch(text) else None
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
