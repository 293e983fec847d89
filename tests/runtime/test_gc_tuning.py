"""The garbage collector looks at what is new, and at what is old once only."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidegate.runtime.gc_tuning import keep_short
from tests.stores.waiting import until


@asynccontextmanager
async def kept_short(*, long: float) -> AsyncIterator[None]:
    before = gc.get_threshold()
    running = asyncio.create_task(keep_short(0.001, long=long))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert gc.get_threshold() == before
        assert gc.get_freeze_count() == 0


class Cycle:
    """Refers to itself, and tells when it is gone."""

    gone = 0

    def __init__(self) -> None:
        self.myself = self

    def __del__(self) -> None:
        Cycle.gone += 1


async def test_what_takes_long_to_look_at_is_set_aside() -> None:
    async with kept_short(long=0.0):
        await until(lambda: gc.get_freeze_count() > 0)


async def test_what_is_looked_at_quickly_is_not_set_aside_and_its_dead_cycles_are_found() -> None:
    async with kept_short(long=60.0):
        Cycle.gone = 0
        Cycle()
        await until(lambda: Cycle.gone == 1)
        assert gc.get_freeze_count() == 0


async def test_what_was_set_aside_is_freed_when_nobody_refers_to_it() -> None:
    held = [[n] for n in range(1000)]
    async with kept_short(long=0.0):
        await until(lambda: gc.get_freeze_count() > 1000)
        before = gc.get_freeze_count()
        held.clear()
        assert gc.get_freeze_count() <= before - 1000


async def test_no_full_collection_comes_by_itself() -> None:
    async with kept_short(long=60.0):
        await asyncio.sleep(0)
        assert gc.get_threshold()[2] > 1_000_000
