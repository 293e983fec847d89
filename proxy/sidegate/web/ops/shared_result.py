"""A result shared by concurrent callers and remembered briefly: many cost no more than one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")

# Seconds. A probe or a scrape is at most this late.
MAX_AGE: Final = 0.5


class SharedResult(Generic[_T]):
    """Calls a function once for all callers that wait, and at most once each `max_age` seconds."""

    def __init__(
        self,
        call: Callable[[], Awaitable[_T]],
        *,
        monotonic: Callable[[], float],
        max_age: float = MAX_AGE,
    ) -> None:
        self._call = call
        self._monotonic = monotonic
        self._max_age = max_age
        self._flight: asyncio.Task[_T] | None = None
        self._last: tuple[float, _T] | None = None

    async def get(self) -> _T:
        """Return the result of the call in progress, the last one if it is fresh, or a new one.

        The call goes on if this caller is cancelled. An error is raised to each caller that waited,
        and not remembered.
        """
        flight = self._flight
        if flight is None:
            if self._last is not None and self._monotonic() - self._last[0] < self._max_age:
                return self._last[1]
            flight = self._flight = asyncio.create_task(self._run(), name="ops shared result")
        await asyncio.wait([flight])
        return flight.result()

    async def _run(self) -> _T:
        try:
            result = await self._call()
            self._last = self._monotonic(), result
            return result
        finally:
            self._flight = None
