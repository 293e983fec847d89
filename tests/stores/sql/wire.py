"""A TCP wire to a server that can be made slow, thin, deaf and torn, or to say what nobody said."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from math import inf
from types import TracebackType
from typing import Self

Passing = Callable[["Link", bytes], bytes]
"""Sees each chunk that passes on a link and returns what arrives; may cut the link."""

_LINGER_NOT: bytes = struct.pack("ii", 1, 0)  # closing sends a reset


def unchanged(_: "Link", chunk: bytes) -> bytes:
    return chunk


class Wire:
    """Listens on a port of its own and leads to `host:port`, as an asynchronous context manager.

    Every property may be changed at any time, and holds from the next chunk on.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = host, port
        self.delay = 0.0  # seconds each chunk is on its way, in either direction
        self.slice = 65_536  # bytes that travel at once
        self.rate = inf  # bytes a second
        self.refusing = False  # new links are reset at once
        self.questions: Passing = unchanged  # what clients send
        self.answers: Passing = unchanged  # what the server sends
        self.links: set[Link] = set()
        self.made = 0  # links so far
        self.torn = 0  # links that were cut
        self.port = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._linking: set[asyncio.Task[None]] = set()

    def lead_to(self, port: int) -> None:
        """Lead new links elsewhere, as an address does that moves to another server."""
        self._target = self._target[0], port

    def inject(self, words: bytes) -> None:
        """Let every client hear words that the server did not say."""
        for link in self.links:
            link.inject(words)

    def cut(self) -> None:
        """Reset every link, at both ends."""
        for link in tuple(self.links):
            link.cut()

    def hold(self) -> None:
        """Fall silent: nothing is read, written or closed, though links still begin."""
        self._flowing.clear()

    def let_go(self) -> None:
        """End `hold`: what was under way arrives now."""
        self._flowing.set()

    async def flowing(self) -> None:
        """Return when the wire is not held."""
        await self._flowing.wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for linking in self._linking:
            linking.cancel()
        await asyncio.gather(*self._linking, return_exceptions=True)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linking = asyncio.current_task()
        assert linking is not None
        self._linking.add(linking)
        self.made += 1
        try:
            await self.flowing()
            await self._join(reader, writer)
        except OSError:
            _reset(writer)  # the server refused, as we do
        except asyncio.CancelledError:
            _reset(writer)  # the wire is taken down; nobody waits for this task
        finally:
            self._linking.discard(linking)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            raise ConnectionRefusedError
        from_server, to_server = await asyncio.open_connection(*self._target)
        link = Link(self, _Lane(self, reader, to_server), _Lane(self, from_server, writer))
        self.links.add(link)
        try:
            await link.run()
        finally:
            self.links.discard(link)
            link.end()


class Link:
    """One client's connection, from end to end."""

    def __init__(self, wire: Wire, out: "_Lane", back: "_Lane") -> None:
        self._wire = wire
        self._out = out
        self._back = back

    def inject(self, words: bytes) -> None:
        """Let the client hear words that the server did not say, after those under way."""
        self._back.send(words)

    def cut(self) -> None:
        """Reset it at both ends; what is under way is lost."""
        self._wire.torn += 1
        self.end()

    def end(self) -> None:
        """Close what is still open of it."""
        self._out.reset()
        self._back.reset()

    async def run(self) -> None:
        """Carry bytes until either end closes or the link is cut."""
        with suppress(ExceptionGroup):  # of the OSErrors that ends bring
            async with asyncio.TaskGroup() as lanes:
                back = lanes.create_task(
                    self._back.run(lambda chunk: self._wire.answers(self, chunk))
                )
                out = lanes.create_task(
                    self._out.run(lambda chunk: self._wire.questions(self, chunk))
                )
                await asyncio.wait((out, back), return_when=asyncio.FIRST_COMPLETED)
                out.cancel()
                back.cancel()


class _Lane:
    """One direction of a link. Chunks travel at the same time, so a delay limits no throughput."""

    def __init__(
        self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._wire = wire
        self._reader = reader
        self._writer = writer
        self._under_way = asyncio.Queue[tuple[float, bytes]]()
        without_delay(writer)

    def send(self, chunk: bytes) -> None:
        due = asyncio.get_running_loop().time() + self._wire.delay
        self._under_way.put_nowait((due, chunk))

    def reset(self) -> None:
        _reset(self._writer)

    async def run(self, passing: Callable[[bytes], bytes]) -> None:
        """Return when everything that was sent before the end has arrived."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take(passing))
            both.create_task(self._give())

    async def _take(self, passing: Callable[[bytes], bytes]) -> None:
        while True:
            await self._wire.flowing()
            chunk = await self._reader.read(65_536)
            await self._wire.flowing()
            if not chunk:
                break
            self.send(passing(chunk))
        self.send(b"")

    async def _give(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await self._under_way.get()
            await asyncio.sleep(due - loop.time())
            if not chunk:
                break
            while chunk:
                await self._wire.flowing()
                piece, chunk = chunk[: self._wire.slice], chunk[self._wire.slice :]
                self._writer.write(piece)
                await self._writer.drain()
                await asyncio.sleep(len(piece) / self._wire.rate)
        self._writer.close()


def without_delay(writer: asyncio.StreamWriter) -> None:
    """Send each piece by itself, however small."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        its_socket = writer.get_extra_info("socket")
        its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
