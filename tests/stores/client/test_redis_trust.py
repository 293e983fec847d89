"""When Redis is trusted, and which copies; while it is not, it is restricted, but not read."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from uuid import uuid4

import pytest

from sidegate.core.errors import CacheNotTrusted
from sidegate.core.protocols import Fill
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.client.redis_trust import LAPSE, RedisTrust, Trusted
from tests.contracts.values import build_session, build_tombstone
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import FakeBackend
from tests.support.redis_trust import build_mark, build_redis_trust

HOUR: Final = 3600.0
VERIFIED: Final = Seal.begin(build_mark(100, 90, 95))
OTHER: Final = Seal.begin(build_mark(100))


class TrustHarness:
    """A trust, and the clock and the follower of its instance."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.reasons: list[str] = []
        self.rounds_requested = 0
        self.trust = RedisTrust(
            monotonic=self.clock.monotonic,
            trust_without_database=HOUR,
            on_invalidated=self.reasons.append,
        )
        self.trust.request_round = self._count_request

    def make_round(self, *seals: Seal, seconds: float = 0.0) -> None:
        """Make a round that takes so long and verifies these seals."""
        start = self.trust.begin_round()
        self.clock.advance(seconds)
        self.trust.confirm({seal.namespace: seal for seal in seals}, start)

    def make_round_without_database(self, *, seconds: float = 0.0) -> None:
        start = self.trust.begin_round()
        self.clock.advance(seconds)
        self.trust.extend(start)

    def approves(self, seal: Seal, *, bucket: int = 0) -> bool:
        return self.trust.approve(bucket, seal.encode())

    def _count_request(self) -> None:
        self.rounds_requested += 1


@pytest.fixture
def harness() -> TrustHarness:
    return TrustHarness()


# --- Which copies are trusted

SEALS: Final[dict[str, tuple[bytes, bool]]] = {
    "as verified": (VERIFIED.encode(), True),
    "moved on": (VERIFIED.advanced(build_mark(101)).encode(), True),
    "moved on, with other transactions in progress": (
        VERIFIED.advanced(build_mark(101, 80, 90, 99)).encode(),
        True,
    ),
    "moved on within the same transactions": (
        VERIFIED.advanced(build_mark(100, 95)).encode(),
        True,
    ),
    "of an equal snapshot with another id": (
        VERIFIED.advanced(replace(VERIFIED.mark, id=uuid4())).encode(),
        True,
    ),
    "older": (VERIFIED.advanced(build_mark(99)).encode(), False),
    "older within the same transactions": (
        VERIFIED.advanced(build_mark(100, 80, 90, 95)).encode(),
        False,
    ),
    "of another namespace": (OTHER.encode(), False),
    "missing": (b"", False),
    "cut off": (VERIFIED.encode()[:-1], False),
    "in capitals": (VERIFIED.encode().upper(), False),
    "with more behind it": (VERIFIED.encode() + b" x", False),
    "of another version": (b"2" + VERIFIED.encode()[1:], False),
    "no seal": (b"\xff" * 80, False),
}


@pytest.mark.parametrize(("record", "is_approved"), SEALS.values(), ids=SEALS)
def test_copies_are_trusted_under_the_verified_seal_or_a_later_one(
    harness: TrustHarness, record: bytes, is_approved: bool
) -> None:
    harness.make_round(VERIFIED)
    for _ in range(2):
        assert harness.trust.approve(0, record) is is_approved
    assert (harness.rounds_requested > 0) is not is_approved
    assert harness.trust.position == ({0: Seal.decode(record)} if is_approved else {})


@pytest.mark.parametrize(("record", "is_approved"), SEALS.values(), ids=SEALS)
def test_approved_seal_does_not_change_what_is_approved_after_it(
    harness: TrustHarness, record: bytes, is_approved: bool
) -> None:
    harness.make_round(VERIFIED)
    assert harness.approves(VERIFIED.advanced(build_mark(200)))
    assert harness.trust.approve(0, record) is is_approved


def test_nothing_is_trusted_before_the_first_round(harness: TrustHarness) -> None:
    assert not harness.trust.is_trusted
    assert not harness.approves(VERIFIED)
    assert harness.trust.position == {}
    assert harness.trust.age == float("inf")


def test_every_namespace_that_a_round_verified_is_trusted(harness: TrustHarness) -> None:
    harness.make_round(VERIFIED, OTHER)
    assert [harness.approves(seal) for seal in (VERIFIED, OTHER, VERIFIED)] == [True] * 3


def test_namespace_that_the_next_round_does_not_verify_is_not_trusted(
    harness: TrustHarness,
) -> None:
    harness.make_round(VERIFIED, OTHER)
    assert harness.approves(VERIFIED)
    harness.make_round(OTHER)
    assert not harness.approves(VERIFIED)
    assert harness.approves(OTHER)
    assert harness.reasons == []


def test_seal_approved_before_is_not_trusted_after_a_round_that_found_it_moved(
    harness: TrustHarness,
) -> None:
    harness.make_round(VERIFIED)
    assert harness.approves(VERIFIED)
    moved = VERIFIED.advanced(build_mark(101))
    harness.make_round(moved)
    assert not harness.approves(VERIFIED)
    assert harness.approves(moved)


def test_each_bucket_has_its_own_position(harness: TrustHarness) -> None:
    harness.make_round(VERIFIED, OTHER)
    assert harness.approves(VERIFIED, bucket=3)
    assert harness.approves(OTHER, bucket=5)
    assert harness.trust.position == {3: VERIFIED, 5: OTHER}
    harness.make_round(OTHER)
    assert harness.trust.position == {5: OTHER}


def test_position_is_that_of_the_last_round_once_a_bucket_was_read(harness: TrustHarness) -> None:
    harness.make_round(VERIFIED)
    assert harness.approves(VERIFIED)
    moved = VERIFIED.advanced(build_mark(101))
    harness.make_round(moved)
    assert harness.trust.position == {0: moved}


def test_position_that_was_taken_does_not_change(harness: TrustHarness) -> None:
    harness.make_round(VERIFIED)
    assert harness.approves(VERIFIED)
    taken = harness.trust.position
    harness.approves(VERIFIED.advanced(build_mark(101)))
    harness.trust.invalidate("test")
    assert taken == {0: VERIFIED}


# --- What the next round looks for


def test_round_looks_for_all_namespaces_that_were_met_and_those_in_use(
    harness: TrustHarness,
) -> None:
    harness.make_round(VERIFIED)
    assert harness.trust.pop_seen() == set()
    harness.approves(VERIFIED)
    assert harness.trust.pop_seen() == {(0, VERIFIED.namespace)}
    harness.approves(OTHER)
    harness.trust.approve(0, b"no seal")
    harness.approves(VERIFIED)
    used = {(0, VERIFIED.namespace)}
    assert harness.trust.pop_seen() == used | {(0, OTHER.namespace), (0, "")}
    assert harness.trust.pop_seen() == used
    harness.make_round(OTHER)
    assert harness.trust.pop_seen() == set()


def test_round_looks_for_a_namespace_that_was_approved_before_another(
    harness: TrustHarness,
) -> None:
    harness.make_round(VERIFIED, OTHER)
    harness.approves(VERIFIED)
    harness.trust.pop_seen()
    harness.approves(OTHER)
    assert harness.trust.pop_seen() == {(0, VERIFIED.namespace), (0, OTHER.namespace)}


# --- How long

Step = Callable[[TrustHarness], object]


def wait(seconds: float) -> Step:
    return lambda harness: harness.clock.advance(seconds)


def confirm(seconds: float = 0.0) -> Step:
    return lambda harness: harness.make_round(VERIFIED, seconds=seconds)


def extend(seconds: float = 0.0) -> Step:
    return lambda harness: harness.make_round_without_database(seconds=seconds)


DURATIONS: Final[dict[str, tuple[list[Step], bool]]] = {
    "confirmed": ([confirm()], True),
    "until three seconds after the round": ([confirm(), wait(LAPSE - 0.001)], True),
    "not for three seconds": ([confirm(), wait(LAPSE)], False),
    "counted from the start of the round": ([confirm(2.0), wait(1.0)], False),
    "confirmed by a round that took too long": ([confirm(), confirm(LAPSE)], False),
    "confirmed again": ([confirm(), wait(2.9), confirm(), wait(2.9)], True),
    "lapsed, and confirmed again": ([confirm(), wait(9.0), confirm()], True),
    "extended": ([confirm(), wait(2.9), extend(), wait(2.9)], True),
    "extended often": ([confirm(), *[wait(2.9), extend()] * 100], True),
    "extended by rounds that fail after a second": (
        [confirm(), *[wait(0.55), extend(1.0)] * 100, wait(0.55)],
        True,
    ),
    "not for three seconds after the last extension": (
        [confirm(), wait(2.0), extend(), wait(3.0)],
        False,
    ),
    "extension counted from the start of the round": (
        [confirm(), wait(2.0), extend(2.0), wait(1.0)],
        False,
    ),
    "not shortened by a round that began long ago": (
        [confirm(), extend(2.9), wait(0.05)],
        True,
    ),
    "extended until the limit": ([confirm(), *[wait(1.0), extend()] * 3599, wait(0.999)], True),
    "not extended beyond the limit": ([confirm(), *[wait(1.0), extend()] * 3600], False),
    "limit counted from the start of the complete round": (
        [confirm(1.5), *[wait(1.0), extend()] * 3598, wait(0.5), extend()],
        False,
    ),
    "confirmed after the limit": ([confirm(), *[wait(1.0), extend()] * 3600, confirm()], True),
    "extended without a confirmed round": ([extend()], False),
    "not extended after a lapse": ([confirm(), wait(LAPSE), extend()], False),
}


@pytest.mark.parametrize(("steps", "is_trusted"), DURATIONS.values(), ids=DURATIONS)
def test_trust_lasts_three_seconds_after_a_round_or_an_hour_without_the_database(
    harness: TrustHarness, steps: list[Step], is_trusted: bool
) -> None:
    for step in steps:
        step(harness)
    assert harness.trust.is_trusted is is_trusted
    assert harness.approves(VERIFIED) is is_trusted
    assert harness.trust.position == ({0: VERIFIED} if is_trusted else {})


def test_position_is_empty_when_trust_has_lapsed(harness: TrustHarness) -> None:
    harness.make_round(VERIFIED)
    assert harness.approves(VERIFIED)
    harness.clock.advance(LAPSE)
    assert harness.trust.position == {}


def test_age_counts_from_the_start_of_the_last_complete_round(harness: TrustHarness) -> None:
    harness.make_round(VERIFIED, seconds=0.25)
    assert harness.trust.age == 0.25
    harness.clock.advance(1.0)
    harness.make_round_without_database()
    assert harness.trust.age == 1.25


# --- Distrust events


def test_invalidation_ends_trust_and_requests_a_round(harness: TrustHarness) -> None:
    harness.make_round(VERIFIED)
    assert harness.approves(VERIFIED)
    harness.trust.invalidate("test")
    assert not harness.trust.is_trusted
    assert not harness.approves(VERIFIED)
    assert (harness.trust.verified, harness.trust.position) == ({}, {})
    assert harness.rounds_requested == 1


def test_round_that_began_before_an_invalidation_verifies_nothing(harness: TrustHarness) -> None:
    start = harness.trust.begin_round()
    harness.trust.invalidate("test")
    harness.trust.confirm({VERIFIED.namespace: VERIFIED}, start)
    assert not harness.trust.is_trusted
    harness.make_round(VERIFIED)
    assert harness.trust.is_trusted


def test_round_that_began_before_an_invalidation_leaves_a_later_one_in_force(
    harness: TrustHarness,
) -> None:
    start = harness.trust.begin_round()
    harness.trust.invalidate("test")
    harness.make_round(OTHER)
    harness.trust.confirm({VERIFIED.namespace: VERIFIED}, start)
    assert harness.approves(OTHER)
    assert not harness.approves(VERIFIED)


def test_extension_after_an_invalidation_does_not_restore_trust(harness: TrustHarness) -> None:
    harness.make_round(VERIFIED)
    harness.trust.invalidate("test")
    harness.make_round_without_database()
    assert not harness.trust.is_trusted


REASONS: Final[dict[str, tuple[list[Step], list[str]]]] = {
    "invalidated": ([confirm(), lambda h: h.trust.invalidate("undelivered")], ["undelivered"]),
    "invalidated twice": (
        [confirm(), *[lambda h: h.trust.invalidate("undelivered")] * 2],
        ["undelivered"],
    ),
    "invalidated before the first round": ([lambda h: h.trust.invalidate("undelivered")], []),
    "lapsed": ([confirm(), wait(LAPSE), confirm()], ["lapsed"]),
    "lapsed without the database": ([confirm(), wait(LAPSE), extend()], ["lapsed"]),
    "not followed": ([confirm(), lambda h: h.make_round()], ["not followed"]),
    "not followed twice": ([confirm(), *[lambda h: h.make_round()] * 2], ["not followed"]),
    "confirmed": ([confirm(), confirm()], []),
    "extended": ([confirm(), wait(1.0), extend()], []),
}


@pytest.mark.parametrize(("steps", "reasons"), REASONS.values(), ids=REASONS)
def test_each_loss_of_trust_is_counted_once_with_its_reason(
    harness: TrustHarness, steps: list[Step], reasons: list[str]
) -> None:
    for step in steps:
        step(harness)
    assert harness.reasons == reasons


def test_each_change_of_trust_is_one_log_event(
    harness: TrustHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sidegate")
    for step in (
        confirm(),
        confirm(),
        lambda h: h.trust.invalidate("undelivered"),
        lambda h: h.trust.invalidate("undelivered"),
        confirm(),
        extend(),
        wait(LAPSE),
        extend(),
        extend(),
        confirm(),
        lambda h: h.make_round(),
        lambda h: h.make_round(),
    ):
        step(harness)
    events = [(record.msg, vars(record).get("reason")) for record in caplog.records]
    assert events == [
        ("redis trusted", None),
        ("redis not trusted", "undelivered"),
        ("redis trusted", None),
        ("redis not trusted", "lapsed"),
        ("redis trusted", None),
        ("redis not trusted", "not followed"),
    ]


# --- Changes that were committed here


SESSION: Final = build_session()
TOMBSTONE: Final = SESSION.revoked(NOON)


def test_recorded_change_wins_over_an_older_copy(harness: TrustHarness) -> None:
    other = build_session()
    harness.trust.record_changes([TOMBSTONE])
    found = {SESSION.digest: SESSION, other.digest: other}
    applied = harness.trust.apply_changes(found)
    assert applied == {SESSION.digest: TOMBSTONE, other.digest: other}


def test_recorded_change_gives_way_to_a_fresher_copy(harness: TrustHarness) -> None:
    harness.trust.record_changes([SESSION.extended(SESSION.expires_at, NOON)])
    found = {SESSION.digest: TOMBSTONE}
    assert harness.trust.apply_changes(found) == found


def test_recorded_change_does_not_turn_a_miss_into_a_hit(harness: TrustHarness) -> None:
    harness.trust.record_changes([TOMBSTONE])
    assert harness.trust.apply_changes({}) == {}


@pytest.mark.parametrize("copies", [[SESSION, TOMBSTONE], [TOMBSTONE, SESSION]])
def test_freshest_recorded_change_wins(harness: TrustHarness, copies: list[Session]) -> None:
    for copy in copies:
        harness.trust.record_changes([copy])
    assert harness.trust.apply_changes({SESSION.digest: SESSION}) == {SESSION.digest: TOMBSTONE}


def record(harness: TrustHarness) -> None:
    harness.trust.record_changes([TOMBSTONE])


def record_others(harness: TrustHarness) -> None:
    harness.trust.record_changes([build_session()])


def make_round_around(*steps: Step) -> Step:
    """Return a round during which the steps happen."""

    def make_round(harness: TrustHarness) -> None:
        start = harness.trust.begin_round()
        for step in steps:
            step(harness)
        harness.trust.confirm({VERIFIED.namespace: VERIFIED}, start)

    return make_round


MEMORIES: Final[dict[str, tuple[list[Step], bool]]] = {
    "recorded": ([confirm(), record], True),
    "before a round": ([record, wait(0.1), confirm()], False),
    "during a round": ([make_round_around(wait(0.1), record, wait(0.1))], True),
    "before a round without the database": ([confirm(), record, wait(0.1), extend()], True),
    "before a round that verified nothing": (
        [confirm(), record, wait(0.1), lambda h: h.make_round()],
        True,
    ),
    "before a round that an invalidation ended": (
        [record, make_round_around(wait(0.1), lambda h: h.trust.invalidate("test"))],
        True,
    ),
    "recorded again before a round": ([record, wait(0.1), record, wait(0.1), confirm()], False),
    "half a minute ago": ([record, wait(29.9), record_others], True),
    "more than half a minute ago": ([record, wait(30.1), record_others], False),
}


@pytest.mark.parametrize(("steps", "is_kept"), MEMORIES.values(), ids=MEMORIES)
def test_changes_are_kept_until_a_round_that_began_later_has_ended(
    harness: TrustHarness, steps: list[Step], is_kept: bool
) -> None:
    for step in steps:
        step(harness)
    found = harness.trust.apply_changes({SESSION.digest: SESSION})
    assert found == {SESSION.digest: TOMBSTONE if is_kept else SESSION}


# --- The wrapper


async def test_lookup_returns_recorded_changes_instead_of_older_copies() -> None:
    trust = build_redis_trust(VERIFIED)
    cache = Trusted(FakeBackend(SESSION), trust)
    trust.record_changes([TOMBSTONE])
    assert await cache.find_many([SESSION.digest]) == {SESSION.digest: TOMBSTONE}


async def test_backend_is_not_asked_while_nothing_is_trusted() -> None:
    session, trust = build_session(), build_redis_trust(VERIFIED)
    backend = FakeBackend(session)
    cache = Trusted(backend, trust)
    assert await cache.find_many([session.digest]) == {session.digest: session}
    trust.invalidate("test")
    with pytest.raises(CacheNotTrusted):
        await cache.find_many([session.digest])
    assert len(backend.lookups) == 1
    trust.confirm({VERIFIED.namespace: VERIFIED}, trust.begin_round())
    assert await cache.find_many([session.digest]) == {session.digest: session}


async def test_fill_while_nothing_is_trusted_is_dropped() -> None:
    session, trust = build_session(), build_redis_trust(VERIFIED)
    backend = FakeBackend(session.revoked(session.created_at))
    cache, fill = Trusted(backend, trust), Fill(session, {0: VERIFIED})
    trust.invalidate("test")
    assert await cache.fill_many({session.digest: fill}) == {session.digest: session}
    assert backend.fills == []
    trust.confirm({VERIFIED.namespace: VERIFIED}, trust.begin_round())
    assert await cache.fill_many({session.digest: fill}) == backend.sessions


@pytest.mark.parametrize("has_seal", [True, False])
async def test_restriction_goes_through_while_nothing_is_trusted(has_seal: bool) -> None:
    tombstone, backend, trust = build_tombstone(), FakeBackend(), build_redis_trust()
    backend.has_seal = has_seal
    trust.invalidate("test")
    assert await Trusted(backend, trust).restrict_many([tombstone]) is has_seal
    assert backend.sessions == ({tombstone.digest: tombstone} if has_seal else {})
