"""The longest time for which an event loop is blocked."""

import time

from tests.faults.event_loop import EventLoopWatch
from tests.stores.waiting import no_leaks, wait_until


async def test_blocked_loop_is_measured() -> None:
    async with no_leaks():
        watch = EventLoopWatch()
        await wait_until(lambda: watch.ticks > 0)
        _block(0.1)
        seen = watch.ticks
        await wait_until(lambda: watch.ticks > seen)
        watch.stop()
    assert watch.longest > 0.05


async def test_loop_that_runs_is_not_blocked() -> None:
    async with no_leaks():
        watch = EventLoopWatch()
        await wait_until(lambda: watch.ticks > 5)
        watch.stop()
    assert watch.longest < 0.05


def _block(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
