"""Client binding: hash the reduced client signals of a session and compare them with a request's.

A session stores a short hash of the reduced value of each signal known at its creation. A bound
signal that a request lacks, or sends malformed, is a mismatch: a stolen token must not pass by
omitting signals.

    ip               the network of the address
    user_agent       family and major version: Firefox/128, curl/8
    accept_language  the first language: de-ch
    header           the whole value of one configured header
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain, combinations
from typing import Final

from sidegate.core.client_ip import unmap


class Signal(StrEnum):
    """A client signal a session can be bound to. The value is its name in records and metrics."""

    IP = "ip"
    USER_AGENT = "user_agent"
    ACCEPT_LANGUAGE = "accept_language"
    HEADER = "header"


class BindingPolicy(StrEnum):
    """The effect of a mismatch of a signal, from the mildest to the strictest."""

    OFF = "off"  # the signal is not compared
    LOG = "log"  # the mismatch is counted
    DENY = "deny"  # the request is refused
    REVOKE = "revoke"  # the request is refused and the session revoked


class Binding(bytes):
    """The signals a session is bound to and their hashes, packed into bytes.

    One object instead of a dozen, because memory holds 100,000 of them. It may contain signals that
    only a newer version of Sidegate knows.
    """

    __slots__ = ()

    @classmethod
    def pack(cls, pairs: Iterable[tuple[str, bytes]]) -> "Binding":
        """Pack signal names and hashes. Raise ValueError if one has more than 255 bytes."""
        packed = b"".join([_pack_name(name, len(hash_)) + hash_ for name, hash_ in pairs])
        return cls(packed) or UNBOUND

    def pairs(self) -> Iterator[tuple[str, bytes]]:
        """Yield each signal's name and hash."""
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
    """The raw client signals of a request; None for one that is missing or ambiguous."""

    ip: str | None = None
    user_agent: str | None = None
    accept_language: str | None = None
    header: str | None = None

    def get(self, signal: Signal) -> str | None:
        value: str | None = getattr(self, signal)
        return value


@dataclass(frozen=True, slots=True)
class PrefixLengths:
    """The number of leading address bits that are compared: clients move within their network."""

    ipv4: int = 24
    ipv6: int = 56

    def __post_init__(self) -> None:
        if not (1 <= self.ipv4 <= 32 and 1 <= self.ipv6 <= 128):
            raise ValueError("a prefix length is 1 to 32 (IPv4) or 1 to 128 (IPv6)")


DEFAULT_PREFIX_LENGTHS: Final = PrefixLengths()


def reduce_signal(signal: Signal, value: str | None, *, prefixes: PrefixLengths) -> str | None:
    """Return the part of a signal that is compared, or None if it is missing or malformed."""
    if value is None or len(value) > MAX_LENGTH or _CONTROL.search(value):
        return None
    if signal is Signal.IP:
        return _reduce_ip(value, prefixes)
    return _REDUCTIONS[signal](value)


def bind(session_id: str, signals: Signals, *, prefixes: PrefixLengths) -> Binding:
    """Return the binding of a session to `signals`. Raise ValueError if one is malformed."""
    return Binding.pack(_hash_signals(session_id, signals, prefixes=prefixes))


def find_mismatches(
    session_id: str,
    binding: Binding,
    *,
    signals: Signals,
    prefixes: PrefixLengths,
    watched: Collection[Signal],
) -> Iterator[Signal]:
    """Yield each `watched` signal that is bound and differs in `signals`, missing ones included."""
    bound = dict(binding.pairs())
    for signal in Signal:
        if signal in watched and signal in bound:
            value = reduce_signal(signal, signals.get(signal), prefixes=prefixes)
            if value is None or _hash_signal(session_id, signal, value=value) != bound[signal]:
                yield signal


class BindingMatcher:
    """Finds fast that all signals match, which is usual; `find_mismatches` does the rest."""

    def __init__(
        self, reductions: Iterable[tuple[Signal, int, Callable[[bytes | None], bytes | None]]]
    ) -> None:
        """`reductions`: the watched signals, in the order of Signal.

        Each has the position of its raw value, and a function that returns what is compared of it,
        or None if `find_mismatches` has to decide.
        """
        watched = [
            (_pack_name(signal.value, _HASH_SIZE), signal.encode(), position, reduce)
            for signal, position, reduce in reductions
        ]
        subsets = chain.from_iterable(combinations(watched, n) for n in range(len(watched) + 1))
        # The size of a binding tells which of these it has. If it has others, it differs.
        self._by_size = {sum(len(name) + _HASH_SIZE for name, *_ in each): each for each in subsets}

    def matches(
        self, session_id: str, binding: bytes, *, raw_values: Sequence[bytes | None]
    ) -> bool:
        """Return whether the session is bound to watched signals alone, and to these values."""
        key, expected = session_id.encode(), b""
        for name, person, position, reduce in self._by_size.get(len(binding), ()):
            value = reduce(raw_values[position])
            if value is None:
                return False
            hash_ = blake2b(value, digest_size=_HASH_SIZE, key=key, person=person)
            expected += name + hash_.digest()
        return expected == binding


# Characters. Three times what browsers send: parsing and caching it must stay cheap.
MAX_LENGTH: Final = 1024
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_HASH_SIZE: Final = 8  # bytes
_UTF8: Final = ("utf-8", "surrogatepass")  # any text a store returns can be packed

_BARE_V4: Final = re.compile(r"([0-9.]+)(?::[0-9]{1,5})?")
_BRACKETED: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?")
_LANGUAGE: Final = re.compile(r"\*|[a-z]{1,8}(?:-[a-z0-9]{1,8}){0,7}")
_MAJOR: Final = re.compile(r"[0-9]{1,5}")
_PRODUCT: Final = re.compile(r"[\x20-\x2e\x30-\x7e]{1,64}")
# Browsers name each other, so the first product of this table that occurs decides. Safari has its
# version in another product, `Version`.
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


def _hash_signals(
    session_id: str, signals: Signals, *, prefixes: PrefixLengths
) -> Iterator[tuple[str, bytes]]:
    for signal in Signal:
        raw = signals.get(signal)
        if raw is None:
            continue
        value = reduce_signal(signal, raw, prefixes=prefixes)
        if value is None:
            raise ValueError(f"{signal}: not a value that a request can have")
        yield signal.value, _hash_signal(session_id, signal, value=value)


def _hash_signal(session_id: str, signal: Signal, *, value: str) -> bytes:
    """Hash with the session id as the key: equal clients of two sessions have unequal hashes."""
    return blake2b(
        value.encode(*_UTF8),
        digest_size=_HASH_SIZE,
        key=session_id.encode(),
        person=signal.encode(),
    ).digest()


@lru_cache(maxsize=64)  # only newer versions have others than Signal
def _pack_name(name: str, hash_size: int) -> bytes:
    """Return what precedes the hash of a signal. Raise ValueError if one has over 255 bytes."""
    text = name.encode(*_UTF8)
    return bytes([len(text)]) + text + bytes([hash_size])


def _reduce_ip(value: str, prefixes: PrefixLengths) -> str | None:
    address = _parse_ip(value.strip(" "))
    if address is None:
        return None
    length = prefixes.ipv4 if address.version == 4 else prefixes.ipv6
    return f"{address.version}/{length}/{int(address) >> (address.max_prefixlen - length):x}"


@lru_cache(maxsize=4096)  # clients repeat requests, and parsing takes longer than the rest
def _parse_ip(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address, with the port that some gateways add.

    Return None for an address with a zone: a zone has a meaning on one machine only.
    """
    match = _BARE_V4.fullmatch(text) or _BRACKETED.fullmatch(text)
    bare = text if match is None else match[1]
    if "%" in bare:
        return None
    try:
        return unmap(ip_address(bare))
    except ValueError:
        return None


@lru_cache(maxsize=1024)  # many clients share few user agents
def _reduce_user_agent(value: str) -> str | None:
    if value.startswith("Mozilla/"):
        products = _parse_products(value)
        for name, family in _FAMILIES.items():
            if name in products and (family != "Safari" or "Safari" in products):
                return f"{family}/{products[name]}"
    name, _, version = value.partition("/")
    product = name.strip(" ")
    return f"{product}/{_parse_major(version)}" if _PRODUCT.fullmatch(product) else None


def _parse_products(value: str) -> Mapping[str, str]:
    """Return the major version of each `name/version`, the first one of each name."""
    products = [word.partition("/") for word in value.split(" ")]
    return {name: _parse_major(version) for name, slash, version in reversed(products) if slash}


def _parse_major(version: str) -> str:
    digits = _MAJOR.match(version)
    return "" if digits is None else digits[0]


def _reduce_language(value: str) -> str | None:
    first = value.partition(",")[0].partition(";")[0].strip(" ").lower()
    return first if _LANGUAGE.fullmatch(first) else None


def _reduce_header(value: str) -> str | None:
    """Return the value, or None if it is not ASCII: programs decode other bytes differently."""
    return (value.strip(" ") or None) if value.isascii() else None


_REDUCTIONS: Final[Mapping[Signal, Callable[[str], str | None]]] = {
    Signal.USER_AGENT: _reduce_user_agent,
    Signal.ACCEPT_LANGUAGE: _reduce_language,
    Signal.HEADER: _reduce_header,
}
