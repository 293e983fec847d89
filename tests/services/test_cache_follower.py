"""The cache follower on models of the database and of Redis, for faults at an exact moment."""

import asyncio
import logging
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from itertools import groupby

import pytest

from sidegate.core.change_log import Mark
from sidegate.core.errors import PositionLost, StoreUnavailable
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.services.cache_follower import (
    INTERVAL,
    MAX_JITTER,
    QUESTION_TIMEOUT,
    seconds_to_next_round,
)
from sidegate.stores.client.redis_trust import LAPSE
from tests.contracts.values import build_digest, build_rotated_session, build_session
from tests.services.change_log import FakeChangeLog, do_nothing
from tests.services.instance import HOUR, FollowingInstance
from tests.services.sealed_cache import FakeSealedCache, FakeServer
from tests.stores.waiting import cancel_all, wait_until
from tests.support.clock import NOON
from tests.support.replace import replace

# More than two pages.
MANY = 300


@pytest.fixture
def log() -> FakeChangeLog:
    return FakeChangeLog()


@pytest.fixture
def redis() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def instance(log: FakeChangeLog, redis: FakeServer) -> FollowingInstance:
    """An instance after its first round: Redis has a seal, which it trusts."""
    instance = FollowingInstance(log, FakeSealedCache(redis))
    await instance.follower.follow()
    return instance


def revoke(log: FakeChangeLog, session: Session) -> Session:
    """Revoke a session as another instance does, unpublished; return its tombstone."""
    return log.commit(session.revoked(NOON))


def revoke_one(log: FakeChangeLog) -> Session:
    return revoke(log, build_session())


def seal_of(redis: FakeServer) -> Seal:
    seal = redis.seals[0]
    assert seal is not None
    return seal


# Rounds without faults


async def test_redis_without_a_seal_gets_one_and_is_trusted(
    log: FakeChangeLog, redis: FakeServer
) -> None:
    instance = FollowingInstance(log, FakeSealedCache(redis))
    assert not instance.trust.is_trusted
    await instance.follower.follow()
    assert seal_of(redis).mark.id in log.marks
    assert instance.trusts(redis.seals[0])
    assert instance.moves == {"begun": 1}


async def test_quiet_round_writes_nothing_and_renews_trust(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    before, marks, written = seal_of(redis), set(log.marks), redis.written
    questions = log.questions
    instance.clock.advance(LAPSE - 0.1)
    await instance.follower.follow()
    instance.clock.advance(LAPSE - 0.1)
    assert instance.trusts(before)
    assert (seal_of(redis), log.marks, redis.written) == (before, marks, written)
    assert log.questions == questions + 1
    assert instance.moves == {"begun": 1}


async def test_change_is_put_under_every_digest_and_moves_the_seal(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    before, oldest = seal_of(redis), build_digest()
    changed = log.commit(build_rotated_session(), oldest)
    await instance.follower.follow()
    after = seal_of(redis)
    assert after.namespace == before.namespace
    assert after.mark.id != before.mark.id
    assert after.mark.id in log.marks
    assert redis.copy_of(changed.digest) == changed
    assert changed.previous_digest is not None
    assert redis.copy_of(changed.previous_digest) == changed.copies()[1]
    assert redis.copy_of(oldest) == changed.rotated_out(oldest)
    assert instance.trusts(after)
    assert instance.moves == {"begun": 1, "moved": 1}


async def test_copies_read_under_the_seal_before_a_change_are_not_used(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    before = seal_of(redis)
    revoke_one(log)
    await instance.follower.follow()
    assert not instance.trusts(before)
    assert instance.wakeup.is_set()


async def test_created_session_is_put(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    created = log.commit(build_session())
    await instance.follower.follow()
    assert redis.copy_of(created.digest) == created


async def test_copies_of_an_unreadable_change_are_deleted(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    session = build_session()
    redis.put(session)
    log.commit_unreadable(session.digest)
    await instance.follower.follow()
    assert redis.copy_of(session.digest) is None
    assert instance.trusts(redis.seals[0])


async def test_two_instances_move_the_seal_once(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    other = FollowingInstance(log, FakeSealedCache(redis))
    await other.follower.follow()
    revoke_one(log)
    await instance.follower.follow()
    after, written = seal_of(redis), redis.written
    await other.follower.follow()
    assert (seal_of(redis), redis.written) == (after, written)
    assert other.trusts(after)
    assert (instance.moves["moved"], other.moves["moved"]) == (1, 0)


# Pages


async def test_pages_before_the_last_only_restrict(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    before = seal_of(redis)
    first = build_session()
    redis.put(first)
    log.commit(replace(first, scopes=(), version=2))  # it opens, and the page is not the last one
    others = [log.commit(build_session(version=2)) for _ in range(MANY)]
    tombstone = revoke(log, others[0])
    pages: list[tuple[Mark, Session | None]] = []

    async def look() -> None:
        pages.append((seal_of(redis).mark, redis.copy_of(first.digest)))

    log.before_page = look
    await instance.follower.follow()
    assert [page for page, _ in groupby(pages)] == [
        (before.mark, first),
        (before.mark, None),
    ]
    assert redis.copy_of(first.digest) is None
    assert redis.copy_of(others[-1].digest) == others[-1]
    assert seal_of(redis).namespace == before.namespace
    assert redis.copy_of(tombstone.digest) == tombstone
    assert instance.trusts(redis.seals[0])


async def test_seal_is_another_one_after_each_page(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    """A fill that was read before a page must not be put after it."""
    for _ in range(MANY):
        revoke_one(log)
    seals = {seal_of(redis)}

    async def look() -> None:
        seals.add(seal_of(redis))

    log.before_page = look
    await instance.follower.follow()
    assert len(seals | {seal_of(redis)}) == 6  # five pages
    assert redis.written == 6


async def test_session_changed_between_two_pages_is_put_only_as_far_as_the_seal_covers_it(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    for _ in range(MANY):
        revoke_one(log)
    late = log.commit(build_session(version=2))

    async def change_late() -> None:
        if redis.written == 2:  # a seal, and the first page
            log.commit(replace(late, version=3))

    log.before_page = change_late
    await instance.follower.follow()
    assert redis.copy_of(late.digest) is None  # the seal's position does not have version 3
    log.before_page = do_nothing
    await instance.follower.follow()
    copy = redis.copy_of(late.digest)
    assert copy is not None
    assert copy.version == 3


@pytest.mark.parametrize("is_refused", [True, False])
async def test_more_changes_than_can_be_read_in_time_begin_a_new_namespace(
    log: FakeChangeLog, redis: FakeServer, caplog: pytest.LogCaptureFixture, is_refused: bool
) -> None:
    instance = FollowingInstance(log, FakeSealedCache(redis), pages_timeout=0.01)
    await instance.follower.follow()
    before = seal_of(redis)
    revoke_one(log)
    log.has_too_many, log.endless = is_refused, not is_refused
    log.before_page = lambda: asyncio.sleep(0)
    with caplog.at_level(logging.WARNING, "sidegate.follower"):
        await instance.follower.follow()
    log.has_too_many = log.endless = False
    assert seal_of(redis).namespace != before.namespace
    assert instance.moves == {"begun": 2}
    assert not instance.trusts(before)
    assert "redis too far behind" in caplog.messages
    await instance.follower.follow()
    assert instance.trusts(redis.seals[0])


# Other instances


async def test_seal_moved_by_another_instance_meanwhile_is_verified_in_the_same_round(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    other = FollowingInstance(log, FakeSealedCache(redis))
    await other.follower.follow()
    tombstone = revoke_one(log)

    async def move() -> None:
        log.before_mark = do_nothing
        await other.follower.follow()

    log.before_mark = move
    await instance.follower.follow()
    assert (instance.moves["moved"], other.moves["moved"]) == (0, 1)
    assert redis.copy_of(tombstone.digest) == tombstone
    assert instance.trusts(redis.seals[0])


async def test_namespace_begun_by_another_instance_meanwhile_is_used(
    log: FakeChangeLog, redis: FakeServer
) -> None:
    instance, other = (FollowingInstance(log, FakeSealedCache(redis)) for _ in range(2))

    async def begin() -> None:
        log.before_mark = do_nothing
        await other.follower.follow()

    log.before_mark = begin
    await instance.follower.follow()
    assert (instance.moves["begun"], other.moves["begun"]) == (0, 1)
    assert instance.trusts(redis.seals[0])


async def test_change_committed_during_a_round_is_found_if_the_seal_had_to_be_read_again(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    other = FollowingInstance(log, FakeSealedCache(redis))
    await other.follower.follow()
    revoke_one(log)
    tombstones = []

    async def move() -> None:
        log.before_mark = do_nothing
        await other.follower.follow()
        tombstones.append(revoke_one(log))

    log.before_mark = move
    await instance.follower.follow()
    assert redis.copy_of(tombstones[0].digest) == tombstones[0]


# Servers and buckets


async def test_every_bucket_without_a_seal_gets_one(log: FakeChangeLog) -> None:
    redis = FakeServer(dict.fromkeys(range(4)))
    instance = FollowingInstance(log, FakeSealedCache(redis))
    await instance.follower.follow()
    seals = dict(redis.seals)
    assert len({seal.namespace for seal in seals.values() if seal is not None}) == 4
    redis.seals[2] = None
    await instance.follower.follow()
    assert {bucket for bucket in seals if redis.seals[bucket] != seals[bucket]} == {2}
    assert all(instance.trusts(seal) for seal in redis.seals.values())


async def test_change_moves_the_seals_of_all_buckets(log: FakeChangeLog) -> None:
    redis = FakeServer(dict.fromkeys(range(4)))
    instance = FollowingInstance(log, FakeSealedCache(redis))
    await instance.follower.follow()
    before = dict(redis.seals)
    tombstones = [revoke_one(log) for _ in range(20)]
    await instance.follower.follow()
    assert [redis.copy_of(each.digest) for each in tombstones] == tombstones
    assert all(redis.seals[bucket] != before[bucket] for bucket in before)
    assert instance.moves == {"begun": 1, "moved": 1}


async def test_servers_that_connections_lead_to_are_followed_each_by_itself(
    log: FakeChangeLog,
) -> None:
    one, two = FakeServer(), FakeServer()
    instance = FollowingInstance(log, FakeSealedCache(one, two))
    await instance.follower.follow()
    tombstone = revoke_one(log)
    await instance.follower.follow()
    for redis in (one, two):
        assert redis.copy_of(tombstone.digest) == tombstone
        assert instance.trusts(redis.seals[0])


async def test_server_that_takes_no_writes_does_not_affect_the_other(log: FakeChangeLog) -> None:
    one, two = FakeServer(), FakeServer()
    instance = FollowingInstance(log, FakeSealedCache(one, two))
    await instance.follower.follow()
    one.read_only = True
    revoke_one(log)
    await instance.follower.follow()
    assert not instance.trusts(one.seals[0])
    assert instance.trusts(two.seals[0])


@pytest.mark.parametrize("is_first", [True, False])
async def test_copy_of_a_server_that_is_behind_is_brought_forward(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance, is_first: bool
) -> None:
    """Both servers have the same namespace, as a primary and a replica that was cut off."""
    old = FakeServer(dict(redis.seals))
    tombstone = revoke_one(log)
    await instance.follower.follow()
    assert not instance.trusts(old.seals[0])
    servers = (old, redis) if is_first else (redis, old)
    both = FollowingInstance(log, FakeSealedCache(*servers))
    for _ in range(2):
        await both.follower.follow()
        for server in servers:
            assert server.copy_of(tombstone.digest) == tombstone
            assert both.trusts(server.seals[0])


# Lost seals and positions


async def test_lost_seal_begins_a_new_namespace(
    redis: FakeServer, instance: FollowingInstance
) -> None:
    before = seal_of(redis)
    redis.seals[0] = None  # evicted, deleted, or not readable
    await instance.follower.follow()
    after = seal_of(redis)
    assert after.namespace != before.namespace
    assert instance.trusts(after)
    assert not instance.trusts(before)


async def test_lost_position_begins_a_new_namespace_and_is_reported(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    before = seal_of(redis)
    log.marks.clear()
    await instance.follower.follow()
    [(lost, namespaces)] = instance.lost
    assert isinstance(lost, PositionLost)
    assert namespaces == {before.namespace}
    assert instance.invalidations == ["position lost"]
    assert seal_of(redis).namespace != before.namespace
    # What the round had verified until then may have been lost, too: the next one decides.
    assert not instance.trust.is_trusted
    assert instance.wakeup.is_set()
    await instance.follower.follow()
    assert instance.trusts(redis.seals[0])
    assert len(instance.lost) == 1


async def test_seal_of_another_database_begins_a_new_namespace(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    before = seal_of(redis)
    log.system = "2"
    await instance.follower.follow()
    await instance.follower.follow()
    assert seal_of(redis).namespace != before.namespace
    assert seal_of(redis).mark.system == "2"
    assert instance.trusts(redis.seals[0])


# The database is unavailable


async def test_trust_outlasts_a_database_outage_for_the_configured_time(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    log.down = True
    for _ in range(int(HOUR) - 1):
        instance.clock.advance(1)
        assert instance.trusts(redis.seals[0])
        with pytest.raises(StoreUnavailable):
            await instance.follower.follow()
    instance.clock.advance(1)
    assert not instance.trust.is_trusted


async def test_instance_that_starts_without_the_database_trusts_nothing(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    log.down = True
    assert instance.trusts(redis.seals[0])
    late = FollowingInstance(log, FakeSealedCache(redis))
    with pytest.raises(StoreUnavailable):
        await late.follower.follow()
    assert not late.trusts(redis.seals[0])


async def test_known_change_that_could_not_be_applied_ends_trust_in_spite_of_an_outage(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    for _ in range(MANY):
        revoke_one(log)

    async def fail_at_the_second_page() -> None:
        log.down = redis.written > 1

    log.before_page = fail_at_the_second_page
    with pytest.raises(StoreUnavailable):
        await instance.follower.follow()
    assert not instance.trust.is_trusted
    assert instance.invalidations == ["not followed"]


async def test_change_that_cannot_be_marked_ends_trust_until_it_can(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    tombstone = revoke_one(log)
    log.read_only = True
    with pytest.raises(StoreUnavailable):
        await instance.follower.follow()
    assert not instance.trusts(redis.seals[0])
    assert instance.invalidations == ["not followed"]
    log.read_only = False
    await instance.follower.follow()
    assert redis.copy_of(tombstone.digest) == tombstone
    assert instance.trusts(redis.seals[0])


async def test_database_that_takes_no_writes_and_has_no_changes_does_not_end_trust(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    log.read_only = True
    await instance.follower.follow()
    assert instance.trusts(redis.seals[0])


@pytest.mark.parametrize("is_down", [True, False])
async def test_process_suspended_in_a_round_trusts_nothing_until_the_next_one(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance, is_down: bool
) -> None:
    async def suspend() -> None:
        instance.clock.advance(LAPSE + 0.5)
        log.down = is_down

    log.before_page = suspend
    with pytest.raises(StoreUnavailable) if is_down else nullcontext():
        await instance.follower.follow()
    assert not instance.trusts(redis.seals[0])
    log.before_page = do_nothing
    log.down = False
    await instance.follower.follow()
    assert instance.trusts(redis.seals[0])


def test_trust_does_not_lapse_while_the_database_hangs() -> None:
    assert INTERVAL + MAX_JITTER + QUESTION_TIMEOUT < LAPSE


async def test_process_suspended_for_longer_than_trust_lasts_trusts_nothing(
    redis: FakeServer, instance: FollowingInstance
) -> None:
    instance.clock.advance(LAPSE)
    assert not instance.trusts(redis.seals[0])
    await instance.follower.follow()
    assert instance.trusts(redis.seals[0])
    assert instance.invalidations == ["lapsed"]


# Redis is unavailable


async def test_trust_in_an_unavailable_redis_lapses(
    redis: FakeServer, instance: FollowingInstance
) -> None:
    redis.down = True
    with pytest.raises(StoreUnavailable, match="redis"):
        await instance.follower.follow()
    assert instance.trusts(redis.seals[0])
    instance.clock.advance(LAPSE)
    assert not instance.trusts(redis.seals[0])
    redis.down = False
    await instance.follower.follow()
    assert instance.trusts(redis.seals[0])


async def test_redis_that_takes_no_writes_is_trusted_while_nothing_changes(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    redis.read_only = True
    await instance.follower.follow()
    assert instance.trusts(redis.seals[0])
    tombstone = revoke_one(log)
    with pytest.raises(StoreUnavailable, match="redis"):
        await instance.follower.follow()
    assert not instance.trust.is_trusted
    redis.read_only = False
    await instance.follower.follow()
    assert redis.copy_of(tombstone.digest) == tombstone
    assert instance.trusts(redis.seals[0])


async def test_server_that_was_not_met_in_a_round_is_not_trusted_after_it(
    log: FakeChangeLog,
) -> None:
    one, two = FakeServer(), FakeServer()
    instance = FollowingInstance(log, FakeSealedCache(one, two))
    await instance.follower.follow()
    two.down = True
    await instance.follower.follow()
    assert instance.trusts(one.seals[0])
    assert not instance.trusts(two.seals[0])
    assert instance.wakeup.is_set()


# Invalidation


async def test_invalidation_during_a_round_stays_in_force_until_the_next_one(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    async def invalidate() -> None:
        instance.trust.invalidate("undelivered")

    log.before_page = invalidate
    await instance.follower.follow()
    assert not instance.trust.is_trusted
    assert instance.wakeup.is_set()
    log.before_page = do_nothing
    await instance.follower.follow()
    assert instance.trusts(redis.seals[0])


# Times of rounds


@pytest.mark.parametrize(
    ("microseconds", "jitter", "seconds"),
    [
        (0, 0.0, 0.5),
        (123_456, 0.0, 0.376544),
        (499_999, 0.0, 0.000001),
        (500_000, 0.0, 0.5),
        (750_000, 0.0, 0.25),
        (750_000, 0.5, 0.275),
        (999_999, 1.0, 0.050001),
    ],
)
def test_rounds_begin_on_half_seconds_of_the_clock_and_a_little_later(
    microseconds: int, jitter: float, seconds: float
) -> None:
    now = datetime(2026, 3, 4, 12, 0, 0, microseconds, tzinfo=UTC)
    assert seconds_to_next_round(now, jitter=jitter) == pytest.approx(seconds, abs=1e-6)


async def test_wakeup_begins_a_round_at_once(instance: FollowingInstance) -> None:
    rounds = asyncio.Queue[bool]()
    running = asyncio.create_task(instance.follower.run(rounds.put_nowait))
    assert await rounds.get()
    instance.clock.advance(-NOON.microsecond / 1e6)  # half a second is left
    time = asyncio.get_running_loop().time
    started = time()
    for _ in range(4):
        instance.wakeup.set()
        assert await rounds.get()
    assert time() - started < 2.0  # four periodic rounds
    await cancel_all([running])


async def test_rounds_continue_after_an_outage_and_are_reported(
    log: FakeChangeLog, redis: FakeServer, instance: FollowingInstance
) -> None:
    instance.clock.advance(timedelta(microseconds=490_000 - NOON.microsecond))
    rounds = asyncio.Queue[bool]()
    log.down = True
    running = asyncio.create_task(instance.follower.run(rounds.put_nowait))
    assert not await rounds.get()
    log.down = False
    tombstone = revoke_one(log)
    await wait_until(lambda: redis.copy_of(tombstone.digest) == tombstone)
    await cancel_all([running])
    results = [rounds.get_nowait() for _ in range(rounds.qsize())]
    assert results[-1]
