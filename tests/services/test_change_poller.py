"""The catch-up loses nothing, whatever is away when something changes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidegate.core.errors import MarkLost, StoreUnavailable
from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session, SessionRecord
from sidegate.services.change_poller import ChangePoller
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import a_record, a_session
from tests.stores.waiting import until
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import Shelf

LONG_ENOUGH = 1.0
"""Seconds after which a far store is told what another instance changed."""


@dataclass
class Scene:
    """One instance between its hot stores and the truth."""

    truth: DurableStore
    clock: FakeClock = field(default_factory=FakeClock)
    near: Shelf = field(default_factory=Shelf)
    far: Shelf = field(default_factory=Shelf)
    told: list[int] = field(default_factory=list)
    believed: list[int | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.catch_up = ChangePoller(
            self.truth,
            hot=[self.near, self.far],
            told=self.told.append,
            believe=lambda certain: self.believed.append(self.told[-1] if certain else None),
            gap=self.near.sessions.clear,
            clock=self.clock,
            every=3600,
        )

    async def revoke_one(self) -> Session:
        """Create a session, revoke it behind the instance's back, and return its tombstone."""
        session = a_session()
        await self.truth.create(a_record(session))
        tombstone = session.revoked(NOON)
        assert await self.truth.replace(SessionRecord(tombstone), expected=session.version)
        return tombstone


@pytest.fixture
async def truth(tmp_path: Path) -> AsyncIterator[SqliteSessions]:
    store = await SqliteSessions.open(tmp_path / "sidegate.db")
    yield store
    await store.close()


@pytest.fixture
async def scene(truth: SqliteSessions) -> Scene:
    """An instance that has caught up."""
    scene = Scene(truth)
    await scene.catch_up.poll()
    return scene


async def test_what_another_instance_revoked_is_known_here_at_once(scene: Scene) -> None:
    tombstone = await scene.revoke_one()
    assert await scene.catch_up.poll() == 1
    assert scene.near.sessions[tombstone.digest] == tombstone
    assert await scene.catch_up.poll() == 0


async def test_it_begins_with_the_present(truth: SqliteSessions) -> None:
    scene = Scene(truth)
    await scene.revoke_one()
    await scene.catch_up.poll()
    assert scene.near.sessions == {}


async def test_what_somebody_died_over_is_told_by_whoever_starts_before_a_store_is_believed(
    truth: SqliteSessions,
) -> None:
    scene = Scene(truth)
    tombstone = await scene.revoke_one()
    alive = a_session(id=tombstone.id, digest=tombstone.digest)
    await scene.far.put(alive)
    scene.far.open.clear()
    starting = asyncio.create_task(scene.catch_up.poll())
    await asyncio.sleep(0.01)
    assert scene.told == [1, 1]  # it is put under that
    assert scene.believed == []
    scene.far.open.set()
    await starting
    assert scene.far.sessions[tombstone.digest] == tombstone
    assert scene.believed == [1]


async def test_a_store_that_cannot_be_told_of_that_is_not_believed(truth: SqliteSessions) -> None:
    scene = Scene(truth)
    await scene.revoke_one()
    scene.far.down = True
    await scene.catch_up.poll()
    assert scene.believed == [2]


async def test_locked_sessions_keep_no_doubt_from_being_settled(scene: Scene) -> None:
    async def locked(_: int) -> tuple[int, list[Session]]:
        await asyncio.Event().wait()
        raise AssertionError

    scene.truth.changed_since = locked  # type: ignore[assignment,method-assign]  # for a lock
    scene.catch_up.distrust_redis()
    waiting = asyncio.create_task(scene.catch_up.poll())
    await until(lambda: scene.believed[-1] == 1)
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_locked_sessions_keep_no_debt_from_being_paid(scene: Scene) -> None:
    async def locked(_: int) -> tuple[int, list[Session]]:
        await asyncio.Event().wait()
        raise AssertionError

    tombstone = a_session().revoked(NOON)
    scene.truth.changed_since = locked  # type: ignore[assignment,method-assign]  # for a lock
    scene.catch_up.redeliver_later([tombstone])
    waiting = asyncio.create_task(scene.catch_up.poll())
    await until(lambda: scene.far.sessions == {tombstone.digest: tombstone})
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_a_late_fill_of_a_far_store_loses_to_the_tombstone(scene: Scene) -> None:
    tombstone = await scene.revoke_one()
    await scene.catch_up.poll()
    alive = a_session(id=tombstone.id, digest=tombstone.digest)
    await scene.far.put(alive)  # read before it was revoked
    scene.clock.advance(LONG_ENOUGH)
    await scene.catch_up.poll()
    assert scene.far.sessions[tombstone.digest] == tombstone


async def test_a_store_that_could_not_be_told_is_not_believed_any_more(scene: Scene) -> None:
    scene.far.down = True
    await scene.revoke_one()
    await scene.catch_up.poll()
    scene.clock.advance(LONG_ENOUGH)
    await scene.catch_up.poll()
    assert scene.believed[-1] == 2
    assert await scene.truth.generation() == 2  # whoever starts later believes it no more either


async def test_in_doubt_nothing_is_believed_until_the_truth_has_told_the_generation(
    scene: Scene,
) -> None:
    scene.catch_up.distrust_redis()
    assert scene.believed == [1, None]
    await scene.catch_up.poll()
    assert set(scene.believed[2:]) == {1}


async def test_a_generation_that_was_told_before_the_doubt_is_not_believed(scene: Scene) -> None:
    ask = scene.truth.generation

    async def doubted_meanwhile() -> int:
        generation = await ask()
        scene.catch_up.distrust_redis()
        return generation

    scene.truth.generation = doubted_meanwhile  # type: ignore[method-assign]  # for one round
    await scene.catch_up.poll()
    assert set(scene.believed[1:]) == {None}
    scene.truth.generation = ask  # type: ignore[method-assign]  # as before
    await scene.catch_up.poll()
    assert scene.believed[-1] == 1


async def test_what_it_missed_and_is_not_believed_for_is_not_told_again(scene: Scene) -> None:
    scene.far.down = True
    await scene.revoke_one()
    await scene.catch_up.poll()
    scene.clock.advance(LONG_ENOUGH)
    for _ in range(3):
        await scene.catch_up.poll()
    assert await scene.truth.generation() == 2


async def test_of_many_instances_that_cannot_tell_a_store_one_ends_its_generation(
    scene: Scene,
) -> None:
    others = [Scene(scene.truth, far=scene.far) for _ in range(3)]
    everybody = [scene, *others]
    for each in others:
        await each.catch_up.poll()
    scene.far.down = True
    await scene.revoke_one()
    for each in everybody:
        await each.catch_up.poll()
        each.clock.advance(LONG_ENOUGH)
    ask = scene.truth.generation
    before = await ask()

    async def at_once() -> int:
        return before

    scene.truth.generation = at_once  # type: ignore[method-assign]  # all ask before one ends it
    await asyncio.gather(*(each.catch_up.poll() for each in everybody))
    assert await ask() == 2


async def test_a_truth_that_has_gone_back_in_time_is_heard_again_from_now_on() -> None:
    class Restored:
        """A truth that a replica took over, which lacked the last changes."""

        generations = 1

        async def generation(self) -> int:
            return self.generations

        async def next_generation(self, after: int) -> int:
            self.generations = after + 1
            return self.generations

        async def last_changed(self, _: int) -> list[Session]:
            return []

        async def changed_since(self, mark: int) -> tuple[int, list[Session]]:
            if mark == 9 and near.sessions:
                raise MarkLost("told to")
            return (3 if near.sessions else 9), []

    instance = Scene(Restored())  # type: ignore[arg-type]  # four verbs will do
    near = instance.near
    await instance.catch_up.poll()
    await near.put(a_session())
    assert await instance.catch_up.poll() == 0
    assert near.sessions == {}  # whatever it held may have been changed
    assert instance.believed[-1] is None
    assert await instance.catch_up.poll() == 0
    assert instance.believed[-1] == 2  # and what a store beyond holds was perhaps never there


async def hears_the_news_all_the_same(
    scene: Scene, *, next_generation: Callable[[int], Awaitable[int]]
) -> None:
    tombstone = await scene.revoke_one()
    scene.truth.next_generation = next_generation  # type: ignore[assignment,method-assign]
    scene.far.down = True
    scene.catch_up.redeliver_later([a_session().revoked(NOON)])
    with pytest.raises(StoreUnavailable):
        await scene.catch_up.poll()
    assert scene.near.sessions[tombstone.digest] == tombstone


async def test_what_the_truth_cannot_note_keeps_no_news_from_being_heard(scene: Scene) -> None:
    """A database that may only be read begins no generation, and has news all the same."""

    async def read_only(_: int) -> int:
        raise StoreUnavailable("truth", "it is read-only")

    await hears_the_news_all_the_same(scene, next_generation=read_only)


async def test_nor_does_what_the_truth_is_slow_to_note(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit may wait for a synchronous replica that is away."""

    async def never(_: int) -> int:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("sidegate.services.change_poller._SETTLING", 0.05)
    await hears_the_news_all_the_same(scene, next_generation=never)


# --- What was changed here


async def test_what_is_owed_to_a_store_is_told_as_soon_as_it_can_be(scene: Scene) -> None:
    tombstone = a_session().revoked(NOON)
    scene.catch_up.redeliver_later([tombstone])
    await scene.catch_up.redeliver()
    assert scene.far.sessions[tombstone.digest] == tombstone
    assert await scene.truth.generation() == 1


async def test_a_storm_of_what_cannot_be_told_begins_one_generation(scene: Scene) -> None:
    scene.far.down = True
    for _ in range(1000):
        scene.catch_up.redeliver_later([a_session().revoked(NOON)])
    await scene.catch_up.redeliver()
    assert await scene.truth.generation() == 2


async def test_while_the_truth_is_away_the_store_is_told_and_the_debt_stays() -> None:
    class Away:
        """A truth that does not answer."""

        async def generation(self) -> int:
            raise StoreUnavailable("away", "told to be")

    scene = Scene(Away())  # type: ignore[arg-type]  # one verb will do
    tombstone = a_session().revoked(NOON)
    scene.catch_up.redeliver_later([tombstone])
    rounds = asyncio.Queue[bool]()
    running = asyncio.create_task(scene.catch_up.run(rounds.put_nowait))
    for _ in range(2):
        assert not await rounds.get()
        assert scene.far.sessions == {tombstone.digest: tombstone}
        scene.far.sessions.clear()
        scene.catch_up.wake()
    running.cancel()
    await asyncio.wait([running])


# --- Going round


async def test_it_looks_at_once_when_it_rings(scene: Scene) -> None:
    running = asyncio.create_task(scene.catch_up.run(lambda _: None))
    tombstone = await scene.revoke_one()
    scene.catch_up.wake()  # the next round would be in an hour
    await until(lambda: tombstone.digest in scene.near.sessions)
    running.cancel()
    await asyncio.wait([running])


async def test_the_end_settles_what_is_owed(scene: Scene) -> None:
    rounds = asyncio.Queue[bool]()
    running = asyncio.create_task(scene.catch_up.run(rounds.put_nowait))
    await rounds.get()
    tombstone = a_session().revoked(NOON)
    scene.catch_up.redeliver_later([tombstone])
    running.cancel()
    await asyncio.wait([running])
    assert scene.far.sessions == {tombstone.digest: tombstone}


async def test_a_round_that_was_cut_short_is_made_again(scene: Scene) -> None:
    tombstone = await scene.revoke_one()
    scene.near.open.clear()
    cut_short = asyncio.create_task(scene.catch_up.poll())
    await asyncio.sleep(0.01)
    cut_short.cancel()
    scene.near.open.set()
    assert await scene.catch_up.poll() == 1
    assert scene.near.sessions[tombstone.digest] == tombstone


async def test_it_goes_on_after_an_outage_of_the_truth() -> None:
    rounds = asyncio.Queue[bool]()

    class Moody:
        """A truth that answers twice, and then not."""

        asked = 0

        async def generation(self) -> int:
            return 1

        async def last_changed(self, _: int) -> list[Session]:
            return []

        async def changed_since(self, mark: int) -> tuple[int, list[Session]]:
            self.asked += 1
            if self.asked % 3 == 1:
                raise StoreUnavailable("moody", "not now")
            return mark + 1, []

    scene = Scene(Moody())  # type: ignore[arg-type]  # three verbs will do
    running = asyncio.create_task(scene.catch_up.run(rounds.put_nowait))
    told = []
    for _ in range(4):
        scene.catch_up.wake()
        told.append(await rounds.get())
    running.cancel()
    assert told == [False, True, False, True]
