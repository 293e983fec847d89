"""Timeouts of stores, reported as StoreUnavailable."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from sidegate.core.errors import StoreUnavailable

_T = TypeVar("_T")


async def with_timeout(awaitable: Awaitable[_T], seconds: float, *, store: str) -> _T:
    """Await `awaitable` and return its result.

    Raise StoreUnavailable for `store` after `seconds`. A TimeoutError of `awaitable` itself is
    passed on unchanged.
    """
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            return await awaitable
    except TimeoutError:
        if not timeout.expired():
            raise
        raise StoreUnavailable(store, f"no answer within {seconds * 1000:.0f} ms") from None
