"""Read client signals from a head, for sessions bound to their clients."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sidegate.core.binding import (
    BindingMatcher,
    PrefixLengths,
    Signal,
    Signals,
    reduce_signal,
)
from sidegate.web.server.header_lines import Roles, parse_single_value
from sidegate.web.server.messages import Head

# Clients repeat their header lines, and many share some. Longer ones are not kept.
_CACHED_VALUES: Final = 2_048
_MAX_CACHED_SIZE: Final = 400


@dataclass(frozen=True, slots=True)
class SignalSources:
    """The enabled signals and their headers.

    The address is the one that the gateway states. `header` is the lower-case name of the header
    that is a signal. `trusted_hops`: how many addresses at the end of a list are trusted proxies.
    """

    enabled: Collection[Signal] = frozenset()
    header: bytes | None = None
    trusted_hops: int = 0

    def build_roles(self) -> Roles:
        """Return the headers to gather, by role."""
        roles = {}
        if Signal.USER_AGENT in self.enabled:
            roles["user_agent"] = b"user-agent"
        if Signal.ACCEPT_LANGUAGE in self.enabled:
            roles["accept_language"] = b"accept-language"
        if Signal.HEADER in self.enabled and self.header is not None:
            roles["device"] = self.header
        return roles

    def read(self, head: Head, *, is_list: bool = False) -> Signals | None:
        """Return the client signals, or None if none is enabled.

        `is_list`: the address is the last one of a list before the trusted proxies; the client can
        forge those before it.
        """
        if not self.enabled:
            return None
        address = parse_single_value(head.client)
        return Signals(
            ip=self._client_address(address) if is_list else address,
            user_agent=parse_single_value(head.user_agent),
            accept_language=parse_single_value(head.accept_language),
            header=parse_single_value(head.device),
        )

    def build_matcher(self, prefixes: PrefixLengths, *, is_list: bool = False) -> BindingMatcher:
        """Return the matcher of the raw signals of heads; `is_list` as for `read`."""
        return BindingMatcher(
            (signal, position, self._build_reduction(signal, prefixes, is_list=is_list))
            for position, signal in enumerate(Signal)
            if signal in self.enabled
        )

    def _build_reduction(
        self, signal: Signal, prefixes: PrefixLengths, *, is_list: bool
    ) -> Callable[[bytes | None], bytes | None]:
        """Return the cached function from a raw value to what is compared of it."""

        def reduce(raw: bytes) -> bytes | None:
            value = parse_single_value(raw)
            if signal is Signal.IP and is_list:
                value = self._client_address(value)
            reduced = reduce_signal(signal, value, prefixes=prefixes)
            return None if reduced is None else reduced.encode()

        return _cache_reduction(reduce)

    def _client_address(self, addresses: str | None) -> str | None:
        if addresses is None:
            return None
        items = addresses.split(",")
        return items[-1 - self.trusted_hops] if len(items) > self.trusted_hops else None


def _cache_reduction(
    reduce: Callable[[bytes], bytes | None],
) -> Callable[[bytes | None], bytes | None]:
    """Return `reduce` with a bounded cache; it returns None for what is missing or too long."""
    cached = lru_cache(maxsize=_CACHED_VALUES)(reduce)

    def reduce_short(raw: bytes | None) -> bytes | None:
        return None if raw is None or len(raw) > _MAX_CACHED_SIZE else cached(raw)

    return reduce_short
