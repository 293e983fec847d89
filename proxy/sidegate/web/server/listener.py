"""A listener: aiohttp's server with limits, short error responses and a graceful shutdown.

A request that is not valid HTTP is counted and gets a short 400 that closes the connection. It
does not repeat the request: aiohttp's own response and log line would contain the offending
header line, which may hold a token.

ops and admin, whose peers are not listed, close idle connections to make room for new ones, start
their requests one by one, and parse large input in pieces (`ConnectionLimits.protects_others`).
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Protocol, Required, TypedDict, Unpack, cast

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod
from aiohttp.web_protocol import ERROR as _PARSE_ERROR

from sidegate.core.address import Address
from sidegate.core.errors import CannotListen
from sidegate.web.server.connection_table import ConnectionTable, get_peer
from sidegate.web.server.fast_path import ConnectionTimeouts
from sidegate.web.server.messages import build_problem_response
from sidegate.web.server.pacing import InputPacer, RequestPacer
from sidegate.web.server.request_rules import (
    PREFACE,
    has_unknown_method,
    is_valid,
    replace_refused,
    to_origin_form,
)
from sidegate.web.server.response_bytes import assemble_response, encode_response
from sidegate.web.server.sockets import (
    SocketFile,
    bind_port,
    is_every_address,
    remove_stale_socket,
)
from sidegate.web.server.trusted_peers import TrustedPeers

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Application = web.Application

_log: Final = logging.getLogger("sidegate.listener")

_AIOHTTP_OPTIONS: Final[dict[str, Any]] = {
    # Gateways accept header fields of 8 to 60 KiB; a browser with big cookies must pass here too.
    "max_line_size": 32 * 1024,
    "max_field_size": 64 * 1024,
    "max_headers": 256,
    # An unread body is discarded for this many seconds, then the connection is closed.
    "lingering_time": 1.0,
    "access_log": None,
}


# Other processes may listen on the same Unix socket: Python 3.13 and later would remove its file.
_KEEP_SOCKET_FILE: Final[dict[str, Any]] = (
    {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
)

# Health checks, Prometheus and login backends have a few connections each. A client that leaks
# connections must not take the gate's file descriptors.
DEFAULT_MAX_CONNECTIONS: Final = 1_000
# Connections that may wait to be accepted, if the system allows as many. A gateway whose connection
# finds no place waits a second, and at a socket file it fails at once.
_BACKLOG: Final = 1_024
# Untrusted peers are counted separately: each gets a 403 and is disconnected.
MAX_UNTRUSTED_CONNECTIONS: Final = 100

# Seconds between two responses to requests without a valid key, of all connections.
_REFUSAL_INTERVAL: Final = 0.005
# Without a key, or a valid host, which is looked at first. Clients with a key seldom get these.
_REFUSALS: Final = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
)
# Bytes that are parsed at once: of a body of tiny chunks about 2 ms.
_INPUT_PIECE: Final = 4096

# The key of a request's values that is set if it violates the rules.
_IS_REFUSED: Final = web.RequestKey("is_refused", bool)

# Bytes of a head that are kept until it is parsed: more than a method or a preface has.
_HEAD_START_SIZE: Final = 80

_PREFACE_DETAIL: Final = "this is HTTP/2 without TLS; this listener speaks HTTP/1.1"
# Seconds between two log lines about clients of HTTP/2.
_PREFACE_LOG_INTERVAL: Final = 60.0

# Seconds until a surplus connection is aborted if it sends nothing.
_OVERLOAD_TIMEOUT: Final = 1.0
_OVERLOAD_RESPONSE: Final = assemble_response(
    encode_response(build_problem_response(HTTPStatus.SERVICE_UNAVAILABLE, ("Retry-After", "1"))),
    b"",  # a 503 needs no Date
    to_head=False,
    is_http10=False,
    closes=True,
)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections a listener and each of its peers may have.

    `protects_others`: at a limit, close the longest idle connection for a new one instead of
    answering 503 to it; start the requests one by one, `interval` seconds apart; let those without
    a valid key wait; and parse large input piece by piece. So the event loop has time for other
    listeners.
    """

    total: int
    per_peer: int
    protects_others: bool = False
    interval: float = 0.0


class ListenerOptions(TypedDict, total=False):
    """The keyword arguments of a Listener that depend on settings and metrics."""

    on_bad_request: Required[Callable[[], None]]
    timeouts: ConnectionTimeouts
    limits: ConnectionLimits
    on_full: Callable[[], None]
    on_evicted: Callable[[], None]
    checks_host: bool


class FastPathProtocol(Protocol):
    """The fast path, as the listener uses it: protocols that run in front of aiohttp's."""

    on_lost: Callable[[asyncio.BaseTransport], None]
    """Is called for each closed connection that was not handed over."""

    def __len__(self) -> int:
        """Return the number of connections not handed over."""
        ...

    def open(self) -> None: ...

    def create_protocol(self, fallback_factory: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """Return the protocol of a new connection, which may hand it to `fallback_factory()`."""
        ...

    def drain(self) -> None:
        """Close each connection after its next response."""
        ...

    async def close(self, *, drain_timeout: float) -> None:
        """Close idle connections; abort the others after `drain_timeout` seconds."""
        ...


class _HttpProtocol(web.RequestHandler):
    """aiohttp's protocol with short error responses and a time limit for each head."""

    def __init__(self, listener: "Listener", *, from_connect: bool) -> None:
        """`from_connect`: start the head timer at connect, not at the first byte."""
        loop = asyncio.get_running_loop()
        super().__init__(
            listener, loop=loop, keepalive_timeout=listener.timeouts.idle, **_AIOHTTP_OPTIONS
        )
        self._listener = listener
        self._from_connect = from_connect
        self._has_request = False  # in progress
        self._head_timer: asyncio.TimerHandle | None = None
        self._input = b""  # not parsed yet; meanwhile nothing more is read
        self._head_start = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.accepted = cast("asyncio.Transport", transport)  # kept by aiohttp only while open
        if self._from_connect:
            self._start_head_timer(self.accepted)

    def data_received(self, data: bytes) -> None:
        if not self._has_request and self._head_timer is None and self.transport is not None:
            self._start_head_timer(self.transport)
        if not self._has_request and len(self._head_start) < _HEAD_START_SIZE:
            self._head_start = (self._head_start + data)[:_HEAD_START_SIZE]
        if data and self._listener.protects_others:
            self._receive_paced(data)
        else:  # no data: aiohttp continues to parse
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._cancel_head_timer()
        self._listener.input.discard(self)
        super().connection_lost(exc)

    def parse_piece(self) -> None:
        """Parse a piece of what was received, unless aiohttp wants no more for now."""
        if self.transport is None or self._is_reading_paused():
            return
        piece, self._input = self._input[:_INPUT_PIECE], self._input[_INPUT_PIECE:]
        super().data_received(piece)
        if not self._is_reading_paused():
            self._resume_transport_reading()

    def _is_reading_paused(self) -> bool:
        """Return whether aiohttp has paused: it will resume by `_resume_transport_reading`."""
        return self._reading_paused or self._buffer_paused

    def _receive_paced(self, data: bytes) -> None:
        """Parse the first piece at once: usually it is all."""
        if self._input:
            self._input += data
            return
        super().data_received(data[:_INPUT_PIECE])
        self._input = data[_INPUT_PIECE:]
        if self._input:
            self._pause_transport_reading()
            self._listener.input.add(self)

    def _resume_transport_reading(self) -> None:
        """Read again, as aiohttp wants to; what was received before comes first."""
        if self._input:
            self._listener.input.add(self)
        else:
            super()._resume_transport_reading()

    def on_request(self) -> None:
        """Stop the timer until the response is there: what comes meanwhile is a body."""
        self._has_request = True
        self._cancel_head_timer()

    def on_response(self) -> None:
        self._has_request = False
        self._head_start = b""

    def _start_head_timer(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        self._head_timer = loop.call_later(self._listener.timeouts.head, transport.abort)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # repeats the request
    ) -> web.StreamResponse:
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self._listener.on_bad_request()
            if self._head_start.startswith(PREFACE):
                self._listener.log_preface()
                return build_error_response(HTTPStatus.BAD_REQUEST, detail=_PREFACE_DETAIL)
            if isinstance(exc, BadHttpMethod) and has_unknown_method(self._head_start):
                status = HTTPStatus.NOT_IMPLEMENTED
        else:
            _log.error(
                "request handling failed", exc_info=exc, extra={"listener": self._listener.name}
            )
        if request.writer.output_size > 0:
            raise ConnectionError("the response has already started")
        return build_error_response(HTTPStatus(status))


class _OverloadProtocol(asyncio.Protocol):
    """A connection beyond the limit: responds 503 to its first bytes, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(
            _OVERLOAD_TIMEOUT, self._transport.abort
        )

    def data_received(self, data: bytes) -> None:  # noqa: ARG002  # any request
        # Not at connect: bytes that arrive at a closed socket reset it and discard the response.
        self._transport.write(_OVERLOAD_RESPONSE)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        self._timer.cancel()


class _NewConnectionProtocol(asyncio.Protocol):
    """A new connection, before its peer and the connection limit are checked."""

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        new = cast("asyncio.Transport", transport)
        protocol = self._listener.select_protocol(new)
        if protocol is None:
            new.abort()
            return
        new.set_protocol(protocol)
        protocol.connection_made(new)


class Listener(web.Server):
    """One listening address and its connections. Call `open`, and `close` in the end."""

    def __init__(
        self,
        name: str,
        handler: Handler,
        *,
        on_bad_request: Callable[[], None],
        request_factory: Any = None,
        checks_host: bool = True,
        fast_path: FastPathProtocol | None = None,
        peers: TrustedPeers | None = None,
        timeouts: ConnectionTimeouts | None = None,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        limits: ConnectionLimits | None = None,
        on_full: Callable[[], None] = lambda: None,
        on_evicted: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_bad_request` is called for each request that is not HTTP/1.0 or 1.1.

        `checks_host`: whether an invalid Host is answered here, not by `handler`.

        `fast_path` gets each trusted connection first, and hands over to aiohttp what it cannot
        serve. `peers` may connect before they have a request; None: every peer must send its first
        head within the time limit. A connection beyond `max_connections` gets 503, and
        `on_full` is called. Untrusted peers do not count against it; beyond
        MAX_UNTRUSTED_CONNECTIONS they are aborted. `timeouts` hold for the aiohttp path; the fast
        path has its own. `limits` replace `max_connections`; `on_evicted` is called for each idle
        connection that is closed for a new one.
        """
        super().__init__(self._handle, request_factory=request_factory)
        self.request_factory = _keep_rules(self.request_factory, checks_host=checks_host)
        self.name = name
        self.on_bad_request = on_bad_request
        self.draining = False
        self._handler = handler
        self.timeouts = timeouts or ConnectionTimeouts()
        self._fast_path = fast_path
        self._peers = peers
        self._untrusted: set[asyncio.Protocol] = set()
        self._on_full = on_full
        self._on_evicted = on_evicted
        self._limits = limits or ConnectionLimits(max_connections, max_connections)
        self._table = ConnectionTable[asyncio.BaseTransport](
            max_connections=self._limits.total, max_per_peer=self._limits.per_peer
        )
        self._requests = RequestPacer(self._limits.interval)
        self.input = InputPacer()
        self._refusals = RequestPacer(_REFUSAL_INTERVAL)
        if fast_path is not None:
            fast_path.on_lost = self._table.remove
        self._next_preface_log = 0.0
        self._server: asyncio.Server | None = None
        self._socket_file: SocketFile | None = None

    @property
    def protects_others(self) -> bool:
        """Whether the connections of this listener leave time for others."""
        return self._limits.protects_others

    def __call__(self) -> web.RequestHandler:
        """Return aiohttp's protocol for a trusted peer."""
        return _HttpProtocol(self, from_connect=False)

    def accept(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return _NewConnectionProtocol(self)

    def select_protocol(self, transport: asyncio.Transport) -> asyncio.Protocol | None:
        """Return the protocol for a new connection, or None to abort it."""
        peername = transport.get_extra_info("peername")
        if self._peers is not None and not self._peers.is_trusted(peername):
            return self._accept_untrusted(self._peers)
        peer = get_peer(peername)
        if not self._make_room(peer):
            self._on_full()
            return _OverloadProtocol()
        self._table.add(transport, peer)
        if self._peers is None:
            return _HttpProtocol(self, from_connect=True)
        return self() if self._fast_path is None else self._fast_path.create_protocol(self)

    def _make_room(self, peer: str) -> bool:
        """Return whether one more connection of `peer` is within the limits.

        Close idle ones of it, or of others, if that is allowed and helps.
        """
        while self._table.is_full_for(peer):
            idle = self._table.remove_idle_for(peer) if self._limits.protects_others else None
            if idle is None:
                return False
            cast("asyncio.Transport", idle).abort()  # it may have a response that is not read
            self._on_evicted()
        return True

    def _accept_untrusted(self, peers: TrustedPeers) -> asyncio.Protocol | None:
        if len(self._untrusted) >= MAX_UNTRUSTED_CONNECTIONS:
            peers.on_refused()
            return None
        protocol = _HttpProtocol(self, from_connect=True)
        self._untrusted.add(protocol)
        return protocol

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Count the connection as closed; called by aiohttp's protocol."""
        super().connection_lost(handler, exc)
        self._untrusted.discard(handler)
        self._table.remove(cast("_HttpProtocol", handler).accepted)

    def count_connections(self) -> Mapping[str, int]:
        """Return the number of open connections by HTTP path."""
        fast = 0 if self._fast_path is None else len(self._fast_path)
        return {"fast": fast, "aiohttp": len(self.connections)}

    async def open(self, address: Address, *, socket_mode: int = 0o660) -> Address:
        """Listen, and return the address, with the port that the system chose for port 0.

        Raise CannotListen if the address is in use, invalid or not permitted.
        """
        try:
            return await self._open(address, socket_mode)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else "no such address"
            raise CannotListen(
                f"the {self.name} listener cannot open at {address}: {reason}"
            ) from error

    async def _open(self, address: Address, socket_mode: int) -> Address:
        loop = asyncio.get_running_loop()
        if self._fast_path is not None:
            self._fast_path.open()
        if address.fd is not None:
            # This process owns the descriptor; the server closes it.
            bound = socket.socket(fileno=address.fd)
            self._server = await _start_server(bound, self.accept)
            return address
        if address.path is None:
            if is_every_address(address.host):
                # asyncio would listen on IPv6 alone, or on two ports of the system's choice.
                bound = bind_port(address.host, address.port, shared=False)
                self._server = await _start_server(bound, self.accept)
            else:
                self._server = await loop.create_server(
                    self.accept, address.host, address.port, backlog=_BACKLOG
                )
            port = self._server.sockets[0].getsockname()[1]
            return Address(address.host, port)
        remove_stale_socket(address.path)
        self._server = await loop.create_unix_server(self.accept, address.path, backlog=_BACKLOG)
        os.chmod(address.path, socket_mode)  # noqa: PTH101  # once, before the loop accepts
        self._socket_file = SocketFile(address.path)
        return address

    def replace_handler(self, handler: Handler, *, peers: TrustedPeers | None = None) -> None:
        """Use another handler from the next request, and other peers from the next connection."""
        self._handler, self._peers = handler, peers

    def drain(self) -> None:
        """Close each connection after its next response."""
        self.draining = True
        if self._fast_path is not None:
            self._fast_path.drain()

    async def close(self, *, drain_timeout: float) -> None:
        """Stop accepting; wait up to `drain_timeout` seconds for requests in progress."""
        if self._socket_file is not None:
            self._socket_file.remove()
        if self._server is not None:
            self._server.close()
        await asyncio.sleep(0)  # requests that have arrived start before idle ones are closed
        self.pre_shutdown()
        shutdowns = [self.shutdown(drain_timeout)]
        if self._fast_path is not None:
            shutdowns.append(self._fast_path.close(drain_timeout=drain_timeout))
        await asyncio.gather(*shutdowns)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = cast("_HttpProtocol", request.protocol)
        protocol.on_request()
        self._table.set_busy(protocol.accepted, busy=True)
        try:
            if not self._limits.protects_others:
                return await self._respond(request)
            await self._requests.wait_for_turn()
            response = await self._respond(request)
            if response.status in _REFUSALS:
                await self._refusals.wait_for_turn()
            return response
        finally:
            self._table.set_busy(protocol.accepted, busy=False)
            protocol.on_response()

    def log_preface(self) -> None:
        """Log a client of HTTP/2, at most once a minute: a misconfigured gateway repeats it."""
        now = asyncio.get_running_loop().time()
        if now >= self._next_preface_log:
            self._next_preface_log = now + _PREFACE_LOG_INTERVAL
            _log.warning(
                "newer http version refused",
                extra={"listener": self.name, "hint": "configure the gateway to use HTTP/1.1"},
            )

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        if _IS_REFUSED in request:
            self.on_bad_request()
            return build_error_response(HTTPStatus.BAD_REQUEST)
        response = await self._handler(request)
        if self.draining:
            response.force_close()
        return response


@asynccontextmanager
async def application_listener(
    name: str, application: web.Application, **options: Unpack[ListenerOptions]
) -> AsyncIterator[Listener]:
    """Yield a listener for an aiohttp application, and clean the application up afterwards."""
    runner = web.AppRunner(application)
    await runner.setup()
    server = runner.server
    assert server is not None  # set up
    try:
        handler, request_factory = server.request_handler, server.request_factory
        yield Listener(name, handler, request_factory=request_factory, **options)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def application_handler(application: web.Application) -> AsyncIterator[Handler]:
    """Yield the handler of an aiohttp application, for a listener that is already open."""
    runner = web.AppRunner(application)
    await runner.setup()
    assert runner.server is not None  # set up
    try:
        yield runner.server.request_handler
    finally:
        await runner.cleanup()


async def _start_server(
    bound: socket.socket, accept: Callable[[], asyncio.Protocol]
) -> asyncio.Server:
    """Listen on a bound socket, which becomes non-blocking."""
    loop = asyncio.get_running_loop()
    if bound.family == socket.AF_UNIX:
        return await loop.create_unix_server(
            accept, sock=bound, backlog=_BACKLOG, **_KEEP_SOCKET_FILE
        )
    return await loop.create_server(accept, sock=bound, backlog=_BACKLOG)


def _keep_rules(factory: Any, *, checks_host: bool) -> Any:
    """Return a factory of requests that says which of them to refuse, by `_IS_REFUSED`.

    Without a target, aiohttp fails and leaves the connection open. Its parser accepts one such
    request: `CONNECT ` and a line end.
    """

    def build_request(message: Any, *rest: Any) -> Any:
        if message is _PARSE_ERROR:
            return factory(replace_refused(message), *rest)
        message = to_origin_form(message)
        if is_valid(message, checks_host=checks_host):
            return factory(message, *rest)
        request = factory(replace_refused(message), *rest)
        request[_IS_REFUSED] = True
        return request

    return build_request


class AnonymousResponse(web.Response):
    """A response that does not name the server: gateways pass it to clients."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        del self.headers["Server"]


def build_error_response(status: HTTPStatus, *, detail: str | None = None) -> web.Response:
    """Return a short problem document that closes the connection."""
    document = build_problem_response(status, detail=detail)
    response = AnonymousResponse(status=status, body=document.body, headers=document.fields)
    response.force_close()
    return response


async def deny_all(_: web.BaseRequest) -> web.StreamResponse:
    """Respond 401: the listener has no API keys any more."""
    return build_error_response(HTTPStatus.UNAUTHORIZED)
