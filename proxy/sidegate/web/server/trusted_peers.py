"""Who may ask the gate: the listed networks, and whoever can open our Unix socket."""

import logging
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Network = IPv4Network | IPv6Network

_log: Final = logging.getLogger("sidegate.gate")


class TrustedPeers:
    """Knows whom to trust, and has the others counted."""

    def __init__(self, trusted: Iterable[Network], *, refused: Callable[[], None]) -> None:
        """`refused` is called for each request, and for each connection too many, of the others."""
        self.refused = refused
        self._trusted = tuple(trusted)
        # Gateways are few and ask often.
        self._trusts_host = lru_cache(maxsize=1024)(self._look_up)

    def trust(self, peername: object) -> bool:
        """Say whether to trust the other end of a socket, by the name the socket has for it.

        That is a tuple, but for a Unix socket a path.
        """
        match peername:
            case None:  # has left, and who it was cannot be told any more
                return False
            case (str(host), *_):
                return self._trusts_host(host)
            case _:
                return True  # through our Unix socket

    def _look_up(self, host: str) -> bool:
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        trusted = any(address in network for network in self._trusted)
        if not trusted:  # once per host, as long as it is remembered
            _log.warning("%s is refused: it is not in gate.trusted_peers", host)
        return trusted
