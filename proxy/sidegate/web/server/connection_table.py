"""The connections of a listener by peer, and room for a new one where a limit is reached.

At a limit the connection that has been idle longest is closed for the new one, so that the next
request is answered however many idle connections are held. It is one of the same peer if that peer
is at its limit, else one of the peer that has the most.
"""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

_Connection = TypeVar("_Connection")

UNIX_PEER: Final = ""
"""The peer of every connection to a Unix socket."""


class _Peer(Generic[_Connection]):
    """The connections of one peer; the idle ones in the order in which they became idle."""

    def __init__(self) -> None:
        self.busy = set[_Connection]()
        self.idle = dict[_Connection, None]()

    def __len__(self) -> int:
        return len(self.busy) + len(self.idle)


class ConnectionTable(Generic[_Connection]):
    """Counts connections, and selects those that may be closed."""

    def __init__(self, *, max_connections: int, max_per_peer: int) -> None:
        """`max_per_peer` does not apply to a Unix socket, whose clients are all one peer."""
        self._max_connections = max_connections
        self._max_per_peer = max_per_peer
        self._peers: dict[str, _Peer[_Connection]] = {}
        self._peer_names: dict[_Connection, str] = {}

    def __len__(self) -> int:
        return len(self._peer_names)

    def is_full_for(self, peer: str) -> bool:
        """Return whether a limit forbids one more connection of `peer`."""
        return len(self) >= self._max_connections or self._is_peer_full(peer)

    def remove_idle_for(self, peer: str) -> _Connection | None:
        """Remove the idle connection to be closed for a new one of `peer`. None: all are busy."""
        full = [self._peers[peer]] if self._is_peer_full(peer) else self._by_size()
        for each in full:
            if each.idle:
                connection = next(iter(each.idle))
                self.remove(connection)
                return connection
        return None

    def add(self, connection: _Connection, peer: str) -> None:
        """Add a connection, idle at first."""
        self._peer_names[connection] = peer
        self._peers.setdefault(peer, _Peer()).idle[connection] = None

    def set_busy(self, connection: _Connection, *, busy: bool) -> None:
        """Note the start or the end of a request on a connection, unless it was removed."""
        name = self._peer_names.get(connection)
        if name is None:
            return
        peer = self._peers[name]
        if busy:
            peer.idle.pop(connection, None)
            peer.busy.add(connection)
        else:
            peer.busy.discard(connection)
            peer.idle[connection] = None

    def remove(self, connection: _Connection) -> None:
        """Remove a closed connection, unless it was removed before."""
        name = self._peer_names.pop(connection, None)
        if name is None:
            return
        peer = self._peers[name]
        peer.busy.discard(connection)
        peer.idle.pop(connection, None)
        if not peer:
            del self._peers[name]

    def _is_peer_full(self, peer: str) -> bool:
        known = self._peers.get(peer)
        return known is not None and peer != UNIX_PEER and len(known) >= self._max_per_peer

    def _by_size(self) -> Iterator[_Peer[_Connection]]:
        return iter(sorted(self._peers.values(), key=len, reverse=True))


def get_peer(peername: object) -> str:
    """Return the address of a socket's peer without its port."""
    match peername:
        case (str(host), *_):
            return host
        case _:
            return UNIX_PEER
