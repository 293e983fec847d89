"""A heartbeat detects that its process was paused."""

import asyncio

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.stores.heartbeat import HEARTBEAT_TIMEOUT, Heartbeat
from tests.contracts.harnesses import ignore
from tests.support.clock import FakeClock


async def wait_for_next(*, elapsed: float) -> None:
    """Wait for the next heartbeat while `elapsed` seconds pass."""
    clock = FakeClock()
    heartbeat = Heartbeat("store", clock=clock, on_lag=ignore, interval=0.001)
    heartbeat.next_message()
    waiting = asyncio.create_task(heartbeat.wait_for_next())
    await asyncio.sleep(0)
    clock.advance(elapsed)
    await waiting


async def test_next_heartbeat_is_due_within_the_timeout() -> None:
    await wait_for_next(elapsed=HEARTBEAT_TIMEOUT)


async def test_pause_while_waiting_raises_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        await wait_for_next(elapsed=HEARTBEAT_TIMEOUT + 1)


async def test_pause_while_sending_raises_unavailable() -> None:
    clock = FakeClock()
    heartbeat = Heartbeat("store", clock=clock, on_lag=ignore, interval=0.001)
    heartbeat.next_message()
    clock.advance(HEARTBEAT_TIMEOUT + 1)
    with pytest.raises(StoreUnavailable):
        await heartbeat.wait_for_next()
