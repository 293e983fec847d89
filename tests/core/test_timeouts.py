"""Timeouts become StoreUnavailable."""

import asyncio

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.timeouts import with_timeout


async def finish() -> str:
    await asyncio.sleep(0)
    return "an answer"


async def block_forever() -> str:
    await asyncio.Event().wait()
    return "no answer"


async def raise_timeout() -> str:
    raise TimeoutError("inner timeout")


async def test_result_within_the_timeout_is_returned() -> None:
    assert await with_timeout(finish(), 5, store="store") == "an answer"


@pytest.mark.parametrize("seconds", [0, 0.001])
async def test_timeout_raises_store_unavailable_with_the_store(seconds: float) -> None:
    with pytest.raises(StoreUnavailable) as outage:
        await with_timeout(block_forever(), seconds, store="store")
    assert outage.value.store == "store"


async def test_timeout_error_of_the_awaitable_is_passed_on() -> None:
    with pytest.raises(TimeoutError, match="inner timeout"):
        await with_timeout(raise_timeout(), 5, store="store")
