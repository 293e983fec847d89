"""A Redis as every room here reaches it: connections that know which life of it they lead to.

A restart or a failover breaks every connection, and what was written before it is not to be
believed. So each connection learns once, when it is made, the server's run_id and master_replid:
its life, the first part of every key. What an old snapshot or a promoted replica brings back lies
under keys that nobody asks for.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from weakref import WeakKeyDictionary

import redis.exceptions
from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from sidegate.core.errors import StoreUnavailable
from sidegate.stores.redis.idle_connections import IdleConnections
from sidegate.stores.redis.topology import Pool, topology
from sidegate.stores.share import share
from sidegate.stores.uvloop_errors import ended_under_the_writer

NAME: Final = "redis"

# So many questions are under way at once, each on a connection of its own; the others wait. Half of
# what a pool may hold: subscriptions and connections that are being closed need room too.
_LINES: Final = 32

# What a rush has opened is given back to the server after so many seconds, for others may want it.
_IDLE: Final = 30.0

# So many commands, of so many words together, are sent before their replies are read, within one
# time-out.
_PACKET: Final = 256
_WORDS: Final = 4_096

# A subscription that hears nothing for this many seconds pings, and waits as long for the pong. It
# hears a heartbeat each second, unless nobody may publish here.
_QUIET: Final = 1.5

# Sixteen of their forty digits tell a server's lives apart.
_LIFE: Final = re.compile(rb"^(?:run_id|master_replid):([0-9a-f]{16})", re.MULTILINE)

# Everything the client raises, whatever its version calls it, and what it lets through of the
# socket's and the loop's.
VENDOR_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(
        kind
        for kind in vars(redis.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
    OSError,
    TimeoutError,
)


@dataclass(frozen=True, slots=True)
class BorrowedConnection:
    """A borrowed connection, and the beginning of every key that is its server's present life's."""

    connection: AbstractConnection
    life: str
    timeout: float

    async def ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Send commands in one packet and return the replies; an error reply is a value here."""
        async with asyncio.timeout(self.timeout):
            # The client would pack them, too, but in Python: seven times as slowly.
            await self.connection.send_packed_command(b"".join(map(pack_command, commands)))
            return [await self._reply() for _ in commands]

    async def drop(self) -> None:
        """Drop the connection: whatever comes next on it is nobody's reply."""
        await self.connection.disconnect(nowait=True)

    async def _reply(self) -> Any:
        try:
            return await _next_reply(self.connection, disable_decoding=True)
        except ResponseError as error:
            return error


class RedisClient:
    """One Redis, whatever its topology. What cannot be reached is StoreUnavailable."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        idle: float = _IDLE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect when first asked. ValueError: the URL has none of redis_topology's forms.

        A server connects, and answers what is sent at once, within `timeout` seconds. A connection
        that nobody has used for `idle` seconds is closed.
        """
        self._idle = IdleConnections(idle, monotonic=monotonic)
        self._lives = _Lives(timeout)
        self._timeout = timeout
        self._turns = asyncio.Semaphore(_LINES)
        self._errands: set[asyncio.Future[None]] = set()
        self._topology = topology(url, self._lives.greet, timeout=timeout, monotonic=monotonic)

    async def pool_for(self, key: bytes) -> Pool:
        """Return the pool that leads to the server of `key`."""
        return await self._topology.pool_for(key)

    @asynccontextmanager
    async def acquire(self, pool: Pool) -> AsyncIterator[BorrowedConnection]:
        """Lend a line when it is our turn: many may want one at once."""
        async with self._turns, self._line(pool) as line:
            yield line

    async def run(
        self,
        name: str,
        commands: Callable[[str], Iterable[tuple[Any, ...]]],
        *,
        fits: Callable[[tuple[Any, ...], Any], bool],
    ) -> list[Any]:
        """Run commands on one key that is `name`'s as long as the server lives; return the replies.

        `commands` is told the key. `fits` says whether a reply can be one to that command; if not,
        the connection is dropped, for it is out of step.
        """
        with outages():
            async with self._line(await self.pool_for(_tagged(name))) as line:
                key = f"{line.life}:{_tagged(name).decode()}"
                replies: list[Any] = []
                for packet in _in_packets(commands(key)):
                    for command, reply in zip(packet, await line.ask(*packet), strict=True):
                        if isinstance(reply, ResponseError):
                            raise reply
                        if not fits(command, reply):
                            raise RedisConnectionError("the reply to another question")
                        replies.append(reply)
                return replies

    async def ping(self) -> None:
        """Return when Redis answers."""
        with outages():
            async with self._line(await self.pool_for(b"ping")) as line:
                checked(await line.ask(("PING",)))

    async def publish(self, channel: str, messages: Iterable[bytes]) -> None:
        """Send messages to whoever listens now."""
        with outages():
            async with self._line(await self.pool_for(b"feed")) as line:
                for packet in _in_packets(("PUBLISH", channel, message) for message in messages):
                    checked(await line.ask(*packet))

    async def follow(
        self, channels: Mapping[str, Callable[[bytes], None]], *, subscribed: Callable[[], None]
    ) -> NoReturn:
        """Tell each channel's messages to whom it belongs, from when `subscribed` is called on.

        StoreUnavailable ends it.
        """
        told = {channel.encode(): heard for channel, heard in channels.items()}
        with outages():
            async with self._line(await self.pool_for(b"feed")) as line:
                checked(await line.ask(*(("SUBSCRIBE", channel) for channel in channels)))
                subscribed()
                while True:
                    match await _next_message(line.connection):
                        case [b"message", bytes(channel), message] if channel in told:
                            # What is no string is told as one that nobody can read.
                            told[channel](message if isinstance(message, bytes) else b"")

    async def close(self) -> None:
        await asyncio.gather(*self._errands)
        await self._topology.close()

    @asynccontextmanager
    async def _line(self, pool: Pool) -> AsyncIterator[BorrowedConnection]:
        connection = await self._borrowed(pool)
        self._idle.borrowed(connection)
        try:
            yield BorrowedConnection(connection, self._lives.of(connection), self._timeout)
        except BaseException as error:
            # Replies may be on their way: nobody must take them for the answer to something else.
            await connection.disconnect(nowait=True)
            if isinstance(error, VENDOR_ERRORS):
                self._topology.mark_stale()
            raise
        finally:
            await pool.release(connection)
            await self._idle.given_back(connection)

    async def _borrowed(self, pool: Pool) -> AbstractConnection:
        """Borrow a connection. One that is being made for a caller who leaves is kept for the next.

        Where making it takes longer than a check may wait, there would never be one otherwise.
        """
        making = asyncio.ensure_future(self._made(pool))
        try:
            return await share(making)
        except asyncio.CancelledError:
            self._keep(asyncio.ensure_future(_given_back(pool, making)))
            raise

    async def _made(self, pool: Pool) -> AbstractConnection:
        """Return a connection. That none can be made is a doubt, also if its caller has left.

        A check leaves sooner than a host that has lost its power is known not to answer.
        """
        try:
            connection: AbstractConnection = await pool.get_connection()
        except VENDOR_ERRORS:
            self._topology.mark_stale()
            raise
        return connection

    def _keep(self, errand: asyncio.Future[None]) -> None:
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)


async def _given_back(pool: Pool, making: asyncio.Future[AbstractConnection]) -> None:
    with suppress(StoreUnavailable), outages():
        await pool.release(await making)


class _Lives:
    """Remembers which life of which server each connection leads to."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._known: WeakKeyDictionary[AbstractConnection, str] = WeakKeyDictionary()

    def of(self, connection: AbstractConnection) -> str:
        return self._known[connection]

    async def greet(self, connection: AbstractConnection) -> None:
        """Log in, make sure that it is a primary, and learn which life of it this is.

        The run_id changes when it restarts, the master_replid when it is promoted: one that was
        primary before, and is again, has missed what happened in between.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await connection.on_connect()
            line = BorrowedConnection(connection, "", self._timeout)
            server, role = checked(await line.ask(("INFO",), ("ROLE",)))
            if not isinstance(role, list) or role[:1] != [b"master"]:
                raise RedisConnectionError("not a primary")
            life = _LIFE.findall(server) if isinstance(server, bytes) else []
            if len(life) != 2:
                raise RedisConnectionError("it tells neither run_id nor master_replid")
        except BaseException:
            await connection.disconnect(nowait=True)  # the replies may still be on their way
            raise
        self._known[connection] = "sidegate:v1:" + b"-".join(life).decode()


async def _next_message(connection: AbstractConnection) -> list[Any]:
    """Return what comes next on a subscribed connection; a server that is silent is asked."""
    message = await _next_reply(connection, timeout=_QUIET)
    if message is None:
        await connection.send_command("PING")
        message = await _next_reply(connection, timeout=_QUIET)
    if not isinstance(message, list) or len(message) < 2:
        raise RedisConnectionError("the subscription fell silent, or says what none says")
    return message


async def _next_reply(connection: AbstractConnection, **how: Any) -> Any:
    try:
        return await connection.read_response(**how)
    except (ValueError, TypeError) as error:  # the vendor's parser stumbled
        raise RedisConnectionError("a reply that no Redis sends") from error


def _in_packets(commands: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    packet: list[tuple[Any, ...]] = []
    words = 0
    for command in commands:
        if packet and (len(packet) == _PACKET or words + len(command) > _WORDS):
            yield packet
            packet, words = [], 0
        packet.append(command)
        words += len(command)
    if packet:
        yield packet


def checked(replies: list[Any]) -> list[Any]:
    """Raise the first error reply; a key of another type is no error, but no record either."""
    for reply in replies:
        if isinstance(reply, ResponseError) and not str(reply).startswith("WRONGTYPE"):
            raise reply
    return replies


def _tagged(name: str) -> bytes:
    """Return the part of a key that says, in a Cluster, where it lives."""
    return f"{{{name}}}".encode()


class outages:  # noqa: N801  # reads as a statement: with outages(): ...
    """Whatever the vendor raises means: Redis could not answer. The reason names no secret."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, VENDOR_ERRORS) or ended_under_the_writer(error):
            raise StoreUnavailable(NAME, type(error).__name__) from error
