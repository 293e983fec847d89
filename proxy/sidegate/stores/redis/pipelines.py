"""The protocol of Redis, on a connection that the client library has opened.

The library resolves the address, connects, authenticates and selects; its parser in C is used here,
too. Its own reading and writing take several times as long as a lookup may.
"""

import asyncio
from collections.abc import Callable
from functools import partial
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

OnReplies = Callable[[list[Any] | Exception], None]
"""Called with the replies to a pipeline, or with the error instead. It must not raise."""


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
        self._on_replies: OnReplies | None = None
        self._timer: LatenessTimer | None = None
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
        answer: asyncio.Future[list[Any]] = self._loop.create_future()
        self.start(packed, count, on_replies=partial(_settle, answer))
        try:
            return await answer
        finally:
            self._end()

    def start(self, packed: bytes, count: int, *, on_replies: OnReplies) -> None:
        """As `send`, on a connection that is not closing: `on_replies` is called later, once."""
        self._replies, self._expected, self._on_replies = [], count, on_replies
        self._timer = LatenessTimer(self._timeout, self._expire, loop=self._loop)
        self._transport.write(packed)

    def close(self) -> None:
        """Close at once: what comes next on this connection is no reply to later commands."""
        self._transport.abort()

    # Callbacks of the transport

    def data_received(self, data: bytes) -> None:
        if self._on_replies is None:
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
            self._complete(self._find_failure() or self._replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(RedisConnectionError("the connection was lost"), exc)
        if not self.closed.done():
            self.closed.set_result(None)

    def _find_failure(self) -> Exception | None:
        """Return what is no answer to a command, if any; log permissions that are denied."""
        for reply in self._replies:
            if isinstance(reply, NoPermissionError) and self._log is not None:
                self._log.record_denial(describe_error(reply))
            elif isinstance(reply, Exception) and not isinstance(reply, ResponseError):
                return reply
        return None

    def _expire(self) -> None:
        self._complete(TimeoutError())

    def _fail(self, error: RedisConnectionError, cause: Exception | None = None) -> None:
        self._transport.abort()
        error.__cause__ = cause
        self._complete(error)

    def _complete(self, outcome: list[Any] | Exception) -> None:
        on_replies = self._on_replies
        if on_replies is not None:
            self._end()
            on_replies(outcome)

    def _end(self) -> None:
        """Wait for replies no more: what comes now is no reply."""
        self._on_replies = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _settle(answer: asyncio.Future[list[Any]], outcome: list[Any] | Exception) -> None:
    if answer.done():  # its caller was cancelled
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


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
