"""Whoever listens for his own voice notices that he has not run."""

import asyncio

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.stores.heartbeat import PATIENCE, Heartbeat
from tests.contracts.rigs import ignore
from tests.support.clock import FakeClock


async def rested(*, meanwhile: float) -> None:
    """Rest until the next beat, while so many seconds pass."""
    clock = FakeClock()
    heart = Heartbeat("store", clock=clock, lag=ignore, every=0.001)
    heart.beat()
    resting = asyncio.create_task(heart.rest())
    await asyncio.sleep(0)
    clock.advance(meanwhile)
    await resting


async def test_between_two_beats_it_rests() -> None:
    await rested(meanwhile=PATIENCE)


async def test_who_was_stopped_between_two_beats_may_have_missed_something() -> None:
    with pytest.raises(StoreUnavailable):
        await rested(meanwhile=PATIENCE + 1)


async def test_so_may_who_was_stopped_while_he_said_something() -> None:
    clock = FakeClock()
    heart = Heartbeat("store", clock=clock, lag=ignore, every=0.001)
    heart.beat()
    clock.advance(PATIENCE + 1)
    with pytest.raises(StoreUnavailable):
        await heart.rest()
