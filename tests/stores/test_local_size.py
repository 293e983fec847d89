"""What a copy is estimated to take, against what it does: within a fifth, its answer included."""

import gc
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from proxy.core.binding import Signals, Widths, bind
from proxy.core.session import Session
from proxy.core.token import Token
from proxy.stores.codec import decode, encode
from proxy.stores.local import LocalStore, size_of
from tests.clock import FakeClock
from tests.contracts.values import a_session
from tests.web.gate_rig import RING, Gatehouse, bearer, build_gate, request
from tests.web.tape import Tape

TOLERANCE = 0.2
MANY = 2000


def plain(number: int) -> Session:
    return a_session(user_id=f"user-{number:08}@example.org")


def with_a_long_name(number: int) -> Session:
    return a_session(user_id=f"{number:08}" + "x" * 200)


def with_many_scopes(number: int) -> Session:
    return a_session(user_id=f"{number:08}", scopes=tuple(f"scope-{n}:write" for n in range(20)))


def bound(number: int) -> Session:
    client = Signals(f"192.0.{number % 200}.1", "curl/8", "de-ch", f"device {number}")
    session = plain(number)
    return replace(session, binding=bind(session.id, client, Widths()))


SHAPES = (plain, with_a_long_name, with_many_scopes, bound)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
async def test_the_estimate_is_within_a_fifth_of_what_a_copy_takes(
    shape: Callable[[int], Session],
) -> None:
    tokens = [RING.mint(shape(0).type) for _ in range(MANY)]
    records = [
        encode(replace(shape(number), digest=token.digest())) for number, token in enumerate(tokens)
    ]
    local = LocalStore(max_sessions=MANY, max_bytes=2**30, max_age=60.0, clock=FakeClock())
    tape = Tape(build_gate(Gatehouse(), memory=local.peek).door)

    taken = memory_of(lambda: [local.keep(decode(record)) for record in records])
    answered = memory_of(lambda: answer_all(tape, tokens))

    assert tape.sent == b""
    assert (taken + answered) / local.size == pytest.approx(1, abs=TOLERANCE)


def answer_all(tape: Tape, tokens: Iterable[Token]) -> None:
    """Let the gate answer for each session, and keep the answers with the copies."""
    for token in tokens:
        tape.feed(request(bearer(token)))
        assert tape.sent.startswith(b"HTTP/1.1 200 OK")
        tape.sent = b""


def memory_of(work: Callable[[], object]) -> int:
    """Return how many bytes there are more after `work`, of which nothing but its traces stays."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_a_hundred_thousand_ordinary_sessions_fit_into_a_hundred_megabytes() -> None:
    assert 100_000 * size_of(plain(1)) < 100_000_000


def test_beyond_ascii_a_name_counts_for_what_it_takes_in_an_answer() -> None:
    assert size_of(a_session(user_id="ł" * 100)) > size_of(a_session(user_id="l" * 100)) + 1000
