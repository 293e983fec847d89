"""Kept-alive connections to one port, and just enough HTTP for what Sidegate answers.

Not a library's client: the load must cost a fraction of what it measures.
"""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

_STATUS: Final = slice(9, 12)  # HTTP/1.1 200 OK
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)

# Making a connection on one machine takes no time at all; a backlog that is full takes for ever.
_CONNECTING: Final = 1.0

# So many idle connections does a gateway keep (nginx: keepalive).
_KEPT: Final = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `head` is everything before the body, as it came."""

    status: int
    head: bytes
    body: bytes

    def field(self, name: bytes) -> str | None:
        """Return the value of a header, or None."""
        found = re.search(rb"\r\n" + name + rb": *([^\r]*)", self.head, re.IGNORECASE)
        return None if found is None else found[1].decode("latin-1")


class Broken(OSError):
    """The connection was refused, reset or closed before an answer came."""


class Lines:
    """Connections to one port: kept, taken by one request at a time, and made when none is free."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Line] = []
        self._all: set[_Line] = set()
        self.broken = 0  # requests that ended with a connection

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._all)

    async def send(self, request: bytes) -> "Sent":
        """Send a request as soon as there is a connection. Broken: there is none to be had."""
        while self._idle:
            line = self._idle.pop()
            if line.open:
                return line.send(request)
        return (await self._made()).send(request)

    async def ask(self, request: bytes, *, patience: float) -> Answer:
        """Return the answer. Broken: the connection ended; TimeoutError: nothing came in time."""
        sent = None
        try:
            async with asyncio.timeout(patience):
                sent = await self.send(request)
                return await sent.answer
        except TimeoutError:
            if sent is not None:
                sent.leave()
            raise

    async def close(self) -> None:
        for line in tuple(self._all):
            line.close()

    async def _made(self) -> "_Line":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECTING):
                _, line = await loop.create_connection(lambda: _Line(self), "127.0.0.1", self._port)
        except (OSError, TimeoutError) as error:
            self.broken += 1
            raise Broken(type(error).__name__) from error
        return line

    def joined(self, line: "_Line") -> None:
        self._all.add(line)

    def freed(self, line: "_Line") -> None:
        if len(self._idle) < _KEPT:
            self._idle.append(line)
        else:
            line.close()

    def lost(self, line: "_Line", *, busy: bool) -> None:
        self._all.discard(line)
        self.broken += busy
        with suppress(ValueError):
            self._idle.remove(line)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that is under way; its answer may be waited for, or left behind."""

    line: "_Line"
    answer: asyncio.Future[Answer]

    def leave(self) -> None:
        """Hang up, as a client does that does not wait."""
        self.answer.cancel()
        self.line.close()


class _Line(asyncio.Protocol):
    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._transport: asyncio.Transport | None = None
        self._heard = b""
        self._answer: asyncio.Future[Answer] | None = None

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> Sent:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return Sent(self, self._answer)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name
        self._lines.joined(self)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        head, end, body = self._heard.partition(b"\r\n\r\n")
        if not end:
            return
        length = _LENGTH.search(head)
        if len(body) >= (int(length[1]) if length else 0):
            self._heard = b""
            self._arrived(Answer(int(head[_STATUS]), head, body))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        waiting, self._answer = self._answer, None
        self._lines.lost(self, busy=waiting is not None and not waiting.cancelled())
        if waiting is not None and not waiting.done():
            waiting.set_exception(Broken("the connection ended"))
            waiting.exception()  # whoever left does not look

    def _arrived(self, answer: Answer) -> None:
        waiting, self._answer = self._answer, None
        if _CLOSE.search(answer.head):
            self.close()
        else:
            self._lines.freed(self)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
