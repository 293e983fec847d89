"""The express lane: plain requests to the gate are answered straight from the bytes that came.

A `Connection` stands where aiohttp's protocol would. What the grammar matches it passes to the
desk, and what memory knows is answered before `data_received` returns: no task, no lock, no
socket but its own. What it does not know is fetched, if there is a store to fetch it from: one task
for all that ask in that moment. Only for what is still not known a task of its own waits. Meanwhile
all that follows on that connection waits, too. What is not plain is aiohttp's, and the connection
with it: its protocol takes over the transport and is fed what has not been answered yet.

Both directions push back: who does not read his answers is not listened to, nor is who sends too
much while he waits. A head that has begun must end within seconds. A connection on which nothing
happens is closed after one hour, two at the most.
"""

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final, cast

from sidegate.core.clock import Clock
from sidegate.web.server.grammar import Grammar
from sidegate.web.server.handler import Prefetched, RequestHandler
from sidegate.web.server.head_templates import HeadTemplates
from sidegate.web.server.messages import Head, problem
from sidegate.web.server.response_bytes import Reply, date_line, reply_of, whole

FallbackFactory = Callable[[], asyncio.Protocol]
"""Makes the protocol that takes over a connection: aiohttp's."""

_END: Final = b"\r\n\r\n"
_HEADS: Final = re.compile(rb".+?(?:\r\n\r\n|\Z)", re.DOTALL)
# A head that may become plain begins like this, has none of that in it, and is not longer yet.
_BEGINNING: Final = re.compile(rb"[A-Z]{1,9}(?:\Z| (?:\Z|/))")
_ODD: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n")
_LONGEST: Final = 64 * 1024

# So many bytes may wait for their turn, then the connection is not read from.
_PLENTY: Final = 128 * 1024
# So many requests are answered in a row, then it is the turn of other connections.
_ROW: Final = range(64)

_log: Final = logging.getLogger("sidegate.door")


@dataclass(frozen=True, slots=True)
class HeadTimeouts:
    """How many seconds each of these is waited for."""

    head: float = 10.0  # its end, once it has begun; a stranger's first, once he has connected
    idle: float = 3630.0  # outlives every gateway's own (Envoy's is an hour): none races with ours


class FastPath:
    """What the connections of a door have in common, and how they all end."""

    def __init__(
        self,
        desks: Iterable[RequestHandler],
        *,
        trust: Callable[[object], bool],
        clock: Clock,
        patience: HeadTimeouts | None = None,
        learn_every: int = 8,
    ) -> None:
        """`trust` judges a socket's name for its other end; strangers are left to aiohttp.

        `learn_every`: see Forms.
        """
        self._learn_every = learn_every
        self.plain = tuple(_plain(desks, learn_every))
        self.trust = trust
        self.patience = patience or HeadTimeouts()
        self.connections: set[FastConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.left = asyncio.Event()  # a connection has
        self.draining = False
        self._clock = clock
        self._next_second: asyncio.TimerHandle | None = None
        self._tell_time()

    def __len__(self) -> int:
        """Return how many connections are in the lane."""
        return len(self.connections)

    def open(self) -> None:
        """Tell the time from now on, at most a second late."""
        self._tell_time()
        self._next_second = asyncio.get_running_loop().call_later(1.0, self.open)

    def connection(self, succession: FallbackFactory) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return FastConnection(self, succession) if self.plain else succession()

    def exchange(self, desks: Iterable[RequestHandler], *, trust: Callable[[object], bool]) -> None:
        """From the next request on let others answer. Who is not trusted any more is hung up on."""
        self.plain, self.trust = tuple(_plain(desks, self._learn_every)), trust
        for connection in tuple(self.connections):
            connection.begin_again()

    def drain(self) -> None:
        """From now on each answer is the last one of its connection."""
        self.draining = True

    async def close(self, *, patience: float) -> None:
        """End when what is begun is answered and sent, or `patience` is over."""
        self.drain()
        if self._next_second is not None:
            self._next_second.cancel()
        for connection in tuple(self.connections):
            connection.close_unless_asking()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.connections:
                    self.left.clear()
                    await self.left.wait()
        for connection in tuple(self.connections):
            connection.abort()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _tell_time(self) -> None:
        self.date = date_line(self._clock.now())
        self.ending = self.date + b"\r\n"


def _plain(
    desks: Iterable[RequestHandler], learn_every: int
) -> Iterator[tuple[RequestHandler, HeadTemplates]]:
    """Yield each desk and how plain heads for it are read. The others are left to aiohttp."""
    for desk in desks:
        with suppress(ValueError):  # a header has two meanings
            grammar = Grammar(desk.route, desk.roles, desk.cookie)
            yield desk, HeadTemplates(grammar, learn_every=learn_every)


class FastConnection(asyncio.Protocol):
    """One gateway's connection, until it ends or is aiohttp's."""

    def __init__(self, lane: FastPath, succession: FallbackFactory) -> None:
        self._lane = lane
        self._succession = succession
        self._loop = asyncio.get_running_loop()
        self._received = b""  # and not answered yet
        self._asking = False  # somebody, for the request that is being answered
        self._slow = False  # does not read what we write
        self._held = False  # is not read from
        self._yielding = False  # to other connections, until its next turn
        self._lively = True  # something has happened since the last look
        self._unfinished: asyncio.TimerHandle | None = None  # runs once a head has begun
        self._next_look: asyncio.TimerHandle | None = None
        self._turn_to(*lane.plain[0])

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._write = self._transport.write
        self._lane.connections.add(self)
        if self._lane.trust(transport.get_extra_info("peername")):
            _probe_when_silent(transport)
            self._look_if_idle()
        else:
            self._hand_over()

    def data_received(self, data: bytes) -> None:
        self._lively = True
        if not self._received and not self._asking and not self._slow:
            head = self._read(data)
            if head is not None:  # one whole request and no more: this is how gateways ask
                self._answer(head)
                return
        self._received += data
        if self._waits():
            self._hold_if_plenty()
        elif self._unfinished is None or self._has_finished(len(data)):
            self._go_on()

    def pause_writing(self) -> None:
        self._slow = True

    def resume_writing(self) -> None:
        self._slow = False
        self._resume()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        self._leave()

    # What is answered

    def _go_on(self) -> None:
        """Answer what is whole, in the order it came, until somebody has to be waited for."""
        for _ in _ROW:
            plain = self._forms.first(self._received)
            if plain is not None:
                head, end = plain
                self._received = self._received[end:]
                self._answer(head)
            elif not self._turn_to_another():
                return
            if not self._received or self._waits():
                return
        self._yielding = True
        self._hold_if_plenty()
        self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._yielding = False
        self._resume()

    def _answer(self, head: Head) -> None:
        lane = self._lane
        try:
            reply = self._at_once(head)
            if reply is None:
                self._ask(head)
                return
        except Exception as error:  # noqa: BLE001  # the last line: whatever it is, it is told
            self._answered(*_failed(head, error))
            return
        if head.connection is None and head.method != b"HEAD" and not lane.draining:
            self._write(b"".join((reply.common, reply.own, lane.ending, reply.body)))
        else:
            self._send(head, reply)

    def _send(self, head: Head, reply: Reply) -> None:
        old, to_head = head.old is not None, head.method == b"HEAD"
        last = self._lane.draining or head.connection in (b"close", b"Close")
        self._write(whole(reply, self._lane.date, to_head=to_head, old=old, last=last))
        if last:
            self._end()

    def _ask(self, head: Head) -> None:
        """Have fetched what memory cannot tell; where there is no use in that, look it up."""
        self._asking = True
        if not self._desk.prefetch(head, partial(self._fetched, self._desk, head)):
            self._look_up(self._desk, head)

    def _fetched(self, desk: RequestHandler, head: Head, fetched: Prefetched) -> None:
        try:
            reply = desk.try_fast(head, fetched)
        except Exception as error:  # noqa: BLE001  # the last line: whatever it is, it is told
            head, reply = _failed(head, error)
        if reply is not None:
            self._answered(head, reply)
        elif self._transport.is_closing():
            self._asking = False  # nobody is left to look it up for
        else:
            self._look_up(desk, head, fetched.waited)

    def _look_up(self, desk: RequestHandler, head: Head, waited: float | None = None) -> None:
        task = self._loop.create_task(self._looked_up(desk, head, waited))
        self._lane.tasks.add(task)
        task.add_done_callback(self._lane.tasks.discard)

    async def _looked_up(self, desk: RequestHandler, head: Head, waited: float | None) -> None:
        try:
            reply = reply_of(await desk.answer(head, waited))
        except Exception as error:  # noqa: BLE001  # the last line: whatever it is, it is told
            head, reply = _failed(head, error)
        except asyncio.CancelledError:
            self._transport.abort()
            raise
        self._answered(head, reply)

    def _answered(self, head: Head, reply: Reply) -> None:
        self._asking = False
        if not self._transport.is_closing():
            self._send(head, reply)
            self._resume()

    # What is not answered yet

    def _waits(self) -> bool:
        """Say whether what is received has to wait: for an answer, for its reader, for its turn."""
        return self._asking or self._slow or self._yielding

    def _resume(self) -> None:
        if self._received and not self._waits():
            self._go_on()
        if self._held and len(self._received) < _PLENTY and not self._transport.is_closing():
            self._held = False
            self._transport.resume_reading()

    def _hold_if_plenty(self) -> None:
        if not self._held and len(self._received) >= _PLENTY:
            self._held = True
            self._transport.pause_reading()

    def _turn_to(self, desk: RequestHandler, forms: HeadTemplates) -> None:
        """Expect the next request to be for this desk: gateways ask the same one again."""
        self._desk, self._forms = desk, forms
        self._at_once, self._read = desk.try_fast, forms.read

    def _turn_to_another(self) -> bool:
        """Turn to whoever the request is for. False: its head is waited for, or aiohttp has it."""
        for desk, forms in self._lane.plain:
            if forms.first(self._received) is not None:
                self._turn_to(desk, forms)
                return True
        self._forget_unfinished()
        if self._may_become_plain():
            self._unfinished = self._loop.call_later(self._lane.patience.head, self._give_up)
        else:
            self._hand_over()
        return False

    def _may_become_plain(self, begin: int = 0) -> bool:
        """Say whether a head has begun well and not ended. Up to `begin` that is known already."""
        return (
            len(self._received) < _LONGEST
            and self._received.find(_END, begin) < 0
            and _ODD.search(self._received, begin) is None
            and _BEGINNING.match(self._received) is not None
        )

    def _has_finished(self, fresh: int) -> bool:
        """Say whether a head that had begun is worth another look, for these many fresh bytes."""
        if self._may_become_plain(max(0, len(self._received) - fresh - len(_END))):
            return False
        self._forget_unfinished()
        return True

    def _forget_unfinished(self) -> None:
        if self._unfinished is not None:
            self._unfinished.cancel()
            self._unfinished = None

    # How it ends

    def begin_again(self) -> None:
        """Turn to the desks that answer now; hang up if the gateway is not trusted any more."""
        if self._lane.plain and self._lane.trust(self._transport.get_extra_info("peername")):
            self._turn_to(*self._lane.plain[0])
        else:
            self.abort()

    def close_unless_asking(self) -> None:
        """Close it now unless an answer is awaited, or about to be, which will be its last one."""
        if not self._asking and not self._yielding:
            self._end()

    def abort(self) -> None:
        self._transport.abort()

    def _end(self) -> None:
        """Close it when all is sent that was written."""
        self._received = b""
        self._transport.close()

    def _hand_over(self) -> None:
        """Let aiohttp have it, with all that is not answered."""
        received = self._received
        if self._held:
            self._held = False
            self._transport.resume_reading()
        self._leave()
        successor = self._succession()
        self._transport.set_protocol(successor)
        successor.connection_made(self._transport)
        # One after the other: for junk behind it, aiohttp would forget a good request.
        for head in _HEADS.findall(received):
            successor.data_received(head)

    def _leave(self) -> None:
        self._received = b""
        self._forget_unfinished()
        if self._next_look is not None:
            self._next_look.cancel()
        self._lane.connections.discard(self)
        self._lane.left.set()

    def _give_up(self) -> None:
        self._send(_A_LATE_HEAD, reply_of(problem(HTTPStatus.REQUEST_TIMEOUT)))

    def _look_if_idle(self) -> None:
        """Hang up if nothing has happened since the last look."""
        if not self._lively and not self._asking:
            self.abort()
            return
        self._lively = False
        self._next_look = self._loop.call_later(self._lane.patience.idle, self._look_if_idle)


_A_LATE_HEAD: Final = Head(b"", b"", connection=b"close")


def _failed(head: Head, error: Exception) -> tuple[Head, Reply]:
    """Tell a bug to the log, and to the gateway, as its last answer, what aiohttp's lane would."""
    _log.error("the gate door failed", exc_info=error)
    late = isinstance(error, TimeoutError)
    status = HTTPStatus.GATEWAY_TIMEOUT if late else HTTPStatus.INTERNAL_SERVER_ERROR
    return head._replace(connection=b"close"), reply_of(problem(status))


def _probe_when_silent(transport: asyncio.BaseTransport) -> None:
    """Let the system find out when the other end is gone without a word."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
