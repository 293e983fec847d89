"""What is true of this process's memory only; its promises are in tests/contracts."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.session import Session
from sidegate.core.token import Digest
from sidegate.stores.memory import MemoryStore, size_of
from tests.contracts.values import a_digest, a_session, a_tombstone
from tests.support.clock import NOON, FakeClock

SECOND: Final = timedelta(seconds=1)
MAX_AGE: Final = 5.0


class ClockWithoutHands(FakeClock):
    """It measures, but does not tell the time."""

    def now(self) -> datetime:
        raise AssertionError("ages do not depend on the wall clock")


def a_store(
    clock: FakeClock | None = None,
    *,
    max_sessions: int = 1000,
    max_bytes: int = 2**30,
    jitter: Callable[[], float] = lambda: 0.0,
) -> MemoryStore:
    return MemoryStore(
        max_sessions=max_sessions,
        max_bytes=max_bytes,
        max_age=MAX_AGE,
        clock=clock or FakeClock(),
        jitter=jitter,
    )


# --- Bound and order


def test_it_never_holds_more_than_it_may() -> None:
    store = a_store(max_sessions=10)
    for _ in range(50):
        store.put_nowait(a_session())
        assert len(store) <= 10
    assert len(store) == 10


def test_the_least_recently_found_is_forgotten_first() -> None:
    store = a_store(max_sessions=3)
    oldest, middle, newest = (store.put_nowait(a_session()) for _ in range(3))
    store.get_nowait(oldest.digest)
    store.put_nowait(a_session())
    assert store.get_nowait(middle.digest) is None
    assert store.get_nowait(oldest.digest) == oldest
    assert store.get_nowait(newest.digest) == newest


def test_being_kept_again_counts_as_being_found() -> None:
    store = a_store(max_sessions=2)
    first, second = (store.put_nowait(a_session()) for _ in range(2))
    store.put_nowait(first)
    store.put_nowait(a_session())
    assert store.get_nowait(first.digest) == first
    assert store.get_nowait(second.digest) is None


def test_asking_for_what_is_too_old_does_not_keep_it_from_being_forgotten() -> None:
    clock = FakeClock()
    store = a_store(clock, max_sessions=2)
    aged = store.put_nowait(a_tombstone())
    clock.advance(MAX_AGE)
    store.put_nowait(a_session())
    store.get_nowait(aged.digest)
    store.put_nowait(a_session())
    stale = a_session(digest=aged.digest)
    assert store.put_nowait(stale) == stale  # nothing was left to compare it with


def test_it_never_takes_more_room_than_it_may() -> None:
    each = size_of(a_session())
    store = a_store(max_bytes=10 * each)
    for _ in range(50):
        store.put_nowait(a_session())
        assert store.size == len(store) * each
    assert len(store) == 10


def test_what_takes_much_room_drives_out_as_many_as_it_must() -> None:
    large = a_session(user_id="x" * 2000)
    store = a_store(max_bytes=size_of(large) + size_of(a_session()))
    small = [store.put_nowait(a_session()) for _ in range(4)]
    store.put_nowait(large)
    assert [store.get_nowait(session.digest) for session in small] == [None, None, None, small[3]]


def test_what_does_not_fit_at_all_is_not_kept() -> None:
    store = a_store(max_bytes=500)
    session = a_session()
    assert store.put_nowait(session) == session
    assert (len(store), store.size) == (0, 0)


def test_where_answers_take_more_room_fewer_are_kept() -> None:
    each = size_of(a_session())
    store = a_store(max_bytes=10 * each)
    for _ in range(10):
        store.put_nowait(a_session())
    store.set_reply_headers(["X" * each])
    assert (len(store), store.size) == (5, 10 * each - 5 * 74)


def test_a_copy_takes_the_room_of_the_one_it_follows() -> None:
    store = a_store()
    session = store.put_nowait(a_session())
    for _ in range(5):
        session = store.put_nowait(session.extended(NOON + timedelta(days=1), NOON))
        assert store.size == size_of(session)
    store.clear()
    assert store.size == 0


# --- What is counted, and what stays


async def test_every_look_up_is_counted_once() -> None:
    store = a_store()
    session = store.put_nowait(a_session())
    await store.find(session.digest)
    store.get_nowait(session.digest)
    await store.find(a_digest())
    store.get_nowait(a_digest())  # whoever cannot await asks again, and can
    assert (store.hits, store.misses) == (2, 1)


def test_an_equal_copy_leaves_the_one_that_is_there_with_its_margin() -> None:
    store = a_store()
    first = store.put_nowait(a_session())
    first.note_reply("what was said of it")
    again = store.put_nowait(replace(first))
    assert again is store.get_nowait(first.digest) is first
    touched = store.put_nowait(first.touched(NOON + SECOND))
    assert store.get_nowait(first.digest) is touched
    assert touched.cached_reply is None


# --- Age


def test_a_copy_is_answered_until_it_is_too_old_and_not_at_that_moment() -> None:
    clock = FakeClock()
    store = a_store(clock)
    session = store.put_nowait(a_session())
    clock.advance(MAX_AGE - 0.001)
    assert store.get_nowait(session.digest) == session
    clock.advance(0.001)
    assert store.get_nowait(session.digest) is None


def test_being_found_makes_no_copy_younger() -> None:
    clock = FakeClock()
    store = a_store(clock)
    session = store.put_nowait(a_session())
    for _ in range(3):
        clock.advance(MAX_AGE / 4)
        assert store.get_nowait(session.digest) == session
    clock.advance(MAX_AGE / 4)
    assert store.get_nowait(session.digest) is None


def test_ages_are_measured_by_the_clock_that_never_goes_back() -> None:
    clock = ClockWithoutHands()
    store = a_store(clock)
    session = store.put_nowait(a_session())
    assert store.get_nowait(session.digest) == session
    clock.advance(MAX_AGE)
    assert store.get_nowait(session.digest) is None


def test_copies_made_together_do_not_age_together() -> None:
    clock, spread = FakeClock(), iter((0.0, 0.5, 1.0))
    store = a_store(clock, jitter=lambda: next(spread))
    sessions = [store.put_nowait(a_session()) for _ in range(3)]
    living = []
    for step in (4.4, 0.2, 0.2, 0.2):  # at 4.4, 4.6, 4.8 and 5.0 seconds
        clock.advance(step)
        living.append(sum(store.get_nowait(session.digest) is not None for session in sessions))
    assert living == [3, 2, 1, 0]


def test_no_copy_lives_longer_than_it_may_or_much_shorter() -> None:
    clock = FakeClock()
    store = a_store(clock, jitter=random.Random(7).random)
    sessions = [store.put_nowait(a_session()) for _ in range(500)]
    clock.advance(MAX_AGE * 0.9 - 0.001)
    assert all(store.get_nowait(session.digest) for session in sessions)
    clock.advance(MAX_AGE * 0.1 + 0.001)
    assert not any(store.get_nowait(session.digest) for session in sessions)


def test_an_equal_copy_is_news() -> None:
    clock = FakeClock()
    store = a_store(clock)
    session = store.put_nowait(a_session())
    clock.advance(MAX_AGE - 1)
    store.put_nowait(session)
    clock.advance(MAX_AGE - 1)
    assert store.get_nowait(session.digest) == session


def test_a_staler_copy_is_no_news() -> None:
    clock = FakeClock()
    store = a_store(clock)
    session = a_session()
    touched = store.put_nowait(session.touched(NOON + SECOND))
    clock.advance(MAX_AGE - 1)
    assert store.put_nowait(session) == touched
    clock.advance(1)
    assert store.get_nowait(session.digest) is None


def test_what_is_too_old_to_be_answered_still_wins_over_a_staler_copy() -> None:
    clock = FakeClock()
    store = a_store(clock)
    session = a_session()
    tombstone = store.put_nowait(session.revoked(NOON))
    clock.advance(MAX_AGE * 100)
    assert store.get_nowait(session.digest) is None
    assert store.put_nowait(session) == tombstone
    assert store.get_nowait(session.digest) is None


async def test_in_distrust_nothing_is_believed_but_the_dead_stay_dead() -> None:
    store = a_store()
    session, other = a_session(), a_session()
    tombstone = await store.put(session.revoked(NOON))
    await store.put(other)
    store.expire_all()
    assert await store.find(session.digest) is None
    assert await store.find(other.digest) is None
    assert await store.put(session) == tombstone  # what a store kept that was not told
    assert await store.put(other) == other
    assert await store.find(other.digest) == other


async def test_after_it_was_cleared_nothing_is_known_or_compared() -> None:
    store = a_store()
    session = a_session()
    await store.put(session.revoked(NOON))
    store.clear()
    assert len(store) == 0
    assert await store.find(session.digest) is None
    assert await store.put(session) == session


# --- Against a model


class Model:
    """The same store, as one would explain it: a list, searched from end to end."""

    def __init__(self, max_sessions: int, clock: FakeClock) -> None:
        self.copies: list[tuple[Session, float]] = []  # the least recently used first
        self._max_sessions = max_sessions
        self._clock = clock

    def put_nowait(self, session: Session) -> Session:
        known = self._known(session.digest)
        if known and known[0].freshness > session.freshness:
            return known[0]
        self._last((session, self._clock.monotonic() + MAX_AGE))
        self.copies = self.copies[-self._max_sessions :]
        return session

    def get_nowait(self, digest: Digest) -> Session | None:
        known = self._known(digest)
        if known is None or known[1] <= self._clock.monotonic():
            return None
        self._last(known)
        return known[0]

    def clear(self) -> None:
        self.copies = []

    def _known(self, digest: Digest) -> tuple[Session, float] | None:
        return next((copy for copy in self.copies if copy[0].digest == digest), None)

    def _last(self, copy: tuple[Session, float]) -> None:
        others = [other for other in self.copies if other[0].digest != copy[0].digest]
        self.copies = [*others, copy]


def a_history() -> list[Session]:
    """Return the copies one session had in its life."""
    session = a_session()
    touched = session.touched(NOON + SECOND)
    extended = touched.extended(NOON + timedelta(days=1), NOON)
    return [session, touched, extended, extended.revoked(NOON)]


HISTORIES: Final = [a_history() for _ in range(5)]

Step = tuple[str, int, int]
steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("keep"), st.integers(0, 4), st.integers(0, 3)),
    st.tuples(st.just("peek"), st.integers(0, 4), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("clear"), st.just(0), st.just(0)),
)


def take(step: Step, store: MemoryStore | Model, clock: FakeClock) -> Session | None:
    match step:
        case ("keep", which, age):
            return store.put_nowait(HISTORIES[which][age])
        case ("peek", which, _):
            return store.get_nowait(HISTORIES[which][0].digest)
        case ("wait", seconds, _):
            clock.advance(seconds)
        case _:
            store.clear()
    return None


@given(st.lists(steps, max_size=60), st.integers(1, 6))
def test_it_answers_like_a_list_searched_from_end_to_end(
    history: list[Step], max_sessions: int
) -> None:
    clock, models_clock = FakeClock(), FakeClock()
    store, model = a_store(clock, max_sessions=max_sessions), Model(max_sessions, models_clock)
    for step in history:
        assert take(step, store, clock) == take(step, model, models_clock), step
        assert len(store) == len(model.copies)


@pytest.mark.parametrize("known", [True, False])
async def test_neither_verb_ever_waits(known: bool) -> None:
    store = a_store()
    session = a_session()
    if known:
        store.put_nowait(session)
    finding = store.find(session.digest if known else a_digest())
    putting = store.put(session)
    for coroutine in (finding, putting):
        with pytest.raises(StopIteration):
            coroutine.send(None)


def test_a_copy_that_was_seen_is_believed_no_longer_for_that() -> None:
    clock = FakeClock()
    store, session = a_store(clock), a_session()
    store.put_nowait(session)
    for _ in range(4):
        clock.advance(1)
        store.touch(session.touched(clock.now()))
        found = store.get_nowait(session.digest)
        assert found is not None
        assert found.last_seen_at == clock.now()
    clock.advance(1)
    assert store.get_nowait(session.digest) is None


def test_what_is_not_there_or_fresher_is_not_touched() -> None:
    store, session = a_store(), a_session()
    store.touch(session)
    assert len(store) == 0
    tombstone = session.revoked(NOON + SECOND)
    store.put_nowait(tombstone)
    store.touch(session.touched(NOON + 2 * SECOND))
    assert store.get_nowait(session.digest) == tombstone
