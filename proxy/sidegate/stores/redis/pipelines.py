"""The protocol of Redis, on a connection that the client library has opened.

The library resolves the address, connects, authenticates and selects; its parser in C is used here,
too. Its own reading and writing take several times as long as a lookup may.
"""

import asyncio
from typing import Any, Final, cast

import hiredis
from redis._parsers import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError

from sidegate.core.timeouts import LatenessTimer
from sidegate.stores.connection_log import ConnectionLog
from sidegate.stores.redis.reasons import describe_error

_INCOMPLETE: Final = object()


def _take_writer(connection: AbstractConnection) -> asyncio.StreamWriter:
    """Take the stream from a connection of the client library, which is then not connected.

    Nothing else in this package depends on what the library does not document.
    """
    library: Any = connection
    writer: asyncio.StreamWriter | None = library._writer  # noqa: SLF001 - there is no other way
    if writer is None:
        raise RedisConnectionError("the connection was lost")
    library._reader = library._writer = None  # noqa: SLF001 - or the library would close it
    return writer


class PipelinedConnection(asyncio.Protocol):
    """A connection that sends one pipeline at a time and reads its replies.

    `server_id` is that of its server, at `address`, if it has a host and a port. `seals` are the
    last ones read on this connection, by bucket, as stored; empty: there was none.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        *,
        server_id: str,
        timeout: float,
        log: ConnectionLog | None = None,
    ) -> None:
        """Take over a connected `connection`. Each pipeline may take `timeout` seconds.

        Permissions that the server denies are logged in `log`.
        """
        self.server_id = server_id
        self.address = getattr(connection, "host", None), getattr(connection, "port", None)
        self.seals: dict[int, bytes] = {}
        self._timeout = timeout
        self._log = log
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._writer = _take_writer(connection)  # referenced: its destructor closes
        self._transport = cast("asyncio.Transport", self._writer.transport)
        self._parser = hiredis.Reader(
            protocolError=RedisConnectionError,
            replyError=BaseParser.parse_error,
            notEnoughData=_INCOMPLETE,
        )
        self._replies: list[Any] = []
        self._expected = 0
        self._answer: asyncio.Future[list[Any]] | None = None
        self._transport.set_protocol(self)

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    async def execute(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Send commands as one pipeline and return the replies; an error reply is a value here.

        Raise an error of the client library, or TimeoutError. The connection is then of no use.
        """
        return await self.send(b"".join([pack(*command) for command in commands]), len(commands))

    async def send(self, packed: bytes, count: int) -> list[Any]:
        """Send so many packed commands, and return the replies as `execute` does."""
        if self._transport.is_closing():
            raise RedisConnectionError("the connection was lost")
        if count == 0:
            return []
        self._replies, self._expected = [], count
        self._answer = self._loop.create_future()
        timer = LatenessTimer(self._timeout, self._expire, loop=self._loop)
        self._transport.write(packed)
        try:
            replies = await self._answer
        finally:
            timer.cancel()
            self._answer = None
        for reply in replies:
            if isinstance(reply, Exception):
                self._examine(reply)
        return replies

    def close(self) -> None:
        """Close at once: what comes next on this connection is no reply to later commands."""
        self._transport.abort()

    # Callbacks of the transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self._fail(RedisConnectionError("reply to no command"))
            return
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not _INCOMPLETE:
                self._replies.append(reply)
        except (RedisConnectionError, ValueError, TypeError) as error:
            self._fail(RedisConnectionError("invalid reply"), error)
            return
        missing = self._expected - len(self._replies)
        if missing < 0 or (missing == 0 and self._parser.has_data()):
            self._fail(RedisConnectionError("reply to no command"))
        elif missing == 0:
            self._answer.set_result(self._replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(RedisConnectionError("the connection was lost"), exc)
        if not self.closed.done():
            self.closed.set_result(None)

    def _examine(self, error: Exception) -> None:
        """Log a permission that the server denies; raise what is no answer to a command."""
        if not isinstance(error, ResponseError):
            raise error
        if isinstance(error, NoPermissionError) and self._log is not None:
            self._log.record_denial(describe_error(error))

    def _expire(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TimeoutError())

    def _fail(self, error: RedisConnectionError, cause: Exception | None = None) -> None:
        self._transport.abort()
        if self._answer is not None and not self._answer.done():
            error.__cause__ = cause
            self._answer.set_exception(error)


def pack(*command: Any) -> bytes:
    """Return a command as it is sent."""
    packed: bytes = hiredis.pack_command(command)
    return packed


def check_replies(replies: list[Any]) -> list[Any]:
    """Return the replies, or raise the first error among them, except for a key of another type."""
    for reply in replies:
        if isinstance(reply, ResponseError) and not str(reply).startswith("WRONGTYPE"):
            raise reply
    return replies
