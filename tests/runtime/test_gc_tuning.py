"""The tuning of the garbage collector: old objects are frozen, new cycles are collected."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidegate.runtime.gc_tuning import limit_gc_pauses
from tests.stores.waiting import wait_until


@asynccontextmanager
async def run_tuning(*, freeze_after: float) -> AsyncIterator[None]:
    before = gc.get_threshold()
    running = asyncio.create_task(limit_gc_pauses(0.001, freeze_after=freeze_after))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert gc.get_threshold() == before
        assert gc.get_freeze_count() == 0


class Cycle:
    """Refers to itself, and counts its deletions."""

    deleted = 0

    def __init__(self) -> None:
        self.myself = self

    def __del__(self) -> None:
        Cycle.deleted += 1


async def test_objects_are_frozen_after_a_long_collection() -> None:
    async with run_tuning(freeze_after=0.0):
        await wait_until(lambda: gc.get_freeze_count() > 0)


async def test_short_collection_frees_cycles_and_freezes_nothing() -> None:
    async with run_tuning(freeze_after=60.0):
        Cycle.deleted = 0
        Cycle()
        await wait_until(lambda: Cycle.deleted == 1)
        assert gc.get_freeze_count() == 0


async def test_frozen_object_is_freed_with_its_last_reference() -> None:
    references = [[n] for n in range(1000)]
    async with run_tuning(freeze_after=0.0):
        await wait_until(lambda: gc.get_freeze_count() > 1000)
        before = gc.get_freeze_count()
        references.clear()
        assert gc.get_freeze_count() <= before - 1000


async def test_automatic_full_collections_are_disabled() -> None:
    async with run_tuning(freeze_after=60.0):
        await asyncio.sleep(0)
        assert gc.get_threshold()[2] > 1_000_000
