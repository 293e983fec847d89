"""Where in Redis a key lives: one server, the primary of a Sentinel set, or a Cluster's node.

redis://[user:password@]host:port/db        rediss:// for TLS        unix:///path
redis+sentinel://[user:password@]host1:port,host2:port/service[/db]
redis+cluster://[user:password@]host1:port,host2:port
                                            rediss+sentinel, rediss+cluster for TLS
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import ConnectionPool, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from sidegate.stores.share import share

Pool = ConnectionPool

Greet = Callable[[AbstractConnection], Awaitable[None]]
"""Called once for each connection made to a data server, before anything else is asked of it."""

# A wrong or slow answer is worth nothing to a check that has 150 ms, so nothing is tried twice and
# nothing is waited for; the breaker does the trying again. RESP2: with RESP3's notifications on,
# the pool no longer looks for unread replies before it lends a connection.
_MAX_CONNECTIONS: Final = 64

# Seconds between two readings of a Cluster's map. A node that stays dead is in doubt all the time;
# reading holds everybody up for 4 ms, and a failover takes a second at least.
_BETWEEN_READS: Final = 0.5


def _options(timeout: float, **more: Any) -> dict[str, Any]:
    return {
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "max_connections": _MAX_CONNECTIONS,
        "driver_info": None,  # one round trip less for each connection
    } | more


def _to_data(timeout: float, greet: Greet, **more: Any) -> dict[str, Any]:
    """Return the options of connections that are asked for sessions.

    Once made, they have no time-out of their own, for whoever asks has one: where the vendor writes
    with a time-out, Python 3.11's `wait_for` may lose the cancellation of whoever is writing.
    """
    return _options(timeout, redis_connect_func=greet, **more) | {"socket_timeout": None}


class Topology(ABC):
    """Finds the pool of connections that leads to a key's server."""

    @abstractmethod
    async def pool_for(self, key: bytes) -> Pool:
        """Return the pool for the server that holds `key`; may have to ask where that is."""

    def mark_stale(self) -> None:  # noqa: B027  # most forms have nothing to doubt
        """A server said or showed that it is not the right one, or none at all: look again soon."""

    @abstractmethod
    async def close(self) -> None: ...


class OneServer(Topology):
    """A single server, or whichever server a Sentinel set says is the primary."""

    def __init__(self, pool: Pool, sentinel: Sentinel | None = None) -> None:
        self._pool = pool
        self._sentinel = sentinel

    async def pool_for(self, key: bytes) -> Pool:  # noqa: ARG002  # every key lives there
        return self._pool

    async def close(self) -> None:
        await self._pool.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()


class Cluster(Topology):
    """A Redis Cluster. Its client is asked for the map only; the connections are ours.

    A map that is found before a failover is over still names the dead, and whoever follows it
    raises the next doubt.
    """

    def __init__(
        self, client: RedisCluster, options: dict[str, Any], *, monotonic: Callable[[], float]
    ) -> None:
        self._client = client
        # Not the client as a whole: it would begin with a question to a node that may be dead.
        self._map = client.nodes_manager
        self._given = dict(self._map.startup_nodes)
        self._options = options
        self._monotonic = monotonic
        self._pools: dict[str, Pool] = {}
        self._reading: asyncio.Future[None] | None = None
        self._doubted = True
        self._known = False
        self._next_read = 0.0

    async def pool_for(self, key: bytes) -> Pool:
        if self._reading is None and self._must_read():
            self._reading = asyncio.ensure_future(self._read_map())
            self._reading.add_done_callback(self._has_read)
        if self._reading is not None:
            await share(self._reading)
        node: ClusterNode | None = self._client.get_node_from_key(key.decode("ascii"))
        assert node is not None  # only a replica's absence is told by None
        if node.name not in self._pools:
            self._pools[node.name] = ConnectionPool(
                host=node.host, port=int(node.port), **self._options
            )
        return self._pools[node.name]

    def mark_stale(self) -> None:
        self._doubted = True

    def _must_read(self) -> bool:
        return not self._known or (self._doubted and self._monotonic() >= self._next_read)

    async def _read_map(self) -> None:
        """Read the map for all who ask meanwhile. It is none of theirs: who leaves ends nothing.

        A doubt that is raised from now on may be about this map, too.
        """
        self._doubted = False
        for name, node in self._given.items():  # it asks only those that the last map has named
            self._map.startup_nodes.setdefault(name, node)
        await self._map.initialize()
        self._known = True

    def _has_read(self, look: asyncio.Future[None]) -> None:
        self._reading = None
        self._next_read = self._monotonic() + _BETWEEN_READS
        if look.cancelled() or look.exception() is not None:  # seen: those who wait may have left
            self._doubted = True

    async def close(self) -> None:
        if self._reading is not None:
            await asyncio.wait([self._reading])
        for pool in self._pools.values():
            await pool.aclose()
        await self._map.aclose()
        await self._map.aclose("startup_nodes")


def topology(
    url: str, greet: Greet, *, timeout: float, monotonic: Callable[[], float] = time.monotonic
) -> Topology:
    """Return the topology an URL of one of the forms above names. ValueError: none of them.

    Servers connect, and say where a key lives, within `timeout` seconds.
    """
    parts = urlsplit(url)
    scheme, _, form = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss", "unix") or form not in ("", "sentinel", "cluster"):
        raise ValueError("a Redis URL starts with redis://, rediss://, unix:// or the +forms")
    tls = scheme == "rediss"
    if form == "sentinel":
        return _sentinel(parts, timeout, greet, tls=tls)
    if form == "cluster":
        return _cluster(parts, timeout, greet, tls=tls, monotonic=monotonic)
    return OneServer(ConnectionPool.from_url(url, **_to_data(timeout, greet)))


def _sentinel(parts: SplitResult, timeout: float, greet: Greet, *, tls: bool) -> Topology:
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("a Sentinel URL names the service: redis+sentinel://host:port/service")
    sentinel = Sentinel(
        _hosts(parts, default_port=26379),
        sentinel_kwargs=_options(timeout, ssl=True) if tls else _options(timeout),
    )
    options = _to_data(timeout, greet, db=int(db or 0), **_credentials(parts))
    pool = SentinelConnectionPool(service, sentinel, ssl=tls, **options)
    return OneServer(pool, sentinel)


def _cluster(
    parts: SplitResult,
    timeout: float,
    greet: Greet,
    *,
    tls: bool,
    monotonic: Callable[[], float],
) -> Topology:
    nodes = [ClusterNode(host, port) for host, port in _hosts(parts, default_port=6379)]
    known = _credentials(parts)
    client = RedisCluster(startup_nodes=nodes, ssl=tls, **_options(timeout, **known))
    options = _to_data(timeout, greet, **known)
    if tls:
        options["connection_class"] = SSLConnection
    return Cluster(client, options, monotonic=monotonic)


def _credentials(parts: SplitResult) -> dict[str, str]:
    named = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in named.items() if value}


def _hosts(parts: SplitResult, *, default_port: int) -> list[tuple[str, int]]:
    """Read `host:port,host:port`, brackets round IPv6 addresses."""
    hosts = []
    for item in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{item}")
        if not one.hostname:
            raise ValueError("a Redis URL names its hosts: host:port, separated by commas")
        hosts.append((one.hostname, one.port or default_port))
    return hosts
