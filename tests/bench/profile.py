"""The time of a memory hit, function by function, within one process.

The services are built as in production, with all features, but without sockets.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from timeit import repeat
from typing import Any, Final, NamedTuple

from sidegate.core.clock import Clock, SharedClock
from sidegate.core.token import KeyRing, TokenKey, digest_unverified, parse_token_text
from sidegate.runtime.container import Container, build_services
from sidegate.settings import load
from sidegate.web.gate.app import build_handlers
from sidegate.web.gate.check import Check
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.server.fast_path import FastPath
from tests.bench.environment import ALL_FEATURES
from tests.bench.http_requests import build_subrequest
from tests.bench.sessions import build_record, make_session

_KEY: Final = TokenKey(1, bytes(range(32)))

# Calls per repeat, and repeats. The fastest repeat counts: the others were disturbed.
_CALLS: Final = 10_000
_REPEATS: Final = 15


class Cost(NamedTuple):
    """The time of a call, and its depth in the call tree."""

    function: str
    microseconds: float
    depth: int = 0


class _Sink(asyncio.Transport):
    """A transport that is always ready, and keeps the last write."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.last: Any = b""

    def write(self, data: Any) -> None:
        self.last = data


async def profile_hit(*, calls: int = _CALLS, repeats: int = _REPEATS) -> Sequence[Cost]:
    """Time a hit and the functions it calls. The last row is the rest of the hit."""
    environ = ALL_FEATURES | {
        # Nothing listens there: the setting only makes the clock a shared one.
        "SIDEGATE_DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "SIDEGATE_TOKEN__KEYS": _KEY.format(),
    }
    async with build_services(load(None, environ)) as container:
        _set_clock(container.clock)
        timed = [
            Cost(
                _name(function),
                min(repeat(call, number=calls, repeat=repeats)) / calls * 1e6,
                depth,
            )
            for function, depth, call in _functions(container)
        ]
    whole, *parts = timed
    rest = whole.microseconds - sum(part.microseconds for part in parts if part.depth == 1)
    return [*timed, Cost("rest", rest, 1)]


def _set_clock(clock: Clock) -> None:
    assert isinstance(clock, SharedClock)
    at = clock.monotonic()
    clock.set_time(datetime.now(UTC), between=(at, at))


def format_table(costs: Sequence[Cost]) -> str:
    """Format the costs as text."""
    return "\n".join(
        f"{cost.microseconds:6.2f} µs  {'  ' * cost.depth}{cost.function}" for cost in costs
    )


def _functions(
    container: Container,
) -> Iterator[tuple[Callable[..., object], int, Callable[[], object]]]:
    """Yield each function, its depth, and a call of it."""
    known = make_session(1, KeyRing([_KEY]))
    container.memory.put_nowait(build_record(known, datetime.now(UTC)).session)
    sources, sink = CredentialSources(), _Sink()
    handler = _build_handler(container, sources)
    fast_path = FastPath(
        [handler], is_trusted=lambda _: True, clock=container.clock, sampling_interval=1
    )
    connection: Any = fast_path.create_protocol(asyncio.Protocol)
    connection.connection_made(sink)
    raw = build_subrequest(known, path=handler.route).encode("ascii")
    for _ in range(3):  # until the head template and the reply are cached
        connection.data_received(raw)
    assert sink.last.startswith(b"HTTP/1.1 200 OK\r\n")

    [(_, templates)] = fast_path.handlers
    head = templates.parse(raw)
    token_text = parse_token_text(known.token.text)
    assert head is not None
    assert token_text is not None
    digest, clock = digest_unverified(token_text), container.clock
    now, memory, activity = clock.now(), container.memory, container.activity
    entry = memory.get_entry(digest)
    assert entry is not None
    session = entry.session
    reply: Any = entry.cached_reply
    check_memory = container.validator.check_memory
    yield connection.data_received, 0, lambda: connection.data_received(raw)
    yield templates.parse, 1, lambda: templates.parse(raw)
    yield handler.try_fast, 1, lambda: handler.try_fast(head)
    yield sources.read, 2, lambda: sources.read(head)
    yield clock.now, 2, clock.now
    yield check_memory, 2, lambda: check_memory(token_text, now)
    yield digest_unverified, 3, lambda: digest_unverified(token_text)
    yield memory.get_entry, 3, lambda: memory.get_entry(digest)
    yield reply.matches, 2, lambda: reply.matches(reply.gateway, head)
    yield activity.on_allowed, 2, lambda: activity.on_allowed(session, now)
    parts = reply.shared_head, reply.identity_lines, fast_path.head_end, reply.body

    def join_and_write() -> None:
        sink.write(b"".join(parts))

    yield join_and_write, 1, join_and_write


def _name(function: Callable[..., object]) -> str:
    """Return the name of a function, with the class of a method."""
    return function.__qualname__.rpartition("<locals>.")[2]


def _build_handler(container: Container, sources: CredentialSources) -> Check:
    signals = SignalSources(enabled=container.rules.current.watched_signals)
    handler, *_ = build_handlers(
        container.validator,
        GatewayPolicy(sources=sources, signals=signals),
        events=container.metrics,
        clock=container.clock,
        on_allowed=container.activity.on_allowed,
        binding=container.binding,
    )
    assert isinstance(handler, Check)
    return handler
