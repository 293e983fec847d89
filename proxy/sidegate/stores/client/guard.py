"""A timeout and a circuit breaker around a store, so that its outage fails fast."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from sidegate.core.digest import Digest
from sidegate.core.errors import CacheNotTrusted, StoreUnavailable, UnreadableRecord
from sidegate.core.protocols import BatchFinder, Fill, Found, OnFound, RemoteBatchCache
from sidegate.core.session import Session
from sidegate.core.timeouts import LatenessTimer, build_timeout_error, with_timeout
from sidegate.stores.client.circuit_breaker import BreakerState, CircuitBreaker

_T = TypeVar("_T")

_log: Final = logging.getLogger("sidegate.stores")


class Guard:
    """The timeout and the circuit breaker of one store, shared by all its requests.

    An outage is logged when it opens the breaker, and when the breaker closes again.
    """

    def __init__(
        self,
        store: str,
        *,
        timeout: float,
        breaker: CircuitBreaker,
        on_outage: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_outage` is called with each failure that opens the breaker, or leaves it open."""
        self._store = store
        self._timeout = timeout
        self._breaker = breaker
        self._on_outage = on_outage

    async def __call__(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """Await `request()`. A cancelled request counts neither as success nor as failure.

        Raise StoreUnavailable if the breaker is open, or there is no answer within the timeout.
        """
        if not self._breaker.allow_request():
            raise StoreUnavailable(self._store, "circuit breaker open")
        try:
            answer = await with_timeout(request(), self._timeout, store=self._store)
        except (StoreUnavailable, UnreadableRecord) as error:
            self._record_error(error)
            raise
        self._record_success()
        return answer

    def start(self, begin: Callable[[OnFound], bool], on_found: OnFound) -> bool:
        """Begin a lookup, and call `on_found` with its outcome, or after the timeout with that.

        Return False, and begin nothing, while the breaker is not closed: it might be a probe.
        """
        if self._breaker.state is not BreakerState.CLOSED:
            return False
        started = _Started(self, on_found)
        if not begin(started.complete):
            return False
        # It has not called back yet.
        loop = asyncio.get_running_loop()
        started.timer = LatenessTimer(self._timeout, started.expire, loop=loop)
        return True

    def record(self, found: Found) -> None:
        """Count the outcome of a lookup; None does not count."""
        if isinstance(found, Exception):
            self._record_error(found)
        elif found is not None:
            self._record_success()

    def build_timeout_error(self) -> StoreUnavailable:
        """Return the error for a request without an answer within the timeout."""
        return build_timeout_error(self._store, self._timeout)

    def _record_error(self, error: Exception) -> None:
        """Record what a request has raised; any other error counts neither way."""
        match error:
            case CacheNotTrusted() | UnreadableRecord():
                self._record_success()  # the store did answer
            case StoreUnavailable(reason=reason):
                self._record_failure(reason)

    def _record_failure(self, reason: str) -> None:
        if self._breaker.record_failure():
            _log.warning("store unavailable", extra={"store": self._store, "reason": reason})
        if self._breaker.state is BreakerState.OPEN:
            self._on_outage()

    def _record_success(self) -> None:
        seconds = self._breaker.record_success()
        if seconds is not None:
            _log.info(
                "store available",
                extra={"store": self._store, "outage_seconds": round(seconds, 1)},
            )


class _Started:
    """A lookup that has begun without a task. What comes after its timeout is dropped."""

    __slots__ = ("_guard", "_on_found", "timer")

    timer: LatenessTimer

    def __init__(self, guard: Guard, on_found: OnFound) -> None:
        self._guard = guard
        self._on_found: OnFound | None = on_found

    def complete(self, found: Found) -> None:
        on_found, self._on_found = self._on_found, None
        if on_found is not None:
            self.timer.cancel()
            self._guard.record(found)
            on_found(found)

    def expire(self) -> None:
        self.complete(self._guard.build_timeout_error())


class Guarded:
    """A backend whose lookups are guarded."""

    def __init__(self, backend: BatchFinder, *, guard: Guard) -> None:
        self._backend = backend
        self._guard = guard

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        return await self._guard(lambda: self._backend.find_many(digests))


class GuardedCache(Guarded):
    """A remote cache backend whose requests are guarded."""

    def __init__(self, backend: RemoteBatchCache, *, guard: Guard) -> None:
        super().__init__(backend, guard=guard)
        self._cache = backend

    def start_many(self, digests: Sequence[Digest], on_found: OnFound) -> bool:
        return self._guard.start(partial(self._cache.start_many, digests), on_found)

    async def fill_many(self, fills: Mapping[Digest, Fill]) -> Mapping[Digest, Session]:
        return await self._guard(lambda: self._cache.fill_many(fills))

    async def restrict_many(self, copies: Sequence[Session]) -> bool:
        return await self._guard(lambda: self._cache.restrict_many(copies))
