"""The in-process cache: limits, eviction, time to live; its contract is in tests/contracts."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.digest import Digest
from sidegate.core.session import Session, SessionId
from sidegate.stores.memory import MemoryStore, estimate_size
from tests.contracts.values import build_digest, build_session, build_tombstone
from tests.support.clock import NOON, FakeClock
from tests.support.replace import replace

SECOND: Final = timedelta(seconds=1)
MAX_AGE: Final = 5.0


class MonotonicClock(FakeClock):
    """A clock with a monotonic time only."""

    def now(self) -> datetime:
        raise AssertionError("the time to live must not depend on the wall clock")


def build_store(
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


# --- Limits and eviction


def test_store_keeps_at_most_max_sessions() -> None:
    store = build_store(max_sessions=10)
    for _ in range(50):
        store.put_nowait(build_session())
        assert len(store) <= 10
    assert len(store) == 10


def test_least_recently_used_session_is_evicted_first() -> None:
    store = build_store(max_sessions=3)
    oldest, middle, newest = (store.put_nowait(build_session()) for _ in range(3))
    store.get_nowait(oldest.digest)
    store.put_nowait(build_session())
    assert store.get_nowait(middle.digest) is None
    assert store.get_nowait(oldest.digest) == oldest
    assert store.get_nowait(newest.digest) == newest


def test_put_counts_as_use_for_eviction() -> None:
    store = build_store(max_sessions=2)
    first, second = (store.put_nowait(build_session()) for _ in range(2))
    store.put_nowait(first)
    store.put_nowait(build_session())
    assert store.get_nowait(first.digest) == first
    assert store.get_nowait(second.digest) is None


def test_get_of_an_expired_session_does_not_prevent_its_eviction() -> None:
    clock = FakeClock()
    store = build_store(clock, max_sessions=2)
    aged = store.put_nowait(build_tombstone())
    clock.advance(MAX_AGE)
    store.put_nowait(build_session())
    store.get_nowait(aged.digest)
    store.put_nowait(build_session())
    stale = build_session(digest=aged.digest)
    assert store.put_nowait(stale) == stale  # the tombstone has been evicted


def test_store_keeps_at_most_max_bytes() -> None:
    each = estimate_size(build_session())
    store = build_store(max_bytes=10 * each)
    for _ in range(50):
        store.put_nowait(build_session())
        assert store.size_bytes == len(store) * each
    assert len(store) == 10


def test_large_session_evicts_as_many_as_necessary() -> None:
    large = build_session(user_id="x" * 2000)
    store = build_store(max_bytes=estimate_size(large) + estimate_size(build_session()))
    small = [store.put_nowait(build_session()) for _ in range(4)]
    store.put_nowait(large)
    assert [store.get_nowait(session.digest) for session in small] == [None, None, None, small[3]]


def test_session_larger_than_max_bytes_is_not_kept() -> None:
    store = build_store(max_bytes=500)
    session = build_session()
    assert store.put_nowait(session) == session
    assert (len(store), store.size_bytes) == (0, 0)


def test_longer_reply_headers_reduce_the_number_of_sessions() -> None:
    each = estimate_size(build_session())
    store = build_store(max_bytes=10 * each)
    for _ in range(10):
        store.put_nowait(build_session())
    store.set_reply_headers(["X" * each])
    assert (len(store), store.size_bytes) == (5, 10 * each - 5 * 74)


def test_newer_version_replaces_the_size_of_the_old_one() -> None:
    store = build_store()
    session = store.put_nowait(build_session())
    for _ in range(5):
        session = store.put_nowait(session.extended(NOON + timedelta(days=1), NOON))
        assert store.size_bytes == estimate_size(session)
    store.clear()
    assert store.size_bytes == 0


# --- Statistics and cached replies


async def test_every_lookup_is_counted_once() -> None:
    store = build_store()
    session = store.put_nowait(build_session())
    await store.find(session.digest)
    store.get_nowait(session.digest)
    await store.find(build_digest())
    store.get_nowait(build_digest())  # its caller continues with `find`
    assert (store.hits, store.misses) == (2, 1)


def test_equal_session_does_not_discard_the_cached_reply() -> None:
    store = build_store()
    first = store.put_entry(build_session())
    first.cached_reply = "a reply"
    again = store.put_entry(replace(first.session))
    assert again is store.get_entry(first.session.digest) is first
    touched = store.put_entry(first.session.touched(NOON + SECOND))
    assert store.get_entry(first.session.digest) is touched
    assert touched.cached_reply is None


def test_touch_discards_the_cached_reply() -> None:
    store = build_store()
    first = store.put_entry(build_session())
    first.cached_reply, first.verified_by = "a reply", "a key ring"
    store.touch(first.session.touched(NOON + SECOND))
    touched = store.get_entry(first.session.digest)
    assert touched is not None
    assert (touched.cached_reply, touched.verified_by) == (None, None)
    assert touched.fresh_until == first.fresh_until


def test_entry_with_a_pending_revocation_has_no_cached_reply() -> None:
    pending = set[SessionId]()

    def revoke_if_pending(session: Session) -> Session:
        return session.revoked(NOON) if session.id in pending else session

    store = MemoryStore(
        max_sessions=9,
        max_bytes=2**20,
        max_age=5,
        clock=FakeClock(),
        apply_pending=revoke_if_pending,
    )
    first = store.put_entry(build_session())
    first.cached_reply = "a reply"
    pending.add(first.session.id)
    revoked = store.get_entry(first.session.digest)
    assert revoked is not None
    assert revoked.session.revoked_at == NOON
    assert revoked.cached_reply is None
    pending.clear()
    assert store.get_entry(first.session.digest) is first


# --- Time to live


def test_session_expires_exactly_at_max_age() -> None:
    clock = FakeClock()
    store = build_store(clock)
    session = store.put_nowait(build_session())
    clock.advance(MAX_AGE - 0.001)
    assert store.get_nowait(session.digest) == session
    clock.advance(0.001)
    assert store.get_nowait(session.digest) is None


def test_get_does_not_renew_the_time_to_live() -> None:
    clock = FakeClock()
    store = build_store(clock)
    session = store.put_nowait(build_session())
    for _ in range(3):
        clock.advance(MAX_AGE / 4)
        assert store.get_nowait(session.digest) == session
    clock.advance(MAX_AGE / 4)
    assert store.get_nowait(session.digest) is None


def test_time_to_live_uses_the_monotonic_clock() -> None:
    clock = MonotonicClock()
    store = build_store(clock)
    session = store.put_nowait(build_session())
    assert store.get_nowait(session.digest) == session
    clock.advance(MAX_AGE)
    assert store.get_nowait(session.digest) is None


def test_jitter_spreads_expiry_of_sessions_put_together() -> None:
    clock, spread = FakeClock(), iter((0.0, 0.5, 1.0))
    store = build_store(clock, jitter=lambda: next(spread))
    sessions = [store.put_nowait(build_session()) for _ in range(3)]
    remaining = []
    for step in (4.4, 0.2, 0.2, 0.2):  # at 4.4, 4.6, 4.8 and 5.0 seconds
        clock.advance(step)
        remaining.append(sum(store.get_nowait(session.digest) is not None for session in sessions))
    assert remaining == [3, 2, 1, 0]


def test_time_to_live_is_between_90_and_100_percent_of_max_age() -> None:
    clock = FakeClock()
    store = build_store(clock, jitter=random.Random(7).random)
    sessions = [store.put_nowait(build_session()) for _ in range(500)]
    clock.advance(MAX_AGE * 0.9 - 0.001)
    assert all(store.get_nowait(session.digest) for session in sessions)
    clock.advance(MAX_AGE * 0.1 + 0.001)
    assert not any(store.get_nowait(session.digest) for session in sessions)


def test_put_of_an_equal_session_renews_the_time_to_live() -> None:
    clock = FakeClock()
    store = build_store(clock)
    session = store.put_nowait(build_session())
    clock.advance(MAX_AGE - 1)
    store.put_nowait(session)
    clock.advance(MAX_AGE - 1)
    assert store.get_nowait(session.digest) == session


@pytest.mark.parametrize("renewed", [True, False], ids=["activity_only", "older_version"])
def test_put_of_a_staler_session_renews_the_time_to_live_of_the_same_version(
    renewed: bool,
) -> None:
    clock = FakeClock()
    store = build_store(clock)
    session = build_session()
    newer = session.touched(NOON + SECOND)
    kept = store.put_nowait(newer if renewed else newer.extended(NOON + timedelta(days=1), NOON))
    clock.advance(MAX_AGE - 1)
    assert store.put_nowait(session) == kept
    clock.advance(1)
    assert store.get_nowait(session.digest) == (kept if renewed else None)


def test_expired_tombstone_is_not_replaced_by_a_staler_session() -> None:
    clock = FakeClock()
    store = build_store(clock)
    session = build_session()
    tombstone = store.put_nowait(session.revoked(NOON))
    clock.advance(MAX_AGE * 100)
    assert store.get_nowait(session.digest) is None
    assert store.put_nowait(session) == tombstone
    assert store.get_nowait(session.digest) is None


async def test_expire_all_hides_every_session_but_keeps_tombstones() -> None:
    store = build_store()
    session, other = build_session(), build_session()
    tombstone = await store.put(session.revoked(NOON))
    await store.put(other)
    store.expire_all()
    assert await store.find(session.digest) is None
    assert await store.find(other.digest) is None
    assert await store.put(session) == tombstone  # from a store that missed the revocation
    assert await store.put(other) == other
    assert await store.find(other.digest) == other


async def test_clear_deletes_tombstones_too() -> None:
    store = build_store()
    session = build_session()
    await store.put(session.revoked(NOON))
    store.clear()
    assert len(store) == 0
    assert await store.find(session.digest) is None
    assert await store.put(session) == session


# --- Against a model


class Model:
    """A simple model of the store: a list that is searched from end to end."""

    def __init__(self, max_sessions: int, clock: FakeClock) -> None:
        self.entries: list[tuple[Session, float]] = []  # the least recently used first
        self._max_sessions = max_sessions
        self._clock = clock

    def put_nowait(self, session: Session) -> Session:
        kept = self._find(session.digest)
        if kept and kept[0].freshness > session.freshness:
            if (kept[0].version, kept[0].revoked_at) == (session.version, session.revoked_at):
                renewed = kept[0], self._clock.monotonic() + MAX_AGE
                self.entries = [renewed if each is kept else each for each in self.entries]
            return kept[0]
        self._append((session, self._clock.monotonic() + MAX_AGE))
        self.entries = self.entries[-self._max_sessions :]
        return session

    def get_nowait(self, digest: Digest) -> Session | None:
        entry = self._find(digest)
        if entry is None or entry[1] <= self._clock.monotonic():
            return None
        self._append(entry)
        return entry[0]

    def clear(self) -> None:
        self.entries = []

    def _find(self, digest: Digest) -> tuple[Session, float] | None:
        return next((entry for entry in self.entries if entry[0].digest == digest), None)

    def _append(self, entry: tuple[Session, float]) -> None:
        others = [other for other in self.entries if other[0].digest != entry[0].digest]
        self.entries = [*others, entry]


def build_history() -> list[Session]:
    """Return the successive versions of one session."""
    session = build_session()
    touched = session.touched(NOON + SECOND)
    extended = touched.extended(NOON + timedelta(days=1), NOON)
    return [session, touched, extended, extended.revoked(NOON)]


HISTORIES: Final = [build_history() for _ in range(5)]

Step = tuple[str, int, int]
steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 4), st.integers(0, 3)),
    st.tuples(st.just("get"), st.integers(0, 4), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("clear"), st.just(0), st.just(0)),
)


def apply_step(step: Step, store: MemoryStore | Model, clock: FakeClock) -> Session | None:
    match step:
        case ("put", which, version):
            return store.put_nowait(HISTORIES[which][version])
        case ("get", which, _):
            return store.get_nowait(HISTORIES[which][0].digest)
        case ("wait", seconds, _):
            clock.advance(seconds)
        case _:
            store.clear()
    return None


@given(st.lists(steps, max_size=60), st.integers(1, 6))
def test_store_behaves_like_the_model(history: list[Step], max_sessions: int) -> None:
    clock, model_clock = FakeClock(), FakeClock()
    store, model = build_store(clock, max_sessions=max_sessions), Model(max_sessions, model_clock)
    for step in history:
        assert apply_step(step, store, clock) == apply_step(step, model, model_clock), step
        assert len(store) == len(model.entries)


@pytest.mark.parametrize("known", [True, False])
async def test_find_and_put_never_suspend(known: bool) -> None:
    store = build_store()
    session = build_session()
    if known:
        store.put_nowait(session)
    find = store.find(session.digest if known else build_digest())
    put = store.put(session)
    for coroutine in (find, put):
        with pytest.raises(StopIteration):
            coroutine.send(None)


def test_touch_does_not_renew_the_time_to_live() -> None:
    clock = FakeClock()
    store, session = build_store(clock), build_session()
    store.put_nowait(session)
    for _ in range(4):
        clock.advance(1)
        store.touch(session.touched(clock.now()))
        found = store.get_nowait(session.digest)
        assert found is not None
        assert found.last_seen_at == clock.now()
    clock.advance(1)
    assert store.get_nowait(session.digest) is None


def test_touch_of_a_missing_or_fresher_session_does_nothing() -> None:
    store, session = build_store(), build_session()
    store.touch(session)
    assert len(store) == 0
    tombstone = session.revoked(NOON + SECOND)
    store.put_nowait(tombstone)
    store.touch(session.touched(NOON + 2 * SECOND))
    assert store.get_nowait(session.digest) == tombstone
