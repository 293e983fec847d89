"""Read from a request's header lines what its client shows, for sessions bound to their clients."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from proxy.core.binding import Signal, Signals
from proxy.web.lines import Lines, only

_NAMES: Final = {
    Signal.USER_AGENT: b"user-agent",
    Signal.ACCEPT_LANGUAGE: b"accept-language",
}


@dataclass(frozen=True, slots=True)
class SignalSources:
    """Which signals are read, and where.

    The address is whatever the gateway states. `header` is the lower-case name of the header that
    is a signal. `trusted_hops`: so many addresses at the end of a list are proxies of our own.
    """

    wanted: Collection[Signal] = frozenset()
    header: bytes | None = None
    trusted_hops: int = 0
    headers: frozenset[bytes] = field(init=False)

    def __post_init__(self) -> None:
        named = {self._name(signal) for signal in self.wanted}
        object.__setattr__(self, "headers", frozenset(named - {None}))

    def read(self, lines: Lines, *, address: str | None, listed: bool = False) -> Signals | None:
        """Return what the client shows; None: nobody wants to know.

        `listed`: the address is the last but our proxies' of a list; what stands before it the
        client may have written.
        """
        if not self.wanted:
            return None
        return Signals(
            ip=self._last(address) if listed else address,
            user_agent=self._shown(lines, Signal.USER_AGENT),
            accept_language=self._shown(lines, Signal.ACCEPT_LANGUAGE),
            header=self._shown(lines, Signal.HEADER),
        )

    def _last(self, addresses: str | None) -> str | None:
        if addresses is None:
            return None
        listed = addresses.split(",")
        return listed[-1 - self.trusted_hops] if len(listed) > self.trusted_hops else None

    def _shown(self, lines: Lines, signal: Signal) -> str | None:
        name = self._name(signal)
        return None if name is None or signal not in self.wanted else only(lines, name)

    def _name(self, signal: Signal) -> bytes | None:
        return self.header if signal is Signal.HEADER else _NAMES.get(signal)
