"""The fast path: plain requests to the gate are answered without aiohttp.

A `FastConnection` is the asyncio protocol of a connection. It passes a head that the grammar
matches to its request handler. A cache hit in memory is answered before `data_received` returns:
no task, no lock, no other socket. A miss is prefetched from the cache store, one batch for all
requests of the same loop iteration. Only a request that is still undecided gets a task of its own.
Later requests on that connection wait for it. The first request that is not plain hands the
connection over to aiohttp: its protocol takes the transport and the unanswered bytes.

There is backpressure in both directions: reading pauses while the peer does not read its responses,
and while too many bytes wait for a response. A head must end within seconds of its first byte. An
idle connection is closed after one hour, two at the most.
"""

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from typing import Final, cast

from sidegate.core.clock import Clock
from sidegate.core.protocols import Prefetched
from sidegate.web.server.grammar import Grammar
from sidegate.web.server.handler import RequestHandler
from sidegate.web.server.head_templates import HeadTemplates
from sidegate.web.server.messages import Head, build_problem_response
from sidegate.web.server.request_rules import TOKEN_CHAR
from sidegate.web.server.response_bytes import (
    EncodedResponse,
    assemble_response,
    encode_response,
    format_date_line,
)

FallbackFactory = Callable[[], asyncio.Protocol]
"""Creates the protocol that takes over a connection: aiohttp's."""

_HEAD_END: Final = b"\r\n\r\n"
# An incomplete head can still become plain if it begins like this, contains no invalid byte, and is
# not longer yet.
_HEAD_START: Final = re.compile(rb"%b{1,32}(?:\Z| (?:\Z|/))" % TOKEN_CHAR)
_INVALID_BYTES: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n")
_MAX_HEAD_SIZE: Final = 64 * 1024

# Reading pauses at this many buffered bytes.
_MAX_BUFFERED: Final = 128 * 1024
# This many pipelined requests are answered in a row before other connections get the loop.
_REQUESTS_PER_TURN: Final = range(64)

_log: Final = logging.getLogger("sidegate.listener")


@dataclass(frozen=True, slots=True)
class ConnectionTimeouts:
    """The time limits of a connection, in seconds."""

    head: float = 10.0  # from the first byte of a head to its end; for untrusted peers from connect
    idle: float = 3630.0  # longer than any gateway's own (Envoy: 1 h), so the gateway closes first


class FastPath:
    """The shared state of a listener's fast connections, and their shutdown."""

    def __init__(
        self,
        handlers: Iterable[RequestHandler],
        *,
        is_trusted: Callable[[object], bool],
        clock: Clock,
        timeouts: ConnectionTimeouts | None = None,
        sampling_interval: int = 8,
    ) -> None:
        """Serve `handlers`. Connections without `is_trusted(peername)` are handed to aiohttp.

        `sampling_interval`: see HeadTemplates.
        """
        self._sampling_interval = sampling_interval
        self.handlers = tuple(_build_templates(handlers, sampling_interval))
        self.is_trusted = is_trusted
        self.timeouts = timeouts or ConnectionTimeouts()
        self.connections: set[FastConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.connection_removed = asyncio.Event()  # closed, or handed over
        self.draining = False
        self.on_lost: Callable[[asyncio.BaseTransport], None] = lambda _: None
        self._clock = clock
        self._date_timer: asyncio.TimerHandle | None = None
        self._update_date()

    def __len__(self) -> int:
        """Return the number of open connections on the fast path."""
        return len(self.connections)

    def open(self) -> None:
        """Start to update the Date line, once a second."""
        self._update_date()
        self._date_timer = asyncio.get_running_loop().call_later(1.0, self.open)

    def create_protocol(self, fallback_factory: FallbackFactory) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return FastConnection(self, fallback_factory) if self.handlers else fallback_factory()

    def replace_handlers(
        self, handlers: Iterable[RequestHandler], *, is_trusted: Callable[[object], bool]
    ) -> None:
        """Use `handlers` from the next request on; abort connections no longer trusted."""
        self.handlers = tuple(_build_templates(handlers, self._sampling_interval))
        self.is_trusted = is_trusted
        for connection in tuple(self.connections):
            connection.use_new_handlers()

    def drain(self) -> None:
        """Close each connection after its next response."""
        self.draining = True

    async def close(self, *, drain_timeout: float) -> None:
        """Close idle connections; abort the others unless they finish in `timeout` seconds."""
        self.drain()
        if self._date_timer is not None:
            self._date_timer.cancel()
        for connection in tuple(self.connections):
            connection.close_if_idle()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_timeout):
                while self.connections:
                    self.connection_removed.clear()
                    await self.connection_removed.wait()
        for connection in tuple(self.connections):
            connection.abort()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _update_date(self) -> None:
        self.date_line = format_date_line(self._clock.now())
        self.head_end = self.date_line + b"\r\n"


def _build_templates(
    handlers: Iterable[RequestHandler], sampling_interval: int
) -> Iterator[tuple[RequestHandler, HeadTemplates]]:
    """Yield the handlers that have a grammar, with their templates; aiohttp has the others."""
    for handler in handlers:
        with suppress(ValueError):  # one header has two roles
            grammar = Grammar(handler.route, handler.roles, plain=handler.plain_forms)
            yield handler, HeadTemplates(grammar, sampling_interval=sampling_interval)


class FastConnection(asyncio.Protocol):
    """A gateway's connection, until it is closed or handed over to aiohttp."""

    def __init__(self, fast_path: FastPath, fallback_factory: FallbackFactory) -> None:
        self._fast_path = fast_path
        self._fallback_factory = fallback_factory
        self._loop = asyncio.get_running_loop()
        self._buffer = b""  # received and not answered yet
        self._in_progress = False  # a request waits for a store
        self._writing_paused = False  # the peer does not read its responses
        self._reading_paused = False
        self._yielding = False  # to other connections, until the next loop iteration
        self._has_activity = True  # since the last idle check
        self._head_timer: asyncio.TimerHandle | None = None  # runs while a head is incomplete
        self._idle_timer: asyncio.TimerHandle | None = None
        self._use_handler(*fast_path.handlers[0])

    # Callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._write = self._transport.write
        self._fast_path.connections.add(self)
        if self._fast_path.is_trusted(transport.get_extra_info("peername")):
            _enable_keepalive(transport)
            self._check_idle()
        else:
            self._hand_over()

    def data_received(self, data: bytes) -> None:
        self._has_activity = True
        if not self._buffer and not self._in_progress and not self._writing_paused:
            head = self._parse_head(data)
            if head is not None:  # exactly one request: the usual case with gateways
                self._respond(head)
                return
        self._buffer += data
        if self._must_wait():
            self._pause_reading_if_full()
        elif self._head_timer is None or self._needs_parsing(len(data)):
            self._process_buffer()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._resume()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        self._detach()
        self._fast_path.on_lost(self._transport)

    # Requests and responses

    def _process_buffer(self) -> None:
        """Answer the complete heads in order, until one has to wait."""
        for _ in _REQUESTS_PER_TURN:
            plain = self._templates.parse_first(self._buffer)
            if plain is not None:
                head, end = plain
                self._buffer = self._buffer[end:]
                self._respond(head)
            elif not self._select_handler():
                return
            if not self._buffer or self._must_wait():
                return
        self._yielding = True
        self._pause_reading_if_full()
        self._loop.call_soon(self._stop_yielding)

    def _stop_yielding(self) -> None:
        self._yielding = False
        self._resume()

    def _respond(self, head: Head) -> None:
        try:
            response = self._try_fast(head)
            if response is None:
                self._handle_miss(head)
                return
        except Exception as error:  # noqa: BLE001  # a bug: logged, and answered 500
            self._complete(*_handle_error(head, error))
            return
        self._send(head, response)

    def _send(self, head: Head, response: EncodedResponse) -> None:
        fast_path = self._fast_path
        if head.connection is None and head.method != b"HEAD" and not fast_path.draining:
            self._write(
                b"".join(
                    (
                        response.shared_head,
                        response.identity_lines,
                        fast_path.head_end,
                        response.body,
                    )
                )
            )
        else:
            self._send_unusual(head, response)

    def _send_unusual(self, head: Head, response: EncodedResponse) -> None:
        """Send a response without a body, without a later one, or to HTTP/1.0."""
        is_http10, to_head = head.is_http10 is not None, head.method == b"HEAD"
        closes = self._fast_path.draining or head.connection in (b"close", b"Close")
        self._write(
            assemble_response(
                response,
                self._fast_path.date_line,
                to_head=to_head,
                is_http10=is_http10,
                closes=closes,
            )
        )
        if closes:
            self._close()

    def _handle_miss(self, head: Head) -> None:
        """Prefetch from the cache store; where that cannot help, start a lookup."""
        self._in_progress = True
        self._prefetching = self._handler, head, perf_counter()
        if not self._handler.prefetch(head, self._on_prefetched):
            del self._prefetching
            self._start_lookup(self._handler, head)

    def _on_prefetched(self, found: Prefetched) -> None:
        handler, head, start = self._prefetching
        del self._prefetching  # the head has a token
        elapsed = perf_counter() - start
        try:
            response = handler.conclude(head, found, elapsed=elapsed)
        except Exception as error:  # noqa: BLE001  # a bug: logged, and answered 500
            head, response = _handle_error(head, error)
        if response is not None:
            self._complete(head, response)
        elif self._transport.is_closing():
            self._in_progress = False  # the peer has gone
        else:
            self._start_lookup(handler, head, elapsed=elapsed)

    def _start_lookup(
        self, handler: RequestHandler, head: Head, *, elapsed: float | None = None
    ) -> None:
        task = self._loop.create_task(self._look_up(handler, head, elapsed=elapsed))
        self._fast_path.tasks.add(task)
        task.add_done_callback(self._fast_path.tasks.discard)

    async def _look_up(self, handler: RequestHandler, head: Head, *, elapsed: float | None) -> None:
        try:
            response = encode_response(await handler.handle(head, elapsed))
        except Exception as error:  # noqa: BLE001  # a bug: logged, and answered 500
            head, response = _handle_error(head, error)
        except asyncio.CancelledError:
            self._transport.abort()
            raise
        self._complete(head, response)

    def _complete(self, head: Head, response: EncodedResponse) -> None:
        self._in_progress = False
        if not self._transport.is_closing():
            self._send(head, response)
            self._resume()

    # The buffer

    def _must_wait(self) -> bool:
        """Return whether buffered requests must wait."""
        return self._in_progress or self._writing_paused or self._yielding

    def _resume(self) -> None:
        if self._buffer and not self._must_wait():
            self._process_buffer()
        if (
            self._reading_paused
            and len(self._buffer) < _MAX_BUFFERED
            and not self._transport.is_closing()
        ):
            self._reading_paused = False
            self._transport.resume_reading()

    def _pause_reading_if_full(self) -> None:
        if not self._reading_paused and len(self._buffer) >= _MAX_BUFFERED:
            self._reading_paused = True
            self._transport.pause_reading()

    def _use_handler(self, handler: RequestHandler, templates: HeadTemplates) -> None:
        """Expect the next request for this handler: a gateway keeps using the same one."""
        self._handler, self._templates = handler, templates
        self._try_fast, self._parse_head = handler.try_fast, templates.parse

    def _select_handler(self) -> bool:
        """Use the handler that the buffered head is for, and return True.

        Return False if the head is incomplete, or the connection was handed over.
        """
        for handler, templates in self._fast_path.handlers:
            if templates.parse_first(self._buffer) is not None:
                self._use_handler(handler, templates)
                return True
        self._cancel_head_timer()
        if self._may_become_plain():
            self._head_timer = self._loop.call_later(
                self._fast_path.timeouts.head, self._on_head_timeout
            )
        else:
            self._hand_over()
        return False

    def _may_become_plain(self, begin: int = 0) -> bool:
        """Return whether the head is incomplete and can become plain; checked from `begin` on."""
        return (
            len(self._buffer) < _MAX_HEAD_SIZE
            and self._buffer.find(_HEAD_END, begin) < 0
            and _INVALID_BYTES.search(self._buffer, begin) is None
            and _HEAD_START.match(self._buffer) is not None
        )

    def _needs_parsing(self, received: int) -> bool:
        """Return whether the head is worth parsing again after `received` more bytes."""
        if self._may_become_plain(max(0, len(self._buffer) - received - len(_HEAD_END))):
            return False
        self._cancel_head_timer()
        return True

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # The end of the connection

    def use_new_handlers(self) -> None:
        """Use the new handlers; abort if the peer is no longer trusted."""
        if self._fast_path.handlers and self._fast_path.is_trusted(
            self._transport.get_extra_info("peername")
        ):
            self._use_handler(*self._fast_path.handlers[0])
        else:
            self.abort()

    def close_if_idle(self) -> None:
        """Close unless a request is in progress or buffered; its response is then the last."""
        if not self._in_progress and not self._yielding:
            self._close()

    def abort(self) -> None:
        self._transport.abort()

    def _close(self) -> None:
        """Drop the buffer, and close once everything written is sent."""
        self._buffer = b""
        self._transport.close()

    def _hand_over(self) -> None:
        """Give the transport and the buffer to aiohttp's protocol."""
        buffer = self._buffer
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        self._detach()
        fallback = self._fallback_factory()
        self._transport.set_protocol(fallback)
        fallback.connection_made(self._transport)
        # One head at a time: aiohttp drops a valid request that comes with invalid bytes behind it.
        for head in _split_heads(buffer):
            fallback.data_received(head)

    def _detach(self) -> None:
        self._buffer = b""
        self._cancel_head_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._fast_path.connections.discard(self)
        self._fast_path.connection_removed.set()

    def _on_head_timeout(self) -> None:
        self._send(
            _TIMED_OUT_HEAD, encode_response(build_problem_response(HTTPStatus.REQUEST_TIMEOUT))
        )

    def _check_idle(self) -> None:
        """Abort if there was no activity since the last check."""
        if not self._has_activity and not self._in_progress:
            self.abort()
            return
        self._has_activity = False
        self._idle_timer = self._loop.call_later(self._fast_path.timeouts.idle, self._check_idle)


def _split_heads(data: bytes) -> Iterator[bytes]:
    """Yield each part up to the end of a head, and the rest. None is empty."""
    start = 0
    while start < len(data):
        found = data.find(_HEAD_END, start + 1)
        end = len(data) if found < 0 else found + len(_HEAD_END)
        yield data[start:end]
        start = end


_TIMED_OUT_HEAD: Final = Head(b"", b"", connection=b"close")


def _handle_error(head: Head, error: Exception) -> tuple[Head, EncodedResponse]:
    """Log an unexpected error; return the closing response that aiohttp would send."""
    _log.error("request handling failed", exc_info=error, extra={"listener": "gate"})
    timed_out = isinstance(error, TimeoutError)
    status = HTTPStatus.GATEWAY_TIMEOUT if timed_out else HTTPStatus.INTERNAL_SERVER_ERROR
    return head._replace(connection=b"close"), encode_response(build_problem_response(status))


def _enable_keepalive(transport: asyncio.BaseTransport) -> None:
    """Let the system detect a peer that has gone without closing."""
    tcp_socket = transport.get_extra_info("socket")
    if tcp_socket is not None:
        tcp_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
