"""The catch-up loses nothing, whatever is away when something changes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.core.errors import StoreUnavailable
from proxy.core.session import Session, SessionRecord
from proxy.service.catch_up import CatchUp
from proxy.stores.sqlite import SqliteStore
from tests.clock import NOON
from tests.contracts.values import a_record, a_session
from tests.fakes import Shelf


@pytest.fixture
async def truth(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "sidegate.db")
    yield store
    await store.close()


async def revoke_one(truth: SqliteStore) -> Session:
    """Create a session, revoke it, and return its tombstone."""
    session = a_session()
    await truth.create(a_record(session))
    tombstone = session.revoked(NOON)
    assert await truth.replace(SessionRecord(tombstone), expected=session.version)
    return tombstone


async def test_what_another_instance_revoked_reaches_every_hot_store(truth: SqliteStore) -> None:
    near, far = Shelf(), Shelf()
    catch_up = CatchUp(truth, hot=[near, far], believe=lambda _: None, every=1)
    await catch_up.once()
    tombstone = await revoke_one(truth)
    assert await catch_up.once() == 1
    assert near.sessions[tombstone.digest] == far.sessions[tombstone.digest] == tombstone


async def test_it_begins_with_the_present(truth: SqliteStore) -> None:
    await revoke_one(truth)
    near = Shelf()
    await CatchUp(truth, hot=[near], believe=lambda _: None, every=1).once()
    assert near.sessions == {}


async def test_a_store_that_could_not_be_told_is_not_believed_any_more(
    truth: SqliteStore,
) -> None:
    near, far = Shelf(), Shelf()
    believed: list[int] = []
    catch_up = CatchUp(truth, hot=[near, far], believe=believed.append, every=1)
    await catch_up.once()
    far.down = True
    tombstone = await revoke_one(truth)
    await catch_up.once()
    assert near.sessions[tombstone.digest] == tombstone
    assert believed == [1, 1, 2]
    assert await truth.generation() == 2  # whoever starts later believes it no more either


async def test_a_round_that_was_cut_short_is_made_again(truth: SqliteStore) -> None:
    near = Shelf()
    catch_up = CatchUp(truth, hot=[near], believe=lambda _: None, every=1)
    await catch_up.once()
    tombstone = await revoke_one(truth)
    near.open.clear()
    cut_short = asyncio.create_task(catch_up.once())
    await asyncio.sleep(0.01)
    cut_short.cancel()
    near.open.set()
    assert await catch_up.once() == 1
    assert near.sessions[tombstone.digest] == tombstone


async def test_it_goes_on_after_an_outage_of_the_truth() -> None:
    rounds = asyncio.Queue[bool]()

    class Moody:
        """A truth that answers every other time."""

        asked = 0

        async def generation(self) -> int:
            return 1

        async def changed_since(self, mark: int) -> tuple[int, list[Session]]:
            self.asked += 1
            if self.asked % 2:
                raise StoreUnavailable("moody", "not now")
            return mark + 1, []

    catch_up = CatchUp(Moody(), hot=[], believe=lambda _: None, every=0.001)  # type: ignore[arg-type]  # one verb will do
    running = asyncio.create_task(catch_up.run(rounds.put_nowait))
    told = [await rounds.get() for _ in range(4)]
    running.cancel()
    assert told == [False, True, False, True]
