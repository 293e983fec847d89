"""The server that holds a key: a single one, the primary of a Sentinel set, or a Cluster node."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import ClusterNode, NodesManager
from redis.asyncio.connection import AbstractConnection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisClusterException, RedisError

from sidegate.core.redis_url import RedisForm, RedisUrl
from sidegate.core.store_url import Host
from sidegate.stores.client_context import ClientContext
from sidegate.stores.connection_log import ConnectionLog
from sidegate.stores.redis.reasons import describe_error
from sidegate.stores.redis.sentinels import Sentinels
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
# Instead of an address, in the log: any node answers.
_SLOT_MAP: Final = "slot map"


# Seconds, at least, to connect with TLS: a handshake takes two round trips and some CPU time.
_MIN_TLS_TIMEOUT: Final = 0.25


class _TlsConnection(SSLConnection):
    """A connection with the context that all connections share."""

    def __init__(self, *, tls: ClientContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context = tls  # type: ignore[assignment]  # only its get() is called


class _SentinelTlsConnection(SentinelManagedConnection, _TlsConnection):
    """A connection to the primary that Sentinels name."""


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

    They have no timeout after connecting, since all requests have one. Where the client library
    writes with a timeout, `wait_for` of Python 3.11 may lose a cancellation.
    """
    return _options(timeout, redis_connect_func=on_connect, **extra) | {"socket_timeout": None}


class Topology(ABC):
    """Finds the connection pool of the server that holds a key."""

    is_cluster = False

    @property
    def only_pool(self) -> Pool | None:
        """The pool of the server that holds every key; None if there are several servers."""
        return None

    @abstractmethod
    async def get_pool(self, key: bytes) -> Pool:
        """Return the pool for the server that holds `key`; it may have to be looked up first."""

    def mark_stale(self) -> None:  # noqa: B027  # most topologies have no map
        """Look up the servers again soon: one was unreachable, or not the right one."""

    @abstractmethod
    async def close(self) -> None: ...


class SingleServer(Topology):
    """A single server, or the primary of a Sentinel set."""

    def __init__(self, pool: Pool, sentinels: Sentinels | None = None) -> None:
        self._pool = pool
        self._sentinels = sentinels

    @property
    def only_pool(self) -> Pool:
        return self._pool

    async def get_pool(self, key: bytes) -> Pool:  # noqa: ARG002  # holds every key
        return self._pool

    async def close(self) -> None:
        await self._pool.aclose()
        if self._sentinels is not None:
            await self._sentinels.aclose()


class Cluster(Topology):
    """A Redis Cluster. The library only reads its slot map; the connections are ours.

    A map that was read during a failover may still name the failed node; the next request to that
    node marks the map as stale again.
    """

    is_cluster = True

    def __init__(
        self,
        # Not a RedisCluster, which would first send a command to a node that may be down.
        slot_map: NodesManager,
        options: dict[str, Any],
        *,
        log: ConnectionLog,
        monotonic: Callable[[], float],
    ) -> None:
        self._map = slot_map
        self._seed_nodes = dict(slot_map.startup_nodes)
        self._options = options
        self._log = log
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
        node: ClusterNode = self._map.get_node_from_slot(key_slot(key))
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
        try:
            await self._map.initialize()
        except (RedisError, RedisClusterException, OSError) as error:
            self._log.record_failure(_SLOT_MAP, describe_error(error))
            raise
        self._log.record_success(_SLOT_MAP)
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
    url: RedisUrl,
    on_connect: OnConnect,
    *,
    timeout: float,
    log: ConnectionLog,
    monotonic: Callable[[], float] = time.monotonic,
) -> Topology:
    """Return the topology that `url` describes.

    Connecting to a server, and reading the location of a key, may take `timeout` seconds. What
    fails apart from the connections of a pool is logged in `log`.
    """
    tls = None if url.tls is None else ClientContext(url.tls, store="redis")
    data = _data_options(timeout, on_connect, **_read_credentials(url)) | _tls_options(tls, timeout)
    match url.form:
        case RedisForm.SENTINEL:
            return _build_sentinel(url, data, tls=tls, timeout=timeout, log=log)
        case RedisForm.CLUSTER:
            slots = _options(timeout, **_read_credentials(url)) | _tls_options(tls, timeout)
            nodes = [ClusterNode(host.name, host.port, **slots) for host in url.hosts]
            slot_map = NodesManager(nodes, require_full_coverage=True, connection_kwargs=slots)
            return Cluster(slot_map, data, log=log, monotonic=monotonic)
        case RedisForm.SERVER:
            return SingleServer(ConnectionPool(**_address_options(url.hosts[0]), **data, db=url.db))


def _build_sentinel(
    url: RedisUrl,
    data: dict[str, Any],
    *,
    tls: ClientContext | None,
    timeout: float,
    log: ConnectionLog,
) -> Topology:
    own = {"username": url.sentinel_username, "password": url.sentinel_password}
    options = _options(timeout, **own) | _tls_options(tls, timeout)
    sentinels = Sentinels(
        url.hosts,
        build_pool=lambda host: ConnectionPool(**_address_options(host), **options),
        log=log,
    )
    data["connection_class"] = SentinelManagedConnection if tls is None else _SentinelTlsConnection
    return SingleServer(
        SentinelConnectionPool(url.service, sentinels, **data, db=url.db), sentinels
    )


def _address_options(host: Host) -> dict[str, Any]:
    if host.is_socket:
        return {"connection_class": UnixDomainSocketConnection, "path": host.name}
    return {"host": host.name, "port": host.port}


def _tls_options(tls: ClientContext | None, timeout: float) -> dict[str, Any]:
    if tls is None:
        return {}
    return {
        "connection_class": _TlsConnection,
        "tls": tls,
        "socket_connect_timeout": max(timeout, _MIN_TLS_TIMEOUT),
    }


def _read_credentials(url: RedisUrl) -> dict[str, str | None]:
    return {"username": url.username, "password": url.password}
