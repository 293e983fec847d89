"""Redis as a hot store: two verbs, and nothing that was written before a restart is believed.

Keys are `sidegate:v1:<life>:<generation>:s:{<digest>}`. The server's run_id and master_replid, read
once per new connection, are its life: a restart or a failover breaks every connection, so whatever
an old snapshot or a promoted replica brings back lies under keys that nobody asks for. The durable
store says which generation is believed; it begins another when a Redis could not be told of a
change. The braces keep a session's slot in a Cluster independent of all that.
"""

import asyncio
import re
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha1
from itertools import islice
from typing import Any, Final, NoReturn
from weakref import WeakKeyDictionary

import redis.exceptions
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from proxy.core.errors import StoreUnavailable, UnreadableRecord
from proxy.core.session import Session
from proxy.core.token import Digest
from proxy.stores.codec import HEAD, decode, encode, microseconds
from proxy.stores.ended import ended_under_the_writer
from proxy.stores.redis_topology import Pool, topology
from proxy.stores.share import share

NAME: Final = "redis"

# So many questions are under way at once, each on a connection of its own; the others wait. Half of
# what a pool may hold: subscriptions and connections that are being closed need room too.
_LINES: Final = 32

# So many commands are sent before their replies are read, within one time-out.
_PACKET: Final = 256

# Nobody writes a longer record; somebody else's huge value under our key must not be read whole.
_LONGEST_RECORD: Final = 16 * 1024

# A subscription that hears nothing for this many seconds pings, and waits as long for the pong.
_QUIET: Final = 1.0

# Sixteen of their forty digits tell a server's lives apart.
_LIFE: Final = re.compile(rb"^(?:run_id|master_replid):([0-9a-f]{16})", re.MULTILINE)

# A record's head sorts as text by freshness. Whatever lies there without such a head, of whatever
# type, is overwritten; so is what the caller could not read (the last argument), if it is still
# there. The reply is the record that was kept: nothing else can be taken for it.
_KEEP_THE_FRESHER: Final = b"""
local kept = redis.pcall('GETRANGE', KEYS[1], 0, tonumber(ARGV[3]))
if type(kept) == 'string' and #kept > %(head)d and kept ~= ARGV[4]
   and string.find(string.sub(kept, 1, %(head)d), '^[01]%%d+$')
   and string.sub(kept, 1, %(head)d) > string.sub(ARGV[1], 1, %(head)d) then
  return kept
end
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2])
return ARGV[1]
""" % {b"head": HEAD}
_SCRIPT_SHA: Final = sha1(_KEEP_THE_FRESHER, usedforsecurity=False).hexdigest()


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
class _Line:
    """A borrowed connection and the namespace that its server's life gives it."""

    connection: AbstractConnection
    namespace: str
    timeout: float

    async def ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Send commands in one packet and return the replies; an error reply is a value here."""
        async with asyncio.timeout(self.timeout):
            await self.connection.send_packed_command(self.connection.pack_commands(commands))
            return [await self._reply() for _ in commands]

    async def _reply(self) -> Any:
        try:
            return await _next_reply(self.connection, disable_decoding=True)
        except ResponseError as error:
            return error


class RedisStore:
    """A hot leaf. An unreadable record is counted and is a miss."""

    def __init__(
        self,
        url: str,
        *,
        on_unreadable: Callable[[str], None],
        timeout: float = 0.05,
        generation: int | None = 0,
    ) -> None:
        """Connect when first asked. ValueError: the URL has none of redis_topology's forms.

        `on_unreadable` is told the store's name for each record that could not be read. A server
        connects, and answers what is sent at once, within `timeout` seconds. Of copies only those
        of `generation` are believed; None: of none, until `believe` says which.
        """
        self._generation = generation
        self._lives = _Lives(timeout)
        self._timeout = timeout
        self._turns = asyncio.Semaphore(_LINES)
        self._errands: set[asyncio.Future[None]] = set()
        self._topology = topology(url, self._lives.greet, timeout=timeout)
        self._on_unreadable = on_unreadable

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        self._must_believe()
        with _outages():
            by_pool: dict[Pool, list[Digest]] = {}
            for digest in digests:
                by_pool.setdefault(await self._pool_for(digest), []).append(digest)
            answers = await asyncio.gather(*(self._ask(*group) for group in by_pool.items()))
        return {digest: session for answer in answers for digest, session in answer.items()}

    async def find(self, digest: Digest) -> Session | None:
        return (await self.find_many((digest,))).get(digest)

    async def put(self, session: Session) -> Session:
        self._must_believe()
        with _outages():
            pool = await self._pool_for(session.digest)
            async with self._turns, self._line(pool) as line:
                return await self._keep_the_fresher(line, session)

    def believe(self, generation: int) -> None:
        """From now on believe copies of this generation, and of no other."""
        self._generation = generation

    async def ping(self) -> None:
        """Return when Redis answers. StoreUnavailable: it does not."""
        with _outages():
            async with self._line(await self._topology.pool_for(b"ping")) as line:
                _checked(await line.ask(("PING",)))

    async def publish(self, channel: str, messages: Iterable[bytes]) -> None:
        """Send messages to whoever listens now."""
        with _outages():
            async with self._line(await self._topology.pool_for(b"feed")) as line:
                for packet in _in_packets(("PUBLISH", channel, message) for message in messages):
                    _checked(await line.ask(*packet))

    async def follow(
        self, channel: str, *, subscribed: Callable[[], None], heard: Callable[[bytes], None]
    ) -> NoReturn:
        """Call `heard` for each message, `subscribed` from when on. StoreUnavailable ends it."""
        with _outages():
            async with self._line(await self._topology.pool_for(b"feed")) as line:
                _checked(await line.ask(("SUBSCRIBE", channel)))
                subscribed()
                while True:
                    kind, *_, message = await _next_message(line.connection)
                    if kind == b"message":
                        heard(message)

    async def close(self) -> None:
        await asyncio.gather(*self._errands)
        await self._topology.close()

    async def _ask(self, pool: Pool, digests: Sequence[Digest]) -> dict[Digest, Session]:
        found = {}
        async with self._turns, self._line(pool) as line:
            commands = (
                ("GETRANGE", _key(line.namespace, digest), 0, _LONGEST_RECORD) for digest in digests
            )
            replies = await line.ask(*commands)
            for digest, reply in zip(digests, _checked(replies), strict=True):
                session = await self._read(line, digest, reply)
                if session is not None:
                    found[digest] = session
        return found

    async def _keep_the_fresher(self, line: _Line, session: Session) -> Session:
        record, unreadable = encode(session), b""
        for _ in range(2):
            reply = await self._offered(line, session, record, unreadable)
            if reply == record:
                return session
            kept = await self._read(line, session.digest, reply)
            if kept is not None and kept.freshness > session.freshness:
                return kept
            # Either an unreadable body under a fresher head, which would be in the way for ever, or
            # not our reply at all; then what lies there is not known, and may be a tombstone.
            await line.connection.disconnect(nowait=True)
            unreadable = reply if isinstance(reply, bytes) else b""
        raise RedisConnectionError("the reply to another question")

    async def _offered(
        self, line: _Line, session: Session, record: bytes, unreadable: bytes
    ) -> Any:
        until = microseconds(session.expires_at) // 1000
        key = _key(line.namespace, session.digest)
        arguments = (1, key, record, until, _LONGEST_RECORD, unreadable)
        [reply] = await line.ask(("EVALSHA", _SCRIPT_SHA, *arguments))
        if isinstance(reply, NoScriptError):
            [reply] = await line.ask(("EVAL", _KEEP_THE_FRESHER, *arguments))
        return _checked([reply])[0]

    async def _read(self, line: _Line, digest: Digest, reply: Any) -> Session | None:
        """Return the session a reply holds if it answers for `digest`, else None."""
        if not reply:
            return None
        try:
            if not isinstance(reply, bytes):
                raise UnreadableRecord("not a string")
            session = decode(reply)
            if session.digest != digest:
                # Not our answer. Whatever comes next on this connection is not ours either.
                await line.connection.disconnect(nowait=True)
                raise UnreadableRecord("a record for another digest")
        except UnreadableRecord:
            self._on_unreadable(NAME)
            return None
        return session

    def _must_believe(self) -> None:
        if self._generation is None:
            raise StoreUnavailable(NAME, "nobody has said yet which generation to believe")

    async def _pool_for(self, digest: Digest) -> Pool:
        return await self._topology.pool_for(_slot(digest).encode())

    @asynccontextmanager
    async def _line(self, pool: Pool) -> AsyncIterator[_Line]:
        connection = await self._borrowed(pool)
        try:
            life = self._lives.namespace(connection)
            yield _Line(connection, f"{life}:{self._generation}", self._timeout)
        except BaseException as error:
            # Replies may be on their way: nobody must take them for the answer to something else.
            await connection.disconnect(nowait=True)
            if isinstance(error, VENDOR_ERRORS):
                self._topology.doubt()
            raise
        finally:
            await pool.release(connection)

    async def _borrowed(self, pool: Pool) -> AbstractConnection:
        """Borrow a connection. One that is being made for a caller who leaves is kept for the next.

        Where making it takes longer than a check may wait, there would never be one otherwise.
        """
        making = asyncio.ensure_future(pool.get_connection())
        try:
            return await share(making)
        except asyncio.CancelledError:
            self._keep(asyncio.ensure_future(_given_back(pool, making)))
            raise

    def _keep(self, errand: asyncio.Future[None]) -> None:
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)


async def _given_back(pool: Pool, making: asyncio.Future[AbstractConnection]) -> None:
    with suppress(StoreUnavailable), _outages():
        await pool.release(await making)


class _Lives:
    """Remembers which life of which server each connection leads to."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._namespaces: WeakKeyDictionary[AbstractConnection, str] = WeakKeyDictionary()

    def namespace(self, connection: AbstractConnection) -> str:
        return self._namespaces[connection]

    async def greet(self, connection: AbstractConnection) -> None:
        """Log in, make sure that it is a primary, and learn which life of it this is.

        The run_id changes when it restarts, the master_replid when it is promoted: one that was
        primary before, and is again, has missed what happened in between.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await connection.on_connect()
            line = _Line(connection, "", self._timeout)
            server, role = _checked(await line.ask(("INFO",), ("ROLE",)))
            if not isinstance(role, list) or role[:1] != [b"master"]:
                raise RedisConnectionError("not a primary")
            life = _LIFE.findall(server) if isinstance(server, bytes) else []
            if len(life) != 2:
                raise RedisConnectionError("it tells neither run_id nor master_replid")
        except BaseException:
            await connection.disconnect(nowait=True)  # the replies may still be on their way
            raise
        self._namespaces[connection] = "sidegate:v1:" + b"-".join(life).decode()


async def _next_message(connection: AbstractConnection) -> list[bytes]:
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
    rest = iter(commands)
    while packet := list(islice(rest, _PACKET)):
        yield packet


def _checked(replies: list[Any]) -> list[Any]:
    """Raise the first error reply; a key of another type is no error, but no record either."""
    for reply in replies:
        if isinstance(reply, ResponseError) and not str(reply).startswith("WRONGTYPE"):
            raise reply
    return replies


def _slot(digest: Digest) -> str:
    return f"{{{urlsafe_b64encode(digest).decode()[:43]}}}"


def _key(namespace: str, digest: Digest) -> str:
    return f"{namespace}:s:{_slot(digest)}"


class _outages:  # noqa: N801  # reads as a statement: with _outages(): ...
    """Whatever the vendor raises means: Redis could not answer. The reason names no secret."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, VENDOR_ERRORS) or ended_under_the_writer(error):
            raise StoreUnavailable(NAME, type(error).__name__) from error
