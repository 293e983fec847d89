"""The server that holds a key: a single one, the primary of a Sentinel set, or a Cluster node.

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

from sidegate.stores.shared_future import share_future

Pool = ConnectionPool

OnConnect = Callable[[AbstractConnection], Awaitable[None]]
"""Called once for each new connection to a data server, before any other command."""

# A check has 150 ms in all, so nothing is retried here: the circuit breaker probes. RESP2: with the
# notifications of RESP3 the pool no longer looks for unread replies before it lends a connection.
_MAX_CONNECTIONS: Final = 64

# Seconds between two reads of a Cluster's slot map. It becomes stale with every request to a node
# that is down; a read delays all requests by 4 ms, and a failover takes at least a second.
_MAP_READ_INTERVAL: Final = 0.5


def _options(timeout: float, **extra: Any) -> dict[str, Any]:
    return {
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "max_connections": _MAX_CONNECTIONS,
        "driver_info": None,  # saves one round trip for each connection
    } | extra


def _data_options(timeout: float, on_connect: OnConnect, **extra: Any) -> dict[str, Any]:
    """Return the options of connections to data servers.

    They have no timeout after connecting, since BorrowedConnection has one. Where the client
    library writes with a timeout, `wait_for` of Python 3.11 may lose a cancellation.
    """
    return _options(timeout, redis_connect_func=on_connect, **extra) | {"socket_timeout": None}


class Topology(ABC):
    """Finds the connection pool of the server that holds a key."""

    @abstractmethod
    async def get_pool(self, key: bytes) -> Pool:
        """Return the pool for the server that holds `key`; it may have to be looked up first."""

    def mark_stale(self) -> None:  # noqa: B027  # most topologies have no map
        """Look up the servers again soon: one was unreachable, or not the right one."""

    @abstractmethod
    async def close(self) -> None: ...


class SingleServer(Topology):
    """A single server, or the primary of a Sentinel set."""

    def __init__(self, pool: Pool, sentinel: Sentinel | None = None) -> None:
        self._pool = pool
        self._sentinel = sentinel

    async def get_pool(self, key: bytes) -> Pool:  # noqa: ARG002  # holds every key
        return self._pool

    async def close(self) -> None:
        await self._pool.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()


class Cluster(Topology):
    """A Redis Cluster. The library's client only reads its slot map; the connections are ours.

    A map that was read during a failover may still name the failed node; the next request to that
    node marks the map as stale again.
    """

    def __init__(
        self, client: RedisCluster, options: dict[str, Any], *, monotonic: Callable[[], float]
    ) -> None:
        self._client = client
        # Not the client as a whole: it would first send a command to a node that may be down.
        self._map = client.nodes_manager
        self._seed_nodes = dict(self._map.startup_nodes)
        self._options = options
        self._monotonic = monotonic
        self._pools: dict[str, Pool] = {}
        self._reading: asyncio.Future[None] | None = None
        self._is_stale = True
        self._is_loaded = False
        self._next_read = 0.0

    async def get_pool(self, key: bytes) -> Pool:
        if self._reading is None and self._must_read():
            self._reading = asyncio.ensure_future(self._read_map())
            self._reading.add_done_callback(self._finish_reading)
        if self._reading is not None:
            await share_future(self._reading)
        node: ClusterNode | None = self._client.get_node_from_key(key.decode("ascii"))
        assert node is not None  # None only for a replica that is missing
        if node.name not in self._pools:
            self._pools[node.name] = ConnectionPool(
                host=node.host, port=int(node.port), **self._options
            )
        return self._pools[node.name]

    def mark_stale(self) -> None:
        self._is_stale = True

    def _must_read(self) -> bool:
        return not self._is_loaded or (self._is_stale and self._monotonic() >= self._next_read)

    async def _read_map(self) -> None:
        """Read the map once for all concurrent callers; cancelling one does not cancel it.

        A `mark_stale` during the read may be about the new map, so the flag is reset before it.
        """
        self._is_stale = False
        for name, node in self._seed_nodes.items():  # the library keeps only those of the last map
            self._map.startup_nodes.setdefault(name, node)
        await self._map.initialize()
        self._is_loaded = True

    def _finish_reading(self, reading: asyncio.Future[None]) -> None:
        self._reading = None
        self._next_read = self._monotonic() + _MAP_READ_INTERVAL
        if reading.cancelled() or reading.exception() is not None:  # and mark it as retrieved
            self._is_stale = True

    async def close(self) -> None:
        if self._reading is not None:
            await asyncio.wait([self._reading])
        for pool in self._pools.values():
            await pool.aclose()
        await self._map.aclose()
        await self._map.aclose("startup_nodes")


def build_topology(
    url: str,
    on_connect: OnConnect,
    *,
    timeout: float,
    monotonic: Callable[[], float] = time.monotonic,
) -> Topology:
    """Return the topology that `url` describes. Raise ValueError if it has none of the forms above.

    Connecting to a server, and reading the location of a key, may take `timeout` seconds.
    """
    parts = urlsplit(url)
    scheme, _, form = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss", "unix") or form not in ("", "sentinel", "cluster"):
        raise ValueError("a Redis URL starts with redis://, rediss://, unix:// or the +forms")
    tls = scheme == "rediss"
    if form == "sentinel":
        return _build_sentinel(parts, timeout, on_connect=on_connect, tls=tls)
    if form == "cluster":
        return _build_cluster(parts, timeout, on_connect=on_connect, tls=tls, monotonic=monotonic)
    return SingleServer(ConnectionPool.from_url(url, **_data_options(timeout, on_connect)))


def _build_sentinel(
    parts: SplitResult, timeout: float, *, on_connect: OnConnect, tls: bool
) -> Topology:
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("a Sentinel URL names the service: redis+sentinel://host:port/service")
    sentinel = Sentinel(
        _parse_hosts(parts, default_port=26379),
        sentinel_kwargs=_options(timeout, ssl=True) if tls else _options(timeout),
    )
    options = _data_options(timeout, on_connect, db=int(db or 0), **_read_credentials(parts))
    pool = SentinelConnectionPool(service, sentinel, ssl=tls, **options)
    return SingleServer(pool, sentinel)


def _build_cluster(
    parts: SplitResult,
    timeout: float,
    *,
    on_connect: OnConnect,
    tls: bool,
    monotonic: Callable[[], float],
) -> Topology:
    nodes = [ClusterNode(host, port) for host, port in _parse_hosts(parts, default_port=6379)]
    credentials = _read_credentials(parts)
    client = RedisCluster(startup_nodes=nodes, ssl=tls, **_options(timeout, **credentials))
    options = _data_options(timeout, on_connect, **credentials)
    if tls:
        options["connection_class"] = SSLConnection
    return Cluster(client, options, monotonic=monotonic)


def _read_credentials(parts: SplitResult) -> dict[str, str]:
    members = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in members.items() if value}


def _parse_hosts(parts: SplitResult, *, default_port: int) -> list[tuple[str, int]]:
    """Parse `host:port,host:port`, with brackets around IPv6 addresses."""
    hosts = []
    for item in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{item}")
        if not one.hostname:
            raise ValueError("a Redis URL names its hosts: host:port, separated by commas")
        hosts.append((one.hostname, one.port or default_port))
    return hosts
