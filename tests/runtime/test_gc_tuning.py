"""The tuning of the garbage collector: the program is frozen, new cycles are collected."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from sidegate.runtime.gc_tuning import limit_gc_pauses
from tests.stores.waiting import wait_until


class Cycle:
    """Refers to itself, and counts its deletions."""

    deleted = 0

    def __init__(self) -> None:
        self.myself = self

    def __del__(self) -> None:
        Cycle.deleted += 1


@asynccontextmanager
async def run_tuning(
    sleeps: list[float] | None = None, *, timer: Callable[[], float] = lambda: 0.0
) -> AsyncIterator[None]:
    """Run the tuning, without pauses, but append to `sleeps` what it would have waited."""

    async def sleep(seconds: float) -> None:
        if sleeps is not None:
            sleeps.append(seconds)
        await asyncio.sleep(0)

    before = gc.get_threshold()
    running = asyncio.create_task(limit_gc_pauses(sleep=sleep, timer=timer))
    try:
        await asyncio.sleep(0)
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert gc.get_threshold() == before
        assert gc.get_freeze_count() == 0


async def test_what_is_present_at_the_start_is_frozen_and_freed_with_its_last_reference() -> None:
    references = [[n] for n in range(1000)]
    async with run_tuning():
        before = gc.get_freeze_count()
        assert before > 1000
        references.clear()
        assert gc.get_freeze_count() <= before - 1000


async def test_later_objects_are_not_frozen_and_their_cycles_are_freed() -> None:
    async with run_tuning():
        Cycle.deleted = 0
        later = Cycle()
        for _ in range(3):
            await asyncio.sleep(0)
        del later
        await wait_until(lambda: Cycle.deleted == 1)


async def test_automatic_full_collections_are_disabled() -> None:
    async with run_tuning():
        assert gc.get_threshold()[2] > 1_000_000


@pytest.mark.parametrize(
    ("took", "wait"), [(0.0, 2.0), (0.001, 2.0), (0.005, 10.0), (0.03, 60.0), (9.0, 60.0)]
)
async def test_the_longer_a_collection_takes_the_later_is_the_next(
    took: float, wait: float
) -> None:
    def read_times() -> Iterator[float]:
        while True:
            yield 0.0
            yield took

    times, sleeps = read_times(), list[float]()
    async with run_tuning(sleeps, timer=lambda: next(times)):
        await wait_until(lambda: len(sleeps) > 2)
    assert sleeps == pytest.approx([wait] * len(sleeps))
