"""A pool of persistent connections to one port, with the subset of HTTP that Sidegate answers.

Not a library's client: generating the load has to cost a fraction of serving it.
"""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

_STATUS: Final = slice(9, 12)  # HTTP/1.1 200 OK
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)

# Seconds. A local connect is immediate; with a full backlog it never completes.
_CONNECT_TIMEOUT: Final = 1.0

# Idle connections that are kept, as by a gateway (nginx: keepalive).
_MAX_IDLE: Final = 16


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete response. `head` is everything before the body, unparsed."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> str | None:
        """Return the value of a header, or None."""
        found = re.search(rb"\r\n" + name + rb": *([^\r]*)", self.head, re.IGNORECASE)
        return None if found is None else found[1].decode("latin-1")


class ConnectionBroken(OSError):
    """The connection was refused, reset or closed before the response was complete."""


class ConnectionPool:
    """Persistent connections to one port, each used by one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_PooledConnection] = []
        self._all: set[_PooledConnection] = set()
        self.failed_requests = 0  # requests whose connection failed

    @property
    def size(self) -> int:
        """Number of open connections, idle or in use."""
        return len(self._all)

    async def send(self, request: bytes) -> "PendingRequest":
        """Send a request on an idle or a new connection. Raise ConnectionBroken if it fails."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection.send(request)
        return (await self._connect()).send(request)

    async def request(
        self,
        request: bytes,
        *,
        timeout: float,  # noqa: ASYNC109  # as in asyncio
    ) -> HttpResponse:
        """Return the response. Raise ConnectionBroken, or TimeoutError after `timeout` seconds."""
        pending = None
        try:
            async with asyncio.timeout(timeout):
                pending = await self.send(request)
                return await pending.response
        except TimeoutError:
            if pending is not None:
                pending.abort()
            raise

    async def close(self) -> None:
        for connection in tuple(self._all):
            connection.close()

    async def _connect(self) -> "_PooledConnection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                _, connection = await loop.create_connection(
                    lambda: _PooledConnection(self), "127.0.0.1", self._port
                )
        except (OSError, TimeoutError) as error:
            self.failed_requests += 1
            raise ConnectionBroken(type(error).__name__) from error
        return connection

    def on_connected(self, connection: "_PooledConnection") -> None:
        self._all.add(connection)

    def on_idle(self, connection: "_PooledConnection") -> None:
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def on_closed(self, connection: "_PooledConnection", *, busy: bool) -> None:
        self._all.discard(connection)
        self.failed_requests += busy
        with suppress(ValueError):
            self._idle.remove(connection)


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request in progress: its response can be awaited, or the request aborted."""

    connection: "_PooledConnection"
    response: asyncio.Future[HttpResponse]

    def abort(self) -> None:
        """Close the connection without waiting for the response."""
        self.response.cancel()
        self.connection.close()


class _PooledConnection(asyncio.Protocol):
    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._response: asyncio.Future[HttpResponse] | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> PendingRequest:
        assert self._transport is not None
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return PendingRequest(self, self._response)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._pool.on_connected(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = _LENGTH.search(head)
        if len(body) >= (int(length[1]) if length else 0):
            self._buffer = b""
            self._complete(HttpResponse(int(head[_STATUS]), head, body))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        waiting, self._response = self._response, None
        self._pool.on_closed(self, busy=waiting is not None and not waiting.cancelled())
        if waiting is not None and not waiting.done():
            waiting.set_exception(ConnectionBroken("the connection was closed"))
            waiting.exception()  # retrieved: an aborted request is not awaited

    def _complete(self, response: HttpResponse) -> None:
        waiting, self._response = self._response, None
        if _CLOSE.search(response.head):
            self.close()
        else:
            self._pool.on_idle(self)
        if waiting is not None and not waiting.done():
            waiting.set_result(response)
