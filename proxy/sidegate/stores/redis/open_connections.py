"""The connections to Redis that are open, and those of them that are idle."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from redis.exceptions import MaxConnectionsError

from sidegate.stores.redis.pipelines import PipelinedConnection
from sidegate.stores.redis.topology import Pool

# Scans for idle connections within `max_idle` seconds.
_SCANS_PER_MAX_IDLE: Final = 30

# Connections to one server.
_MAX_OPEN: Final = 64


@dataclass(slots=True)
class _Idle:
    connection: PipelinedConnection
    since: float


class OpenConnections:
    """The connections to each server, by the pool of the client library that made them.

    The one that was put back last is taken first: after a load peak the surplus ones stay idle.
    """

    def __init__(self, max_idle: float, *, monotonic: Callable[[], float]) -> None:
        """Close connections that have been idle for `max_idle` seconds."""
        self._max_idle = max_idle
        self._monotonic = monotonic
        self._open: dict[Pool, set[PipelinedConnection]] = {}
        self._idle: dict[Pool, list[_Idle]] = {}
        self._next_scan = 0.0

    def require_room(self, pool: Pool) -> None:
        """Raise MaxConnectionsError if there are too many to open another one."""
        if len(self._open.get(pool, ())) >= _MAX_OPEN:
            raise MaxConnectionsError("Too many connections")

    def add(self, pool: Pool, connection: PipelinedConnection) -> None:
        """Count a new connection, which is not idle, until it is closed."""
        connections = self._open.setdefault(pool, set())
        connections.add(connection)
        connection.closed.add_done_callback(lambda _: connections.discard(connection))

    def take_idle(self, pool: Pool) -> PipelinedConnection | None:
        """Return the connection that was put back last, or None if none is idle."""
        idle = self._idle.get(pool)
        while idle:
            connection = idle.pop().connection
            if not connection.is_closing and _leads_to_primary(connection, pool):
                return connection
            connection.close()
        return None

    def put_back(self, pool: Pool, connection: PipelinedConnection) -> None:
        """Keep a connection as idle, unless it is closing; close those idle for too long."""
        now = self._monotonic()
        if not connection.is_closing:
            self._idle.setdefault(pool, []).append(_Idle(connection, now))
        if now >= self._next_scan:
            self._next_scan = now + self._max_idle / _SCANS_PER_MAX_IDLE
            self._close_idle(now)

    async def close(self) -> None:
        """Close all connections."""
        connections = [each for pool in self._open.values() for each in pool]
        for connection in connections:
            connection.close()
        await asyncio.gather(*(connection.closed for connection in connections))

    def _close_idle(self, now: float) -> None:
        for idle in self._idle.values():
            for each in idle:
                if now - each.since >= self._max_idle:
                    each.connection.close()
            idle[:] = [each for each in idle if not each.connection.is_closing]


def _leads_to_primary(connection: PipelinedConnection, pool: Pool) -> bool:
    """Return False if Sentinels have named another primary since it was opened."""
    primary = getattr(pool, "master_address", None)
    return primary is None or primary == connection.address
