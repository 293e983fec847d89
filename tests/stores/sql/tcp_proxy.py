"""A TCP proxy that injects faults: delay, low bandwidth, stalls, resets and foreign data."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from math import inf

from tests.support.local_server import LocalServer

Filter = Callable[["ProxiedConnection", bytes], bytes]
"""Receives each chunk of a connection and returns what to forward; may reset the connection."""

_NO_LINGER: bytes = struct.pack("ii", 1, 0)  # closing sends a reset


def pass_through(_: "ProxiedConnection", chunk: bytes) -> bytes:
    return chunk


class TcpProxy(LocalServer):
    """Forwards to `host:port`.

    The attributes may be changed at any time, and apply from the next chunk on.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        super().__init__()
        self._target = host, port
        self.delay = 0.0  # seconds for each chunk, in either direction
        self.chunk_size = 65_536  # bytes per write
        self.bytes_per_second = inf
        self.refuse_new = False  # new connections are reset at once
        self.client_filter: Filter = pass_through  # applied to what clients send
        self.server_filter: Filter = pass_through  # applied to what the server sends
        self.connections: set[ProxiedConnection] = set()
        self.accepted = 0  # connections so far
        self.resets = 0  # connections that were reset
        self._running = asyncio.Event()
        self._running.set()

    def set_target(self, port: int) -> None:
        """Forward new connections to another port, as after a failover."""
        self._target = self._target[0], port

    def inject(self, data: bytes) -> None:
        """Send data to every client that the server did not send."""
        for connection in self.connections:
            connection.inject(data)

    def reset_connections(self) -> None:
        """Reset every connection, at both ends."""
        for connection in tuple(self.connections):
            connection.reset()

    def stall(self) -> None:
        """Forward and close nothing, but accept new connections."""
        self._running.clear()

    def resume(self) -> None:
        """End `stall`: forward what is buffered."""
        self._running.set()

    async def wait_until_resumed(self) -> None:
        """Return when the proxy is not stalled."""
        await self._running.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            await self.wait_until_resumed()
            await self._forward(reader, writer)
        except OSError:
            _reset(writer)  # the server refused the connection, or the proxy does
        except asyncio.CancelledError:
            _reset(writer)  # the proxy is closed; no caller awaits this task

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse_new:
            raise ConnectionRefusedError
        from_server, to_server = await asyncio.open_connection(*self._target)
        connection = ProxiedConnection(
            self, _Direction(self, reader, to_server), _Direction(self, from_server, writer)
        )
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)
            connection.abort()


class ProxiedConnection:
    """The connection of one client through the proxy."""

    def __init__(self, proxy: TcpProxy, upstream: "_Direction", downstream: "_Direction") -> None:
        self._proxy = proxy
        self._upstream = upstream
        self._downstream = downstream

    def inject(self, data: bytes) -> None:
        """Send data to the client that the server did not send, after what is buffered."""
        self._downstream.send(data)

    def reset(self) -> None:
        """Reset the connection at both ends; buffered data is lost."""
        self._proxy.resets += 1
        self.abort()

    def abort(self) -> None:
        """Close both ends."""
        self._upstream.reset()
        self._downstream.reset()

    async def run(self) -> None:
        """Forward data until either end closes or the connection is reset."""
        with suppress(ExceptionGroup):  # OSErrors of the ends
            async with asyncio.TaskGroup() as group:
                downstream = group.create_task(
                    self._downstream.run(lambda chunk: self._proxy.server_filter(self, chunk))
                )
                upstream = group.create_task(
                    self._upstream.run(lambda chunk: self._proxy.client_filter(self, chunk))
                )
                await asyncio.wait((upstream, downstream), return_when=asyncio.FIRST_COMPLETED)
                upstream.cancel()
                downstream.cancel()


class _Direction:
    """One direction of a connection. Chunks are delayed in parallel: throughput is not limited."""

    def __init__(
        self, proxy: TcpProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._buffer = asyncio.Queue[tuple[float, bytes]]()
        disable_nagle(writer)

    def send(self, chunk: bytes) -> None:
        due = asyncio.get_running_loop().time() + self._proxy.delay
        self._buffer.put_nowait((due, chunk))

    def reset(self) -> None:
        _reset(self._writer)

    async def run(self, apply_filter: Callable[[bytes], bytes]) -> None:
        """Return when everything that was sent before the end was forwarded."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._receive(apply_filter))
            group.create_task(self._transmit())

    async def _receive(self, apply_filter: Callable[[bytes], bytes]) -> None:
        while True:
            await self._proxy.wait_until_resumed()
            chunk = await self._reader.read(65_536)
            await self._proxy.wait_until_resumed()
            if not chunk:
                break
            self.send(apply_filter(chunk))
        self.send(b"")

    async def _transmit(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await self._buffer.get()
            await asyncio.sleep(due - loop.time())
            if not chunk:
                break
            while chunk:
                await self._proxy.wait_until_resumed()
                piece, chunk = chunk[: self._proxy.chunk_size], chunk[self._proxy.chunk_size :]
                self._writer.write(piece)
                await self._writer.drain()
                await asyncio.sleep(len(piece) / self._proxy.bytes_per_second)
        self._writer.close()


def disable_nagle(writer: asyncio.StreamWriter) -> None:
    """Send each chunk at once, however small."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()
