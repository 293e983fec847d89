"""Read client signals from a head, for sessions bound to their clients."""

from collections.abc import Collection
from dataclasses import dataclass

from sidegate.core.binding import Signal, Signals
from sidegate.web.server.header_lines import Roles, parse_single_value
from sidegate.web.server.messages import Head


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

    def _client_address(self, addresses: str | None) -> str | None:
        if addresses is None:
            return None
        items = addresses.split(",")
        return items[-1 - self.trusted_hops] if len(items) > self.trusted_hops else None
