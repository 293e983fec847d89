"""A result shared by concurrent callers, and remembered briefly."""

import asyncio

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.web.ops.shared_result import MAX_AGE, SharedResult
from tests.stores.waiting import no_leaks, wait_until
from tests.support.clock import FakeClock


class Source:
    """Returns the number of the call, when it is unblocked."""

    def __init__(self) -> None:
        self.calls = 0
        self.unblocked = asyncio.Event()
        self.unblocked.set()
        self.error: Exception | None = None

    async def read(self) -> int:
        self.calls += 1
        call = self.calls
        await self.unblocked.wait()
        if self.error is not None:
            raise self.error
        return call


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
def shared(source: Source, clock: FakeClock) -> SharedResult[int]:
    return SharedResult(source.read, monotonic=clock.monotonic)


async def wait_for_call(source: Source) -> None:
    await wait_until(lambda: source.calls > 0)


async def test_concurrent_callers_share_one_call(source: Source, shared: SharedResult[int]) -> None:
    source.unblocked.clear()
    callers = [asyncio.create_task(shared.get()) for _ in range(100)]
    await wait_for_call(source)
    source.unblocked.set()

    assert await asyncio.gather(*callers) == [1] * 100
    assert source.calls == 1


async def test_result_is_remembered_for_half_a_second(
    shared: SharedResult[int], clock: FakeClock
) -> None:
    results = []
    for step in (0, MAX_AGE - 0.01, 0.01, MAX_AGE - 0.01, 0.02):
        clock.advance(step)
        results.append(await shared.get())

    assert results == [1, 1, 2, 2, 3]


async def test_age_begins_when_the_call_has_ended(
    source: Source, shared: SharedResult[int], clock: FakeClock
) -> None:
    """A store that answers slowly is not asked again at once."""
    source.unblocked.clear()
    caller = asyncio.create_task(shared.get())
    await wait_for_call(source)
    clock.advance(0.8)
    source.unblocked.set()
    await caller
    clock.advance(MAX_AGE - 0.01)

    assert await shared.get() == 1


async def test_call_goes_on_when_a_caller_is_cancelled(
    source: Source, shared: SharedResult[int]
) -> None:
    source.unblocked.clear()
    async with no_leaks():
        first, second = (asyncio.create_task(shared.get()) for _ in range(2))
        await wait_for_call(source)
        first.cancel()
        await asyncio.wait([first])
        source.unblocked.set()

        assert await second == 1
        assert first.cancelled()


async def test_error_is_raised_to_every_caller_and_not_remembered(
    source: Source, shared: SharedResult[int]
) -> None:
    outage = source.error = StoreUnavailable("redis", "on purpose")
    source.unblocked.clear()
    async with no_leaks():
        callers = [asyncio.create_task(shared.get()) for _ in range(3)]
        await wait_for_call(source)
        source.unblocked.set()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        source.error = None

        assert outcomes == [outage] * 3
        assert await shared.get() == 2
