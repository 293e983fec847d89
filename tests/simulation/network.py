"""The network between processes and servers: connections in memory.

A connection delays what is sent on it, and keeps its order. While a link is silent nothing arrives;
what was sent arrives when it speaks again, even if the sender has closed by then, as with TCP.
"""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from random import Random
from typing import Any, Protocol

from tests.simulation.event_loop import Process, SimulatedLoop, current_process

# Seconds on the way.
_LATENCY = (0.0001, 0.0006)


class Session(Protocol):
    """What a server keeps for one connection."""

    @property
    def is_subscribed(self) -> bool: ...

    def receive(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Server(Protocol):
    """A server that accepts connections. Its work is done in `process`."""

    process: Process
    is_up: bool

    def accept(self, send: Callable[[bytes], None]) -> Session: ...


class Link:
    """The way of one process to one address, which leads to `server`."""

    def __init__(self, loop: SimulatedLoop, server: Server, random: Random) -> None:
        self._loop = loop
        self.server = server
        self._random = random
        self.is_cut = False  # connections are refused and reset
        self.extra_delay = 0.0
        self._silent_until = 0.0
        self.connections: list[Connection] = []

    def draw_arrival(self, not_before: float) -> float:
        """Return when something arrives that is sent now."""
        arrives_at = self._loop.time() + self._random.uniform(*_LATENCY) + self.extra_delay
        return max(arrives_at, not_before, self._silent_until)

    def silence(self, seconds: float) -> None:
        self._silent_until = max(self._silent_until, self._loop.time() + seconds)

    def reset(self) -> None:
        """Reset all connections, as when the server dies or the link is cut."""
        for connection in self.connections[:]:
            connection.break_off()

    async def connect(self, protocol_factory: Callable[[], Any]) -> tuple[Any, Any]:
        delay = self.draw_arrival(0.0) - self._loop.time()
        await asyncio.sleep(2 * delay)
        if self.is_cut or not self.server.is_up:
            raise ConnectionRefusedError("refused by the simulated network")
        connection = Connection(self._loop, self, protocol_factory())
        return connection, connection.protocol


class Connection(asyncio.Transport):
    """The client's end of a connection."""

    def __init__(self, loop: SimulatedLoop, link: Link, protocol: Any) -> None:
        super().__init__()
        self._loop = loop
        self._link = link
        self.protocol = protocol
        self._client = copy_context()
        self.owner = current_process()
        self._server = link.server
        self._session = link.server.accept(self._send_to_client)
        self._is_closing = False
        self._is_lost = False
        self._next_to_server = self._next_to_client = 0.0
        link.connections.append(self)
        loop.on_discard.append(self._mark_as_closed)
        protocol.connection_made(self)

    @property
    def is_subscribed(self) -> bool:
        """Whether the client receives messages on it."""
        return self._session.is_subscribed

    # The client's side

    def write(self, data: Any) -> None:
        if self._is_closing:
            return
        self._next_to_server = self._link.draw_arrival(self._next_to_server)
        self._loop.call_at(
            self._next_to_server,
            self._receive_at_server,
            bytes(data),
            context=self._server.process.context,
        )

    def close(self) -> None:
        self._end(None)
        self._next_to_server = self._link.draw_arrival(self._next_to_server)
        self._loop.call_at(
            self._next_to_server, self._session.close, context=self._server.process.context
        )

    abort = close

    def is_closing(self) -> bool:
        return self._is_closing

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Go on: what arrives is small."""

    def resume_reading(self) -> None:
        """Go on: nothing was paused."""

    # The server's side

    def break_off(self) -> None:
        """Lose the connection on both sides. What is on the way does not arrive."""
        self._is_lost = True
        self._session.close()
        self._loop.call_at(
            self._link.draw_arrival(self._next_to_client),
            self._end,
            ConnectionResetError("reset by the simulated network"),
            context=self._client,
        )
        self._forget()

    def _receive_at_server(self, data: bytes) -> None:
        if not self._is_lost:
            self._session.receive(data)

    def _send_to_client(self, data: bytes) -> None:
        self._next_to_client = self._link.draw_arrival(self._next_to_client)
        self._loop.call_at(
            self._next_to_client, self._receive_at_client, data, context=self._client
        )

    def _receive_at_client(self, data: bytes) -> None:
        if not self._is_closing and not self._is_lost:
            self.protocol.data_received(data)

    def _end(self, error: Exception | None) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self._forget()
        self._loop.call_soon(self.protocol.connection_lost, error, context=self._client)

    def _mark_as_closed(self) -> None:
        self._is_closing = True

    def _forget(self) -> None:
        if self in self._link.connections:
            self._link.connections.remove(self)


class Network:
    """Routes the connections of each process."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._links: dict[Process, Link] = {}
        loop.connect = self._connect

    def add(self, process: Process, link: Link) -> None:
        self._links[process] = link

    async def _connect(self, protocol_factory: Callable[[], Any], *_: object) -> tuple[Any, Any]:
        return await self._links[current_process()].connect(protocol_factory)
