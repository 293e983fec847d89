"""Where the time of a hit in memory goes, function by function, in this process alone.

Built as in production, with every feature on: only the bytes come from no socket and go to none.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from timeit import repeat
from typing import Any, Final, NamedTuple

from sidegate.core.token import KeyRing, TokenKey, token_text_of, unverified_digest_of
from sidegate.runtime.container import Container, build_services
from sidegate.settings import load
from sidegate.web.gate.app import build_handlers
from sidegate.web.gate.check import Check
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.server.fast_path import FastPath
from tests.bench.questions import subrequest
from tests.bench.sessions import new_known, record_of
from tests.bench.stage import EVERYTHING_ON

_KEY: Final = TokenKey(1, bytes(range(32)))

# Each is called so often in a row; the quickest of so many rows counts: the others were disturbed.
_CALLS: Final = 10_000
_ROWS: Final = 15


class Cost(NamedTuple):
    """What a call takes, in microseconds, and how deep it lies in the one above it."""

    function: str
    microseconds: float
    depth: int = 0


class _Sink(asyncio.Transport):
    """Takes what is written, as a socket that is always ready."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.last: Any = b""

    def write(self, data: Any) -> None:
        self.last = data


async def profiled(*, calls: int = _CALLS, rows: int = _ROWS) -> Sequence[Cost]:
    """Time a hit, and the functions it calls. The last row is what stands between them."""
    environ = EVERYTHING_ON | {
        # Nobody is there: the clock that instances share is all that it is for.
        "SIDEGATE_DATABASE_URL": "postgresql://127.0.0.1:1/nobody",
        "SIDEGATE_TOKEN__KEYS": _KEY.formatted(),
    }
    async with build_services(load(None, environ)) as house:
        timed = [
            Cost(function, min(repeat(call, number=calls, repeat=rows)) / calls * 1e6, depth)
            for function, depth, call in _functions(house)
        ]
    whole, *parts = timed
    rest = whole.microseconds - sum(part.microseconds for part in parts if part.depth == 1)
    return [*timed, Cost("calls, and what stands between them", rest, 1)]


def table(costs: Sequence[Cost]) -> str:
    """Return the costs as text."""
    return "\n".join(
        f"{cost.microseconds:6.2f} µs  {'  ' * cost.depth}{cost.function}" for cost in costs
    )


def _functions(house: Container) -> Iterator[tuple[str, int, Callable[[], object]]]:
    known = new_known(1, KeyRing([_KEY]))
    house.local.put_nowait(record_of(known, datetime.now(UTC)).session)
    sources, sink = CredentialSources(), _Sink()
    desk = _desk(house, sources)
    lane = FastPath([desk], trust=lambda _: True, clock=house.means.clock, learn_every=1)
    connection: Any = lane.connection(asyncio.Protocol)
    connection.connection_made(sink)
    raw = subrequest(known, path=desk.route).encode("ascii")
    for _ in range(3):  # the form is learnt, the answer is noted
        connection.data_received(raw)
    assert sink.last.startswith(b"HTTP/1.1 200 OK\r\n")

    [(_, forms)] = lane.plain
    head = forms.read(raw)
    spelling = token_text_of(known.token.text)
    assert head is not None
    assert spelling is not None
    digest, now = unverified_digest_of(spelling), house.means.clock.now()
    session = house.local.get_nowait(digest)
    assert session is not None
    said: Any = session.cached_reply
    yield "Connection.data_received", 0, lambda: connection.data_received(raw)
    yield "Forms.read", 1, lambda: forms.read(raw)
    yield "Check.at_once", 1, lambda: desk.try_fast(head)
    yield "CredentialSources.spelling", 2, lambda: sources.token_text(head)
    yield "SharedClock.now", 2, house.means.clock.now
    yield "Validator.recall", 2, lambda: house.validator.check_memory(spelling, now)
    yield "unverified_digest_of", 3, lambda: unverified_digest_of(spelling)
    yield "LocalStore.peek", 3, lambda: house.local.get_nowait(digest)
    yield "_Said.holds", 2, lambda: said.holds(said.gateway, head)
    yield "Toucher.seen", 2, lambda: house.toucher.on_allowed(session, now)
    answer = said.common, said.own, lane.ending, said.body
    yield "join and write", 1, lambda: sink.write(b"".join(answer))


def _desk(house: Container, sources: CredentialSources) -> Check:
    signals = SignalSources(wanted=house.binding.watched)
    desk, *_ = build_handlers(
        house.validator,
        GatewayPolicy(sources=sources, signals=signals),
        events=house.metrics,
        clock=house.means.clock,
        binding=house.binding,
    )
    assert isinstance(desk, Check)
    return desk
