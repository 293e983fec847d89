"""Peers that may use the gate: the listed networks, and every client of its Unix socket."""

import logging
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from sidegate.core.client_ip import unmap

Network = IPv4Network | IPv6Network

_log: Final = logging.getLogger("sidegate.gate")


class TrustedPeers:
    """Networks of trusted peers, and a callback for refused ones."""

    def __init__(self, trusted: Iterable[Network], *, on_refused: Callable[[], None]) -> None:
        """`on_refused`: called for each request and each surplus connection of other peers."""
        self.on_refused = on_refused
        self._trusted = tuple(trusted)
        # Few gateways send many requests.
        self._is_trusted_host = lru_cache(maxsize=1024)(self._look_up_host)

    def is_trusted(self, peername: object) -> bool:
        """Return whether a socket's peer is trusted.

        `peername` is a tuple for TCP, a path for Unix sockets, None if the peer has gone.
        """
        match peername:
            case None:
                return False
            case (str(host), *_):
                return self._is_trusted_host(host)
            case _:
                return True  # file permissions guard the Unix socket

    def _look_up_host(self, host: str) -> bool:
        address = unmap(ip_address(host.partition("%")[0]))
        trusted = any(address in network for network in self._trusted)
        if not trusted:  # logged once per cached host
            _log.warning(
                "untrusted peer refused", extra={"peer": host, "setting": "gate.trusted_peers"}
            )
        return trusted
