"""Whoever listens for his own voice notices that he has not run."""

import asyncio

import pytest

from proxy.core.errors import StoreUnavailable
from proxy.stores.heartbeat import PATIENCE, Heartbeat
from tests.clock import FakeClock
from tests.contracts.rigs import ignore


async def rested(*, meanwhile: float) -> None:
    """Rest until the next beat, while so many seconds pass."""
    clock = FakeClock()
    resting = asyncio.create_task(
        Heartbeat("store", clock=clock, lag=ignore, every=0.001).rest(),
    )
    await asyncio.sleep(0)
    clock.advance(meanwhile)
    await resting


async def test_between_two_beats_it_rests() -> None:
    await rested(meanwhile=PATIENCE)


async def test_who_was_stopped_between_two_beats_may_have_missed_something() -> None:
    with pytest.raises(StoreUnavailable):
        await rested(meanwhile=PATIENCE + 1)
