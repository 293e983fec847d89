"""Timeouts of stores, reported as StoreUnavailable. A late event loop is not a late store."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self, TypeVar

from sidegate.core.errors import StoreUnavailable

_T = TypeVar("_T")

# Seconds by which timers may be late on an event loop that has little to do.
_TOLERANCE: Final = 0.002
# What has arrived takes a few iterations of the loop from the socket to the coroutine that awaits
# it. There are bounds, since a timeout has to end on a loop that is always late, and soon after a
# stopped process goes on.
_MAX_EXTENSIONS: Final = 10
_MAX_EXTENSION: Final = 0.05  # seconds


class LatenessTimer:
    """Calls back once after some seconds, without the time by which the event loop was late.

    A busy loop runs a timer late, and before it reads what has arrived in the meantime: the answer
    may lie in the socket. So the time by which the timer was late is granted again, within bounds,
    in which the loop reads it.
    """

    __slots__ = ("_due", "_extensions", "_handle", "_loop", "_on_expired")

    def __init__(
        self, seconds: float, on_expired: Callable[[], object], *, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Start."""
        self._on_expired = on_expired
        self._loop = loop
        self._extensions = 0
        self._arm(loop.time() + max(0.0, seconds))

    def cancel(self) -> None:
        """Do not call back any more."""
        self._handle.cancel()

    def _arm(self, due: float) -> None:
        self._due = due
        self._handle = self._loop.call_at(due, self._on_due)

    def _on_due(self) -> None:
        now = self._loop.time()
        lateness = now - self._due
        if lateness > _TOLERANCE and self._extensions < _MAX_EXTENSIONS:
            self._extensions += 1
            self._arm(now + min(lateness, _MAX_EXTENSION))
        else:
            self._on_expired()


class StoreTimeout:
    """As `asyncio.timeout(seconds)`, with the time as LatenessTimer counts it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)

    @property
    def expired(self) -> bool:
        """Whether the timeout has ended the block."""
        return self._timeout.expired()

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        loop = asyncio.get_running_loop()
        self._timer = LatenessTimer(self._seconds, self._expire, loop=loop)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _expire(self) -> None:
        self._timeout.reschedule(0.0)


async def with_timeout(awaitable: Awaitable[_T], seconds: float, *, store: str) -> _T:
    """Await `awaitable` and return its result.

    Raise StoreUnavailable for `store` after `seconds` as StoreTimeout counts them. A TimeoutError
    of `awaitable` itself is passed on unchanged.
    """
    timeout = StoreTimeout(seconds)
    try:
        async with timeout:
            return await awaitable
    except TimeoutError:
        if not timeout.expired:
            raise
        raise build_timeout_error(store, seconds) from None


def build_timeout_error(store: str, seconds: float) -> StoreUnavailable:
    """Return the error for a store that has not answered within `seconds`."""
    return StoreUnavailable(store, f"no answer within {seconds * 1000:.0f} ms")
