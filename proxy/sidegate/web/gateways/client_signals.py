"""Read from a request's head what its client shows, for sessions bound to their clients."""

from collections.abc import Collection
from dataclasses import dataclass

from sidegate.core.binding import Signal, Signals
from sidegate.web.server.header_lines import Roles, only
from sidegate.web.server.messages import Head


@dataclass(frozen=True, slots=True)
class SignalSources:
    """Which signals are read, and where.

    The address is whatever the gateway states. `header` is the lower-case name of the header that
    is a signal. `trusted_hops`: so many addresses at the end of a list are proxies of our own.
    """

    wanted: Collection[Signal] = frozenset()
    header: bytes | None = None
    trusted_hops: int = 0

    def roles(self) -> Roles:
        """Return the headers that have to be gathered for this."""
        roles = {}
        if Signal.USER_AGENT in self.wanted:
            roles["user_agent"] = b"user-agent"
        if Signal.ACCEPT_LANGUAGE in self.wanted:
            roles["accept_language"] = b"accept-language"
        if Signal.HEADER in self.wanted and self.header is not None:
            roles["device"] = self.header
        return roles

    def read(self, head: Head, *, listed: bool = False) -> Signals | None:
        """Return what the client shows; None: nobody wants to know.

        `listed`: the address is the last but our proxies' of a list; what stands before it the
        client may have written.
        """
        if not self.wanted:
            return None
        address = only(head.client)
        return Signals(
            ip=self._last(address) if listed else address,
            user_agent=only(head.user_agent),
            accept_language=only(head.accept_language),
            header=only(head.device),
        )

    def _last(self, addresses: str | None) -> str | None:
        if addresses is None:
            return None
        listed = addresses.split(",")
        return listed[-1 - self.trusted_hops] if len(listed) > self.trusted_hops else None
