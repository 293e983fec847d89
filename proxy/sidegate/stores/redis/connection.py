"""Connections to Redis, and what is known of the server that each leads to.

Each new connection reads the server's run_id and master_replid: the server ID. It is part of the
key of what must not outlive a restart or a failover: pending revocations, which all instances know
and restore. Copies of sessions have seals instead (core/seal.py), which every lookup reads.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final, NoReturn
from weakref import WeakKeyDictionary

import redis.exceptions
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sidegate.core.errors import StoreUnavailable
from sidegate.core.redis_url import parse_redis_url
from sidegate.core.store_url import Host
from sidegate.core.timeouts import StoreTimeout
from sidegate.stores.connection_log import ConnectionLog
from sidegate.stores.redis.open_connections import OpenConnections
from sidegate.stores.redis.pipelines import PipelinedConnection, check_replies, pack
from sidegate.stores.redis.reasons import RedisFailure, describe_error
from sidegate.stores.redis.topology import Pool, build_topology
from sidegate.stores.shared_future import share_future
from sidegate.stores.uvloop_errors import is_closed_transport_error

STORE_NAME: Final = "redis"

# Connections acquired at a time, for which further callers wait; and those borrowed without a wait.
# Together half of what a pool may hold: subscriptions and connections that are being closed need
# some, too.
_MAX_ACQUIRED: Final = 24
_MAX_BORROWED: Final = 8

# Seconds after which a connection that a load peak has opened is closed, since the server limits
# the number of its clients.
_MAX_IDLE: Final = 30.0

# Commands in one pipeline, and their arguments together: they are sent before the replies are read,
# within one timeout.
_PIPELINE_COMMANDS: Final = 256
_PIPELINE_ARGUMENTS: Final = 4_096

# Seconds without a message after which a subscription sends a PING and waits for the reply. It
# receives a heartbeat each second, unless this user may not publish.
_READ_TIMEOUT: Final = 1.5

# Sixteen of their forty digits are enough to tell servers apart.
_SERVER_ID_FIELDS: Final = re.compile(rb"^(?:run_id|master_replid):([0-9a-f]{16})", re.MULTILINE)

# All errors of the client library, whatever its version calls them, and those of the socket and the
# event loop that it passes on.
CLIENT_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(
        kind
        for kind in vars(redis.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
    OSError,
    TimeoutError,
)


class RedisClient:
    """A Redis of any topology. Every method raises StoreUnavailable if it cannot be reached."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        max_idle: float = _MAX_IDLE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect on the first command. Raise UrlError if the URL cannot be used.

        Connecting, and each pipeline, may take `timeout` seconds. A connection that has been idle
        for `max_idle` seconds is closed.
        """
        parsed = parse_redis_url(url)
        self._log = ConnectionLog(STORE_NAME, monotonic=monotonic)
        self._connections = OpenConnections(max_idle, monotonic=monotonic)
        self._server_ids: WeakKeyDictionary[AbstractConnection, str] = WeakKeyDictionary()
        self._has_tls = parsed.tls is not None
        self._timeout = timeout
        self._acquired = asyncio.Semaphore(_MAX_ACQUIRED)
        self._borrowed: set[PipelinedConnection] = set()  # without waiting
        self._releases: set[asyncio.Future[None]] = set()
        self._topology = build_topology(
            parsed, self._initialize, timeout=timeout, log=self._log, monotonic=monotonic
        )

    async def get_pool(self, key: bytes) -> Pool:
        """Return the connection pool of the server that holds `key`."""
        return await self._topology.get_pool(key)

    def acquire(self, pool: Pool) -> AbstractAsyncContextManager[PipelinedConnection]:
        """Borrow a connection, after waiting while too many are acquired."""
        return _Borrowing(self, pool, limit=self._acquired)

    def acquire_now(self, pool: Pool) -> AbstractAsyncContextManager[PipelinedConnection]:
        """Borrow a connection, however many are acquired, for as long as a round takes."""
        return _Borrowing(self, pool)

    def borrow_idle(self, pool: Pool) -> PipelinedConnection | None:
        """Return an idle connection, for `give_back`; None: there is none, or too many are used."""
        if self._acquired.locked() or len(self._borrowed) == _MAX_BORROWED:
            return None
        connection = self._connections.take_idle(pool)
        if connection is not None:
            self._borrowed.add(connection)
        return connection

    @property
    def only_pool(self) -> Pool | None:
        """The pool of the server that holds every key; None if there are several servers."""
        return self._topology.only_pool

    @property
    def is_cluster(self) -> bool:
        """Whether keys are distributed over several servers."""
        return self._topology.is_cluster

    async def run(
        self,
        name: str,
        build_commands: Callable[[str], Iterable[tuple[Any, ...]]],
        *,
        is_valid_reply: Callable[[tuple[Any, ...], Any], bool],
    ) -> list[Any]:
        """Run commands on the key for `name`, which is valid until the server restarts.

        `build_commands` receives the key. The replies are returned in order. If `is_valid_reply`
        returns False for a command and its reply, the connection is out of step and is dropped.
        """
        with translate_errors():
            async with self.acquire_now(await self.get_pool(_hash_tag(name))) as borrowed:
                key = f"{borrowed.server_id}:{_hash_tag(name).decode()}"
                replies: list[Any] = []
                for pipeline in _split_pipelines(build_commands(key)):
                    for command, reply in zip(
                        pipeline, await borrowed.execute(*pipeline), strict=True
                    ):
                        if isinstance(reply, ResponseError):
                            raise reply
                        if not is_valid_reply(command, reply):
                            raise RedisConnectionError("reply to another command")
                        replies.append(reply)
                return replies

    async def ping(self) -> None:
        """Return when Redis has answered a PING."""
        with translate_errors():
            async with self.acquire_now(await self.get_pool(b"ping")) as borrowed:
                check_replies(await borrowed.execute(("PING",)))

    async def publish(self, channel: str, messages: Iterable[bytes]) -> None:
        """Publish messages to all current subscribers."""
        with translate_errors():
            async with self.acquire_now(await self.get_pool(b"feed")) as borrowed:
                for pipeline in _split_pipelines(
                    ("PUBLISH", channel, message) for message in messages
                ):
                    check_replies(await borrowed.execute(*pipeline))

    async def subscribe(
        self, channels: Mapping[str, Callable[[bytes], None]], *, on_subscribed: Callable[[], None]
    ) -> NoReturn:
        """Call the channel's callback for each message, from `on_subscribed` on.

        Raise StoreUnavailable when the subscription ends.
        """
        callbacks = {channel.encode(): on_message for channel, on_message in channels.items()}
        with translate_errors():
            async with self._subscribe(await self.get_pool(b"feed"), channels) as connection:
                on_subscribed()
                while True:
                    match await _read_message(connection):
                        case [b"message", bytes(channel), message] if channel in callbacks:
                            # What is no string is passed on as a message that cannot be decoded.
                            callbacks[channel](message if isinstance(message, bytes) else b"")

    async def close(self) -> None:
        await asyncio.gather(*self._releases)
        await self._connections.close()
        await self._topology.close()

    async def borrow(self, pool: Pool) -> PipelinedConnection:
        """Return a connection of which nobody else has a use, for `give_back`."""
        return self._connections.take_idle(pool) or await self._open(pool)

    def give_back(
        self, pool: Pool, connection: PipelinedConnection, *, error: BaseException | None
    ) -> None:
        """Let others use it; close it after an error."""
        self._borrowed.discard(connection)
        if error is not None:
            connection.close()  # replies may be on their way
            if isinstance(error, CLIENT_ERRORS):
                self._topology.mark_stale()
        self._connections.put_back(pool, connection)

    async def _open(self, pool: Pool) -> PipelinedConnection:
        """Return a new connection. If the caller is cancelled, it is kept for the next one.

        Otherwise, where connecting takes longer than the deadline of a check, no check would ever
        get a connection.
        """
        self._connections.require_room(pool)
        opening = asyncio.ensure_future(self._open_uninterrupted(pool))
        try:
            return await share_future(opening)
        except asyncio.CancelledError:
            self._track(asyncio.ensure_future(self._keep_when_opened(pool, opening)))
            raise

    async def _open_uninterrupted(self, pool: Pool) -> PipelinedConnection:
        connection = await self._connect(pool)
        opened = PipelinedConnection(
            connection,
            server_id=self._server_ids.pop(connection),
            timeout=self._timeout,
            log=self._log,
        )
        self._connections.add(pool, opened)
        return opened

    async def _keep_when_opened(
        self, pool: Pool, opening: asyncio.Future[PipelinedConnection]
    ) -> None:
        with suppress(StoreUnavailable), translate_errors():
            self._connections.put_back(pool, await opening)

    @asynccontextmanager
    async def _subscribe(
        self, pool: Pool, channels: Iterable[str]
    ) -> AsyncIterator[AbstractConnection]:
        """Yield a connection of its own, subscribed to the channels."""
        connection = await self._connect(pool)
        try:
            async with StoreTimeout(self._timeout):
                await _execute(connection, *(("SUBSCRIBE", channel) for channel in channels))
            yield connection
        except CLIENT_ERRORS as error:
            self._topology.mark_stale()
            if isinstance(error, NoPermissionError):
                self._log.record_denial(describe_error(error))
            raise
        finally:
            await connection.disconnect(nowait=True)

    async def _connect(self, pool: Pool) -> AbstractConnection:
        """Return a connection of the client library that belongs to the caller.

        If there is none, log why, and mark the topology as stale; so even if the caller is
        cancelled: the deadline of a check ends before connecting to a host without power does.
        """
        connection: AbstractConnection = pool.make_connection()
        try:
            await connection.connect()
        except CLIENT_ERRORS as error:
            self._topology.mark_stale()
            if self._has_tls and isinstance(error, RedisTimeoutError):
                error = RedisFailure("no TLS connection in time")
            self._log.record_failure(_get_address(pool), describe_error(error))
            raise error
        return connection

    async def _initialize(self, connection: AbstractConnection) -> None:
        """Authenticate, check that the server is a primary, and read its ID.

        The run_id changes when it restarts, the master_replid when it is promoted: a server that
        was primary before, and is again, has missed the writes in between.
        """
        try:
            async with StoreTimeout(self._timeout):
                await connection.on_connect()
            async with StoreTimeout(self._timeout):
                server, role = await _execute(connection, ("INFO",), ("ROLE",))
            if not isinstance(role, list) or role[:1] != [b"master"]:
                raise RedisConnectionError("not a primary")
            ids = _SERVER_ID_FIELDS.findall(server) if isinstance(server, bytes) else []
            if len(ids) != 2:
                raise RedisConnectionError("INFO without run_id or master_replid")
        except BaseException:
            await connection.disconnect(nowait=True)  # the replies may still be on their way
            raise
        self._server_ids[connection] = "sidegate:v1:" + b"-".join(ids).decode()
        # A connection of Sentinels knows its pool.
        self._log.record_success(_get_address(getattr(connection, "connection_pool", connection)))

    def _track(self, release: asyncio.Future[None]) -> None:
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)


class _Borrowing(AbstractAsyncContextManager[PipelinedConnection]):
    """Borrows a connection for the length of a block. A generator would take twice as long."""

    def __init__(
        self, client: RedisClient, pool: Pool, *, limit: asyncio.Semaphore | None = None
    ) -> None:
        self._client = client
        self._pool = pool
        self._limit = limit

    async def __aenter__(self) -> PipelinedConnection:
        if self._limit is not None:
            await self._limit.acquire()
        try:
            self._connection = await self._client.borrow(self._pool)
        except BaseException:
            self._release()
            raise
        return self._connection

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._client.give_back(self._pool, self._connection, error=error)
        self._release()

    def _release(self) -> None:
        if self._limit is not None:
            self._limit.release()


def _get_address(pool: Any) -> str:
    """Return what the log calls the server of a pool, or of a connection."""
    if hasattr(pool, "service_name"):
        return str(pool.service_name)
    options = getattr(pool, "connection_kwargs", None) or vars(pool)
    return str(options["path"] if "path" in options else Host(options["host"], options["port"]))


async def _read_message(connection: AbstractConnection) -> list[Any]:
    """Return the next message on a subscribed connection; send a PING if there is none."""
    message = await _read_reply(connection, timeout=_READ_TIMEOUT)
    if message is None:
        await connection.send_command("PING")
        message = await _read_reply(connection, timeout=_READ_TIMEOUT)
    if not isinstance(message, list) or len(message) < 2:
        raise RedisConnectionError("subscription without messages, or with an invalid one")
    return message


async def _execute(connection: AbstractConnection, *commands: tuple[Any, ...]) -> list[Any]:
    """Send commands by the client library, as one pipeline; return the replies, undecoded."""
    await connection.send_packed_command(b"".join(pack(*command) for command in commands))
    return [await _read_reply(connection, disable_decoding=True) for _ in commands]


async def _read_reply(connection: AbstractConnection, **options: Any) -> Any:
    try:
        return await connection.read_response(**options)
    except (ValueError, TypeError) as error:  # raised by the client library's parser
        raise RedisConnectionError("invalid reply") from error


def _split_pipelines(commands: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    pipeline: list[tuple[Any, ...]] = []
    arguments = 0
    for command in commands:
        if pipeline and (
            len(pipeline) == _PIPELINE_COMMANDS or arguments + len(command) > _PIPELINE_ARGUMENTS
        ):
            yield pipeline
            pipeline, arguments = [], 0
        pipeline.append(command)
        arguments += len(command)
    if pipeline:
        yield pipeline


def _hash_tag(name: str) -> bytes:
    """Return the part of a key that determines its slot in a Cluster."""
    return f"{{{name}}}".encode()


def translate_error(error: BaseException) -> StoreUnavailable | None:
    """Return what an error of the client library means; None: it is another error.

    The reason contains no secret.
    """
    if is_closed_transport_error(error):
        outage = StoreUnavailable(STORE_NAME, "the connection was lost")
    elif isinstance(error, CLIENT_ERRORS):
        outage = StoreUnavailable(STORE_NAME, describe_error(error))
    else:
        return None
    outage.__cause__ = error
    return outage


class translate_errors:  # noqa: N801  # reads as a statement: with translate_errors(): ...
    """Raise StoreUnavailable for any error of the client library, as `translate_error` says."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        outage = None if error is None else translate_error(error)
        if outage is not None:
            raise outage from error
