"""Send the lookups and fills of one event loop tick as one round trip."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final, Generic, TypeVar

from sidegate.core.change_log import ChangedSession, list_copies
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.protocols import BatchFinder, Fill, Found, OnFound, RemoteBatchCache
from sidegate.core.session import Session

Payload = TypeVar("Payload")
Result = TypeVar("Result")

OnDone = Callable[[Digest, Result | BaseException], None]
"""Called with the result of a digest, or the error instead: CancelledError when the loop ends. It
must neither wait nor raise."""

# Those who wait for one digest.
_Callers = list[OnDone[Result]]
_Found = Mapping[Digest, Session | Exception | None]
_Outcome = Mapping[Digest, Result | Exception] | Exception
_Start = Callable[[Mapping[Digest, Payload], Callable[[_Outcome[Result] | None], None]], bool]

UNLIMITED: Final = 1_000_000_000

_log: Final = logging.getLogger("sidegate.stores")

# Digests in one round trip. A fill costs about four times as much as a lookup.
_LOOKUP_BATCH_SIZE: Final = 128
_WRITE_BATCH_SIZE: Final = 64


class BatcherFull(Exception):
    """Too many digests are outstanding: another one would not be answered in time."""


class _Batch(Generic[Payload, Result]):
    """Payloads that were sent, and their callers."""

    __slots__ = ("payloads", "waiting")

    def __init__(
        self, payloads: Mapping[Digest, Payload], waiting: Mapping[Digest, _Callers[Result]]
    ) -> None:
        self.payloads = payloads
        self.waiting = waiting


class Batcher(Generic[Payload, Result]):
    """Collects payloads by digest, and sends them when the tick or an earlier batch ends.

    While `max_in_flight` batches are in flight payloads accumulate, and the next batch is larger.
    """

    def __init__(
        self,
        send: Callable[[Mapping[Digest, Payload]], Awaitable[Mapping[Digest, Result | Exception]]],
        *,
        start: _Start[Payload, Result] = lambda _, __: False,
        merge: Callable[[Payload, Payload], Payload],
        max_batch: int,
        max_in_flight: int = UNLIMITED,
        max_outstanding: int = UNLIMITED,
        slow_after: float | None = None,
    ) -> None:
        """`send` takes at most `max_batch` payloads, and returns a result or error for each digest.

        It runs in a task, unless `start` returns True: that calls back later with the results, with
        an error for all, or with None for `send` to be awaited after all.

        `merge` combines two payloads for the same digest. `max_outstanding` bounds the digests that
        wait or are in flight. A batch that has been in flight for `slow_after` seconds no longer
        counts against `max_in_flight`, so that it does not delay the next ones. None: it counts
        until it ends.
        """
        self._send = send
        self._start = start
        self._merge = merge
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._max_outstanding = max_outstanding
        self._slow_after = slow_after
        self._payloads: dict[Digest, Payload] = {}
        self._waiting: dict[Digest, _Callers[Result]] = {}
        self._in_flight_digests = 0
        # When each of those was started that count against max_in_flight.
        self._counted: dict[_Batch[Payload, Result], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slow_timer: asyncio.TimerHandle | None = None
        self.batches_sent = 0
        self._scheduled = False

    def submit(self, digest: Digest, payload: Payload, *, on_done: OnDone[Result]) -> None:
        """Call `on_done` with the result, later. Raise BatcherFull if it would not come in time."""
        callers = self._waiting.get(digest)
        if callers is not None:
            callers.append(on_done)
            self._payloads[digest] = self._merge(self._payloads[digest], payload)
            return
        if len(self._waiting) + self._in_flight_digests >= self._max_outstanding:
            raise BatcherFull
        self._waiting[digest] = [on_done]
        self._payloads[digest] = payload
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start_batches)

    async def send(self, digest: Digest, payload: Payload) -> Result:
        """Return the result. Cancelling one caller cancels nothing for the others."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def complete(_: Digest, result: Result | BaseException) -> None:
            if future.done():  # the caller was cancelled
                return
            if isinstance(result, asyncio.CancelledError):
                future.cancel()
            elif isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit(digest, payload, on_done=complete)
        return await future

    def _start_batches(self) -> None:
        self._scheduled = False
        while self._waiting:
            if len(self._counted) >= self._max_in_flight:
                self._await_slow_batch()
                return
            batch = self._take_batch()
            self._in_flight_digests += len(batch.waiting)
            self._counted[batch] = asyncio.get_running_loop().time()
            self.batches_sent += 1
            try:
                is_started = self._start(batch.payloads, partial(self._on_started, batch))
            except Exception:  # noqa: BLE001 - a defect must not hold up all later lookups
                _log.exception("lookup not started")
                is_started = False
            if not is_started:
                self._run_in_task(batch)

    def _take_batch(self) -> _Batch[Payload, Result]:
        """Return the next payloads and their callers, which do not wait any more."""
        if len(self._waiting) <= self._max_batch:
            batch = _Batch(self._payloads, self._waiting)
            self._payloads, self._waiting = {}, {}
            return batch
        digests = list(islice(self._waiting, self._max_batch))
        return _Batch(
            {digest: self._payloads.pop(digest) for digest in digests},
            {digest: self._waiting.pop(digest) for digest in digests},
        )

    def _await_slow_batch(self) -> None:
        """Start batches when the oldest one in flight no longer counts."""
        if self._slow_after is not None and self._slow_timer is None:
            batch, started = next(iter(self._counted.items()))
            loop = asyncio.get_running_loop()
            due = started + self._slow_after
            self._slow_timer = loop.call_at(due, self._stop_counting, batch)

    def _stop_counting(self, batch: _Batch[Payload, Result]) -> None:
        self._slow_timer = None
        self._counted.pop(batch, None)
        self._start_batches()

    def _on_started(
        self,
        batch: _Batch[Payload, Result],
        outcome: _Outcome[Result] | None,
    ) -> None:
        if outcome is None:
            self._run_in_task(batch)
        else:
            self._end(batch, outcome)

    def _run_in_task(self, batch: _Batch[Payload, Result]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._tasks.add(task)
        task.add_done_callback(partial(self._end_task, batch))

    async def _run(self, batch: _Batch[Payload, Result]) -> None:
        outcome: _Outcome[Result]
        try:
            sent = await self._send(batch.payloads)
            outcome = {digest: sent[digest] for digest in batch.waiting}
        except Exception as error:  # noqa: BLE001 - every caller gets it
            outcome = error
        self._end(batch, outcome)

    def _end_task(self, batch: _Batch[Payload, Result], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is not None:
            # The loop is shutting down. A batch that was cancelled before it began has called
            # nobody back, and those that still wait will not be sent.
            self._counted.pop(batch, None)
            self._in_flight_digests -= len(batch.waiting)
            _cancel(batch.waiting)
            _cancel(self._waiting)
            self._waiting.clear()
            self._payloads.clear()

    def _end(
        self,
        batch: _Batch[Payload, Result],
        outcome: _Outcome[Result],
    ) -> None:
        """Call the callers back, and start what had to wait for this batch."""
        self._counted.pop(batch, None)
        self._in_flight_digests -= len(batch.waiting)
        for digest, callers in batch.waiting.items():
            result = outcome if isinstance(outcome, Exception) else outcome[digest]
            for on_done in callers:
                on_done(digest, result)
        self._start_batches()


class Batched:
    """A finder in front of a backend that looks up many digests in one round trip.

    With limits it is the store's bulkhead: a slow store gets fewer and larger lookups, and those
    that would not be answered in time fail at once.
    """

    def __init__(
        self,
        backend: BatchFinder,
        *,
        store: str = "",
        max_batch: int = _LOOKUP_BATCH_SIZE,
        max_in_flight: int = UNLIMITED,
        max_outstanding: int = UNLIMITED,
        slow_after: float | None = None,
        on_rejected: Callable[[], None] = lambda: None,
        start_many: Callable[[Sequence[Digest], OnFound], bool] = lambda _, __: False,
    ) -> None:
        """Keep at most `max_in_flight` round trips of `max_batch` digests each in flight.

        Those in flight for more than `slow_after` seconds are not counted. With more than
        `max_outstanding` digests waiting or in flight, `store` is unavailable. `on_rejected` is
        called for each lookup that fails without having been sent. `start_many`: that of the
        backend, if it has one.
        """
        self._backend = backend
        self._store = store
        self._on_rejected = on_rejected
        self._start_many = start_many
        self._lookups = Batcher[None, Session | None](
            self._find_batch,
            start=self._start_batch,
            merge=lambda _, __: None,
            max_batch=max_batch,
            max_in_flight=max_in_flight,
            max_outstanding=max_outstanding,
            slow_after=slow_after,
        )

    def round_trips(self) -> int:
        """Return the number of lookup round trips so far."""
        return self._lookups.batches_sent

    async def find(self, digest: Digest) -> Session | None:
        try:
            return await self._lookups.send(digest, None)
        except BatcherFull:
            raise self._refuse() from None

    def submit(self, digest: Digest, on_done: OnDone[Session | None]) -> None:
        """Call `on_done` with the session or an error, later.

        Raise StoreUnavailable at once if too many lookups are outstanding.
        """
        try:
            self._lookups.submit(digest, None, on_done=on_done)
        except BatcherFull:
            raise self._refuse() from None

    def _refuse(self) -> StoreUnavailable:
        self._on_rejected()
        return StoreUnavailable(self._store, "too many lookups at once")

    def _start_batch(
        self,
        digests: Mapping[Digest, None],
        on_done: Callable[[_Outcome[Session | None] | None], None],
    ) -> bool:
        """Look up a batch without a task, where the backend can."""

        def complete(found: Found) -> None:
            if found is None or isinstance(found, Exception):
                on_done(found)
            else:
                on_done({digest: found.get(digest) for digest in digests})

        return self._start_many(tuple(digests), complete)

    async def _find_batch(self, digests: Mapping[Digest, None]) -> _Found:
        return await self._find_each(tuple(digests))

    async def _find_each(self, digests: Sequence[Digest]) -> _Found:
        """Look up digests together. An unreadable record fails only its own, an outage all.

        Which record is unreadable is found by bisection.
        """
        try:
            found = await self._backend.find_many(digests)
        except UnreadableRecord as error:
            if len(digests) == 1:
                return {digests[0]: error}
        else:
            return {digest: found.get(digest) for digest in digests}
        middle = len(digests) // 2
        results = await self._find_each(digests[:middle])
        try:
            return {**results, **await self._find_each(digests[middle:])}
        except StoreUnavailable as outage:
            return {**results, **dict.fromkeys(digests[middle:], outage)}


class BatchedCache(Batched):
    """A remote cache in front of a batch backend. The fills of one tick are one round trip, too.

    At most two lookup round trips run at a time: meanwhile the next one fills, and costs less per
    digest. One in flight for more than `SLOW_AFTER` seconds no longer delays the next; so a lookup
    that fits into the next batch waits no longer than that on top of the backend's own time.
    """

    SLOW_AFTER: Final = 0.010

    def __init__(
        self,
        backend: RemoteBatchCache,
        *,
        max_batch: int = _LOOKUP_BATCH_SIZE,
        max_write_batch: int = _WRITE_BATCH_SIZE,
    ) -> None:
        super().__init__(
            backend,
            max_batch=max_batch,
            max_in_flight=2,
            slow_after=self.SLOW_AFTER,
            start_many=backend.start_many,
        )
        self._cache = backend
        self._max_write_batch = max_write_batch
        self._fills = Batcher[Fill, Session](
            backend.fill_many, merge=_pick_fresher, max_batch=max_write_batch
        )

    async def fill(self, fill: Fill) -> Session:
        return await self._fills.send(fill.session.digest, fill)

    async def restrict(self, changes: Sequence[ChangedSession]) -> bool:
        copies = list_copies(changes)
        results = [
            await self._cache.restrict_many(copies[start : start + self._max_write_batch])
            for start in range(0, len(copies), self._max_write_batch)
        ]
        return all(results)


def _cancel(waiting: Mapping[Digest, _Callers[Result]]) -> None:
    for digest, callers in waiting.items():
        for on_done in callers:
            on_done(digest, asyncio.CancelledError())


def _pick_fresher(one: Fill, other: Fill) -> Fill:
    return one if one.session.freshness > other.session.freshness else other
