"""Bind a session to its client: what a request shows is reduced, hashed and compared.

A session keeps, of each signal known at its creation, a short hash of its reduced value. What a
session keeps and a request does not show, or shows in a way nobody can read, is a mismatch: a thief
must not get in by saying less.

    ip               the network it lies in
    user_agent       family and major version: Firefox/128, curl/8
    accept_language  the first language: de-ch
    header           one header of the operator's choice, whole
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final


class Signal(StrEnum):
    """What a session can be bound to. The value is what records and metrics call it."""

    IP = "ip"
    USER_AGENT = "user_agent"
    ACCEPT_LANGUAGE = "accept_language"
    HEADER = "header"


class Policy(StrEnum):
    """What a mismatch of a signal leads to, from the mildest to the strictest."""

    OFF = "off"  # nobody looks
    LOG = "log"  # it is counted
    DENY = "deny"  # this request is refused
    REVOKE = "revoke"  # and the session ends


class Binding(bytes):
    """Whom a session is bound to: signals and their digests, packed.

    That is one value instead of a dozen: memory holds a hundred thousand of them. A signal may be
    one that only a newer version of this program knows.
    """

    __slots__ = ()

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, bytes]]) -> "Binding":
        """Pack signals and digests. ValueError: one of them has more than 255 bytes."""
        packed = bytearray()
        for name, digest in pairs:
            for text in (name.encode(*_UTF8), digest):
                packed.append(len(text))
                packed += text
        return cls(packed) or UNBOUND

    def pairs(self) -> Iterator[tuple[str, bytes]]:
        """Yield each signal and its digest."""
        start = 0
        while start < len(self):
            middle = start + 1 + self[start]
            end = middle + 1 + self[middle]
            yield self[start + 1 : middle].decode(*_UTF8), self[middle + 1 : end]
            start = end

    def __repr__(self) -> str:
        return f"Binding({', '.join(name for name, _ in self.pairs())})"


UNBOUND: Final = Binding()


@dataclass(frozen=True, slots=True)
class Signals:
    """What a client shows, as it was sent; None where it shows nothing, or contradicts itself."""

    ip: str | None = None
    user_agent: str | None = None
    accept_language: str | None = None
    header: str | None = None

    def of(self, signal: Signal) -> str | None:
        shown: str | None = getattr(self, signal)
        return shown


@dataclass(frozen=True, slots=True)
class Widths:
    """How many leading bits of an address count: a client moves within its network."""

    ipv4: int = 24
    ipv6: int = 56

    def __post_init__(self) -> None:
        if not (1 <= self.ipv4 <= 32 and 1 <= self.ipv6 <= 128):
            raise ValueError("a prefix has 1 to 32 bits (IPv4), or 1 to 128 (IPv6)")


DEFAULT_WIDTHS: Final = Widths()


def reduced(signal: Signal, shown: str | None, widths: Widths) -> str | None:
    """Return the part of a signal that counts; None: it is missing or malformed."""
    if shown is None or len(shown) > LONGEST or _CONTROL.search(shown):
        return None
    if signal is Signal.IP:
        return _network(shown, widths)
    return _REDUCTIONS[signal](shown)


def bind(session_id: str, signals: Signals, widths: Widths) -> Binding:
    """Return what the session is to keep of `signals`. ValueError: one of them is malformed."""
    return Binding.of(_bound(session_id, signals, widths))


def mismatches(
    session_id: str,
    binding: Binding,
    signals: Signals,
    widths: Widths,
    *,
    watched: Collection[Signal],
) -> Iterator[Signal]:
    """Yield each `watched` signal the session is bound to and `signals` does not agree with."""
    bound = dict(binding.pairs())
    for signal in watched:
        if signal in bound:
            value = reduced(signal, signals.of(signal), widths)
            if value is None or _digest(session_id, signal, value) != bound[signal]:
                yield signal


# Three times what browsers send: reading and remembering it must stay cheap, whoever writes it.
LONGEST: Final = 1024
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_DIGEST_BYTES: Final = 8
_UTF8: Final = ("utf-8", "surrogatepass")  # whatever a store holds can be packed

_BARE_V4: Final = re.compile(r"([0-9.]+)(?::[0-9]{1,5})?")
_BRACKETED: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?")
_LANGUAGE: Final = re.compile(r"\*|[a-z]{1,8}(?:-[a-z0-9]{1,8}){0,7}")
_MAJOR: Final = re.compile(r"[0-9]{1,5}")
_PRODUCT: Final = re.compile(r"[\x20-\x2e\x30-\x7e]{1,64}")
# Browsers name each other; the first of these that is named is the one. Safari's version stands
# behind another word.
_FAMILIES: Final = {
    "Edg": "Edge",
    "EdgA": "Edge",
    "EdgiOS": "Edge",
    "OPR": "Opera",
    "OPT": "Opera",
    "SamsungBrowser": "SamsungBrowser",
    "Firefox": "Firefox",
    "FxiOS": "Firefox",
    "HeadlessChrome": "HeadlessChrome",
    "Chrome": "Chrome",
    "CriOS": "Chrome",
    "Version": "Safari",
}


def _bound(session_id: str, signals: Signals, widths: Widths) -> Iterator[tuple[str, bytes]]:
    for signal in Signal:
        shown = signals.of(signal)
        if shown is None:
            continue
        value = reduced(signal, shown, widths)
        if value is None:
            raise ValueError(f"{signal}: nothing a request could show")
        yield signal.value, _digest(session_id, signal, value)


def _digest(session_id: str, signal: Signal, value: str) -> bytes:
    """The session's id is the key: equal clients of two sessions do not look equal in a store."""
    return blake2b(
        value.encode("utf-8", "surrogatepass"),
        digest_size=_DIGEST_BYTES,
        key=session_id.encode(),
        person=signal.encode(),
    ).digest()


def _network(shown: str, widths: Widths) -> str | None:
    address = _address(shown.strip(" "))
    if address is None:
        return None
    width = widths.ipv4 if address.version == 4 else widths.ipv6
    return f"{address.version}/{width}/{int(address) >> (address.max_prefixlen - width):x}"


@lru_cache(maxsize=4096)  # a client asks more than once; the parser takes longer than the rest
def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Some gateways add a port. A zone names an interface of one machine: it says nothing here."""
    spelled = _BARE_V4.fullmatch(text) or _BRACKETED.fullmatch(text)
    bare = text if spelled is None else spelled[1]
    if "%" in bare:
        return None
    try:
        address = ip_address(bare)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=1024)  # clients are many, their programs few
def _program(shown: str) -> str | None:
    if shown.startswith("Mozilla/"):
        words = _words(shown)
        for name, family in _FAMILIES.items():
            if name in words and (family != "Safari" or "Safari" in words):
                return f"{family}/{words[name]}"
    name, _, version = shown.partition("/")
    product = name.strip(" ")
    return f"{product}/{_major(version)}" if _PRODUCT.fullmatch(product) else None


def _words(shown: str) -> Mapping[str, str]:
    """Return the major version of each `name/version` in the text, the first of each name."""
    named = [word.partition("/") for word in shown.split(" ")]
    return {name: _major(version) for name, slash, version in reversed(named) if slash}


def _major(version: str) -> str:
    digits = _MAJOR.match(version)
    return "" if digits is None else digits[0]


def _language(shown: str) -> str | None:
    first = shown.partition(",")[0].partition(";")[0].strip(" ").lower()
    return first if _LANGUAGE.fullmatch(first) else None


def _whole(shown: str) -> str | None:
    """Beyond ASCII it depends on the program which characters a header's bytes are."""
    return (shown.strip(" ") or None) if shown.isascii() else None


_REDUCTIONS: Final[Mapping[Signal, Callable[[str], str | None]]] = {
    Signal.USER_AGENT: _program,
    Signal.ACCEPT_LANGUAGE: _language,
    Signal.HEADER: _whole,
}
