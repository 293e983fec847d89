"""Too late is not an answer, and whoever was too late is let go."""

import asyncio

import pytest

from proxy.core.errors import StoreUnavailable
from proxy.core.session import Session
from proxy.core.token import Digest
from proxy.stores.deadline import Deadline
from tests.contracts.values import a_digest, a_session
from tests.fakes import Shelf
from tests.stores.waiting import nothing_is_left, until


class Slow(Shelf):
    """A shelf that notes who was sent away."""

    def __init__(self) -> None:
        super().__init__()
        self.open.clear()
        self.left = 0

    async def find(self, digest: Digest) -> Session | None:
        try:
            return await super().find(digest)
        except asyncio.CancelledError:
            self.left += 1
            raise


async def test_an_answer_in_time_passes() -> None:
    session = a_session()
    assert await Deadline(Shelf(session), seconds=5).find(session.digest) == session


async def test_a_late_answer_is_an_outage_in_the_name_of_the_deadline() -> None:
    with pytest.raises(StoreUnavailable) as outage:
        await Deadline(Slow(), seconds=0.005).find(a_digest())
    assert outage.value.store == "deadline"


async def test_what_comes_too_late_is_not_waited_for() -> None:
    slow = Slow()
    async with nothing_is_left():
        with pytest.raises(StoreUnavailable):
            await Deadline(slow, seconds=0.001).find(a_digest())
    assert slow.left == 1


async def test_an_outage_in_time_keeps_its_name() -> None:
    shelf = Shelf()
    shelf.down = True
    with pytest.raises(StoreUnavailable) as outage:
        await Deadline(shelf, seconds=5).find(a_digest())
    assert outage.value.store == "shelf"


async def test_a_caller_that_leaves_is_not_told_of_an_outage() -> None:
    slow = Slow()
    caller = asyncio.create_task(Deadline(slow, seconds=5).find(a_digest()))
    await until(lambda: bool(slow.asked))
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert slow.left == 1
