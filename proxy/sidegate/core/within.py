"""Whoever cannot answer in time could not answer."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from sidegate.core.errors import StoreUnavailable

_T = TypeVar("_T")


async def within(seconds: float, store: str, answer: Awaitable[_T]) -> _T:
    """Return `answer` if it comes within `seconds`; StoreUnavailable in the name of `store` if not.

    A TimeoutError that comes from inside passes as it is.
    """
    patience = asyncio.timeout(seconds)
    try:
        async with patience:
            return await answer
    except TimeoutError:
        if not patience.expired():
            raise
        raise StoreUnavailable(store, f"no answer within {seconds * 1000:.0f} ms") from None
