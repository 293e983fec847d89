"""A listener: aiohttp's server with our limits, our words for bad requests, and an orderly end.

Whatever is not HTTP gets a short 400 that repeats nothing of what was sent, is counted, and closes
the connection; aiohttp's own answer and log would hold the offending line, a token perhaps.
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

from aiohttp import web
from aiohttp.http import HttpVersion, HttpVersion10, HttpVersion11
from yarl import URL

from sidegate.core.address import Address
from sidegate.core.errors import CannotListen
from sidegate.web.server.fast_path import HeadTimeouts
from sidegate.web.server.messages import problem
from sidegate.web.server.response_bytes import reply_of, whole
from sidegate.web.server.sockets import SocketFile, make_way
from sidegate.web.server.trusted_peers import TrustedPeers

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Application = web.Application

_log: Final = logging.getLogger("sidegate.door")

_OPTIONS: Final[dict[str, Any]] = {
    # Gateways let header fields of 8 to 60 KiB pass; a browser with big cookies must not be locked
    # out by us.
    "max_line_size": 32 * 1024,
    "max_field_size": 64 * 1024,
    "max_headers": 256,
    # A body nobody reads is thrown away for a second, then the connection is closed under it.
    "lingering_time": 1.0,
    "access_log": None,
}


# A Unix socket may be other processes' too. From Python 3.13 on a server removes its file.
_KEEPING_THE_FILE: Final[dict[str, Any]] = (
    {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
)

# Probes, a Prometheus and those who log users in have a few connections each; whoever has lost
# count of his own must not take the gate's descriptors.
DEFAULT_MAX_CONNECTIONS: Final = 1_000
# Strangers, peers who are not trusted, have places of their own: each gets its 403, and is gone.
MAX_UNTRUSTED: Final = 100

# Says nothing, and is one too many: it is waited for these seconds.
_PATIENCE: Final = 1.0
_NO_ROOM: Final = whole(
    reply_of(problem(HTTPStatus.SERVICE_UNAVAILABLE, ("Retry-After", "1"))),
    b"",  # a 503 need not be dated
    to_head=False,
    old=False,
    last=True,
)


class Lane(Protocol):
    """Whoever stands in front of aiohttp."""

    def __len__(self) -> int:
        """Return how many connections it has not let go."""
        ...

    def open(self) -> None: ...

    def connection(self, succession: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """Return the protocol of a new connection, which may let that of `succession` follow."""
        ...

    def drain(self) -> None:
        """From now on each answer is the last one of its connection."""
        ...

    async def close(self, *, patience: float) -> None:
        """End when what is begun is answered, or `patience` is over."""
        ...


class _Protocol(web.RequestHandler):
    """aiohttp's protocol with our words for errors, and an end to waiting for a first request."""

    def __init__(self, door: "Listener", *, awaited: bool) -> None:
        """`awaited`: a first request has to come soon, and not only to end once it has begun."""
        loop = asyncio.get_running_loop()
        super().__init__(door, loop=loop, keepalive_timeout=door.patience.idle, **_OPTIONS)
        self._door = door
        self._awaited = awaited
        self._begun = False  # a first request has
        self._giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._awaited:
            self._hurry(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        if not self._begun and self._giving_up is None and self.transport is not None:
            self._hurry(self.transport)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._do_not_hurry()
        super().connection_lost(exc)

    def begin(self) -> None:
        """Handle a request: from the first one on the connection may be silent, or slow."""
        self._begun = True
        self._do_not_hurry()

    def _hurry(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        self._giving_up = loop.call_later(self._door.patience.head, transport.abort)

    def _do_not_hurry(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # repeats what was sent
    ) -> web.StreamResponse:
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self._door.on_bad_request()
        else:
            _log.error("the %s door failed", self._door.name, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was already on its way")
        return refusal(HTTPStatus(status))


class _TurnedAway(asyncio.Protocol):
    """Says that there is no room, which to a gateway is an outage, and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._hang_up = asyncio.get_running_loop().call_later(_PATIENCE, self._transport.abort)

    def data_received(self, data: bytes) -> None:  # noqa: ARG002  # whatever it is
        # Not sooner: what arrives at a closed socket throws the answer away.
        self._transport.write(_NO_ROOM)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        self._hang_up.cancel()


class _Arrival(asyncio.Protocol):
    """A connection of which it is not known yet whose it is, and whether there is room."""

    def __init__(self, door: "Listener") -> None:
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        arrived = cast("asyncio.Transport", transport)
        protocol = self._door.receive(arrived.get_extra_info("peername"))
        if protocol is None:
            arrived.abort()
            return
        arrived.set_protocol(protocol)
        protocol.connection_made(arrived)


class Listener(web.Server):
    """One listener and its connections. Open it, and close it in the end."""

    def __init__(
        self,
        name: str,
        handler: Handler,
        *,
        on_bad_request: Callable[[], None],
        request_factory: Any = None,
        express: Lane | None = None,
        peers: TrustedPeers | None = None,
        patience: HeadTimeouts | None = None,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_bad_request` is called for each request that is not HTTP/1.0 or 1.1.

        `express` is asked first, and leaves to aiohttp what it does not want. `peers`: whom to
        trust to connect in advance, and be silent; None: nobody. Connections beyond
        `max_connections` are answered 503, whatever they ask; `on_full` is called for each. Those
        of strangers take none of that room, and are hung up on beyond MAX_STRANGERS. `patience` is
        aiohttp's lane's; the express lane has its own.
        """
        super().__init__(self._handle, request_factory=request_factory)
        self.request_factory = _with_a_target(self.request_factory)
        self.name = name
        self.on_bad_request = on_bad_request
        self.draining = False
        self._handler = handler
        self.patience = patience or HeadTimeouts()
        self._express = express
        self._peers = peers
        self._strangers: set[asyncio.Protocol] = set()
        self._max_connections = max_connections
        self._on_full = on_full
        self._listener: asyncio.Server | None = None
        self._path: SocketFile | None = None

    def __call__(self) -> web.RequestHandler:
        """Return aiohttp's protocol for whoever was trusted."""
        return _Protocol(self, awaited=False)

    def accept(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return _Arrival(self)

    def receive(self, peer: object) -> asyncio.Protocol | None:
        """Return the protocol of a connection that is made. None: hang up.

        `peer` is its socket's name for the other end.
        """
        if self._peers is not None and not self._peers.trust(peer):
            return self._receive_stranger(self._peers)
        if sum(self.lanes().values()) - len(self._strangers) >= self._max_connections:
            self._on_full()
            return _TurnedAway()
        if self._peers is None:
            return _Protocol(self, awaited=True)
        return self() if self._express is None else self._express.connection(self)

    def _receive_stranger(self, peers: TrustedPeers) -> asyncio.Protocol | None:
        if len(self._strangers) >= MAX_UNTRUSTED:
            peers.refused()
            return None
        stranger = _Protocol(self, awaited=True)
        self._strangers.add(stranger)
        return stranger

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """See web.Server."""
        super().connection_lost(handler, exc)
        self._strangers.discard(handler)

    def lanes(self) -> Mapping[str, int]:
        """Return how many connections are in each lane."""
        express = 0 if self._express is None else len(self._express)
        return {"express": express, "aiohttp": len(self.connections)}

    async def open(self, address: Address, *, socket_mode: int = 0o660) -> Address:
        """Listen, and return where: the same address with the port the system chose.

        CannotListen: the address is taken, or not ours to take.
        """
        try:
            return await self._open(address, socket_mode)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else "no such address"
            raise CannotListen(f"the {self.name} door cannot open at {address}: {why}") from error

    async def _open(self, address: Address, socket_mode: int) -> Address:
        loop = asyncio.get_running_loop()
        if self._express is not None:
            self._express.open()
        if address.inherited is not None:
            # It is ours alone, and closed with the door.
            listener = socket.socket(fileno=address.inherited)
            self._listener = await _server_on(listener, self.accept)
            return address
        if address.path is None:
            self._listener = await loop.create_server(
                self.accept, address.host or None, address.port
            )
            port = self._listener.sockets[0].getsockname()[1]
            return Address(address.host, port)
        make_way(address.path)
        self._listener = await loop.create_unix_server(self.accept, address.path)
        os.chmod(address.path, socket_mode)  # noqa: PTH101  # once, before anybody can be waiting
        self._path = SocketFile(address.path)
        return address

    def exchange(self, handler: Handler, *, peers: TrustedPeers | None = None) -> None:
        """From the next request on, let another handler answer; trust `peers` who connect."""
        self._handler, self._peers = handler, peers

    def drain(self) -> None:
        """From now on each answer asks its gateway to take another connection next time."""
        self.draining = True
        if self._express is not None:
            self._express.drain()

    async def close(self, *, patience: float) -> None:
        """Accept nobody any more, and end when what is begun is answered or `patience` is over."""
        if self._path is not None:
            self._path.remove()
        if self._listener is not None:
            self._listener.close()
        await asyncio.sleep(0)  # what arrived before is begun before the idle ones are closed
        self.pre_shutdown()
        ends = [self.shutdown(patience)]
        if self._express is not None:
            ends.append(self._express.close(patience=patience))
        await asyncio.gather(*ends)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        cast("_Protocol", request.protocol).begin()
        if request.version not in (HttpVersion10, HttpVersion11):
            self.on_bad_request()
            return refusal(HTTPStatus.BAD_REQUEST)
        response = await self._handler(request)
        if self.draining:
            response.force_close()
        return response


@asynccontextmanager
async def application_listener(
    name: str, application: web.Application, *, on_bad_request: Callable[[], None]
) -> AsyncIterator[Listener]:
    """Yield the door of an aiohttp application, started, and clean the application up after it."""
    runner = web.AppRunner(application)
    await runner.setup()
    server = runner.server
    assert server is not None  # set up
    try:
        yield Listener(
            name,
            server.request_handler,
            on_bad_request=on_bad_request,
            request_factory=server.request_factory,
        )
    finally:
        await runner.cleanup()


@asynccontextmanager
async def application_handler(application: web.Application) -> AsyncIterator[Handler]:
    """Yield the handler of an aiohttp application for a door that was another's."""
    runner = web.AppRunner(application)
    await runner.setup()
    assert runner.server is not None  # set up
    try:
        yield runner.server.request_handler
    finally:
        await runner.cleanup()


async def _server_on(
    listener: socket.socket, accept: Callable[[], asyncio.Protocol]
) -> asyncio.Server:
    """Listen on a socket that has its address already. It is non-blocking from here on."""
    loop = asyncio.get_running_loop()
    if listener.family == socket.AF_UNIX:
        return await loop.create_unix_server(accept, sock=listener, **_KEEPING_THE_FILE)
    return await loop.create_server(accept, sock=listener)


def _with_a_target(make: Any) -> Any:
    """Let no request be made without a target: aiohttp would fall over it, and never hang up.

    Its parser lets one pass, `CONNECT ` and an end of line. It becomes the HTTP/0.9 it looks like.
    """

    def request(message: Any, *rest: Any) -> Any:
        if message.path is None:
            message = message._replace(path="/", url=URL("/"), version=HttpVersion(0, 9))
        return make(message, *rest)

    return request


def refusal(status: HTTPStatus) -> web.Response:
    """Say no in few words, and close the connection."""
    answer = problem(status)
    response = web.Response(status=status, body=answer.body, headers=answer.fields)
    response.headers["Server"] = "sidegate"
    response.force_close()
    return response


async def closed_handler(_: web.BaseRequest) -> web.StreamResponse:
    """Answer for a door that nobody has a key to any more."""
    return refusal(HTTPStatus.UNAUTHORIZED)
