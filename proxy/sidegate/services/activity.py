"""Record session activity: buffered, throttled, and written in batches.

A session is written at most once per touch threshold, and a touch is written within one threshold.
So the stored last_seen_at lags by at most the threshold, and a session in use does not look idle
on another instance. A session that returns after a longer pause is written at the next flush, and
so is the first use of a token that a rotation has issued.

The statements of a flush are small and spread over time: checks wait for none of its steps for
longer than two milliseconds, however many sessions are due.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Final, NoReturn

import msgspec

from sidegate.core.clock import Clock
from sidegate.core.digest import Digest
from sidegate.core.errors import SessionEnded, StoreUnavailable
from sidegate.core.protocols import ActivityStore, Touch
from sidegate.core.session import Session, SessionId
from sidegate.core.timeouts import with_timeout
from sidegate.services.cache_filler import CacheFiller
from sidegate.services.job_outage import watch_job
from sidegate.services.rules import RulesInForce

# Sessions in one statement: its rows are decoded, and put into the caches, in a step of about a
# millisecond, and it holds its row locks for as long. Larger ones take hardly less time a session.
_BATCH_SIZE: Final = 64
# Seconds. Touches that become due in the same tick are found together, at its beginning.
_TICK: Final = 0.25
# Seconds for one flush. What is not written within them is written by the next one.
FLUSH_TIMEOUT: Final = 5.0

CountTouches = Callable[[str, int], None]
"""Called with an outcome (written, failed or dropped) and a number of touches."""


class _BufferedTouch(msgspec.Struct, gc=False):  # in no cycle, and up to 100,000 of them
    seen_at: datetime
    times: int
    due: int  # the tick, of the monotonic clock
    token: Digest | None = None  # the current one, if it was not seen before


class ActivityRecorder:
    """Buffers touches in memory and writes them in the background."""

    def __init__(
        self,
        store: ActivityStore,
        *,
        filler: CacheFiller,
        rules: RulesInForce,
        clock: Clock,
        touch_memory: Callable[[Session], object],
        count: CountTouches,
        on_unavailable: Callable[[], None] = lambda: None,
        max_buffered: int = 100_000,
        timeout: float = FLUSH_TIMEOUT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Buffer at most `max_buffered` sessions; drop and count touches of further ones.

        `on_unavailable` is called when the store does not take touches.

        `touch_memory` puts a copy into this process's memory at once. `timeout` is in seconds and
        limits each flush of `run`, the last one included.
        """
        self._store = store
        self._filler = filler
        self._rules = rules
        self._clock = clock
        self._touch_memory = touch_memory
        self._count = count
        self._on_unavailable = on_unavailable
        self._max_buffered = max_buffered
        self._timeout = timeout
        self._sleep = sleep
        self._outage = watch_job("activity", clock)
        self._buffer: dict[SessionId, _BufferedTouch] = {}
        # The ids in the buffer: those that are due, in this order, and the others by tick. An id
        # stays in a tick when its touch is written sooner.
        self._due: dict[SessionId, None] = {}
        self._waiting: dict[int, list[SessionId]] = defaultdict(list)

    def on_allowed(self, session: Session, at: datetime) -> None:
        """Record that the active `session` was used at `at`. Never waits and never fails."""
        threshold = self._rules.current.lifetimes[session.type].touch_threshold
        overdue = at - session.last_seen_at >= threshold
        if overdue:
            # Other instances see it once it is written. Here it must not look idle until then.
            self._touch_copy(session, at)
        # It counts as seen when the store says so: a touch that is dropped is made again.
        token = None if session.token_seen else _get_current_token(session)
        is_due = overdue or token is not None
        touch = self._buffer.get(session.id)
        if touch is not None:
            touch.seen_at = at
            touch.times += 1
            touch.token = token or touch.token
        elif len(self._buffer) < self._max_buffered:
            due = int((self._clock.monotonic() + threshold.total_seconds()) / _TICK)
            self._buffer[session.id] = _BufferedTouch(at, 1, due, token)
            if not is_due:
                self._waiting[due].append(session.id)
        else:
            self._count("dropped", 1)
            return
        if is_due:
            self._due[session.id] = None

    async def run(self, interval: float) -> NoReturn:
        """Write what is due, within `interval` seconds, until cancelled; then write the rest.

        The rest is not put into the caches: time is short, and other instances need it as soon.
        """
        # Two rounds in an interval: what is due is found within one half, and written in the other.
        pause = interval / 2
        try:
            while True:
                await self._sleep(pause)
                begun = self._clock.monotonic()
                await self._flush_in_time(spread=min(pause, self._timeout / 2))
                pause = max(0.0, interval / 2 - (self._clock.monotonic() - begun))
        finally:
            await self._flush_in_time(everything=True)

    async def flush(self, *, everything: bool = False, spread: float = 0.0) -> None:
        """Write the touches that are due. A touch that cannot be written stays buffered.

        The statements are spread over `spread` seconds, if the store keeps up. The first that fails
        is the last one: during an outage a large buffer must not become many attempts. But with
        `everything` there is no later flush, and all are attempted.
        """
        begun = self._clock.monotonic()
        if everything:
            self._due = dict.fromkeys(self._buffer)
        else:
            await self._find_due(int(begun / _TICK))
        number = len(self._due)
        for start in range(0, number, _BATCH_SIZE):
            elapsed = self._clock.monotonic() - begun
            await self._sleep(max(0.0, spread * start / number - elapsed))
            batch = tuple(islice(self._due, _BATCH_SIZE))
            if not await self._write(batch, fill=not everything) and not everything:
                return

    async def _find_due(self, now: int) -> None:
        for tick in [each for each in self._waiting if each <= now]:
            for session_id in self._waiting.pop(tick):
                touch = self._buffer.get(session_id)
                if touch is not None and touch.due <= now:  # else it was written, and seen again
                    self._due[session_id] = None
            await self._sleep(0)

    async def _flush_in_time(self, *, everything: bool = False, spread: float = 0.0) -> None:
        try:
            flush = self.flush(everything=everything, spread=spread)
            await with_timeout(flush, self._timeout, store="durable")
        except StoreUnavailable as error:  # what was not written is still buffered
            self._on_unavailable()
            self._outage.record_failure(error)

    async def _write(self, session_ids: Sequence[SessionId], *, fill: bool) -> bool:
        """Write a batch; return False if the store is unavailable."""
        # Activity from here on is buffered anew.
        batch = {session_id: self._buffer.pop(session_id) for session_id in session_ids}
        for session_id in batch:
            del self._due[session_id]
        start = self._filler.begin()
        try:
            touched = await self._store.touch(
                [
                    Touch(session_id, touch.seen_at, touch.times, touch.token)
                    for session_id, touch in batch.items()
                ]
            )
        except StoreUnavailable as error:
            self._on_unavailable()
            self._outage.record_failure(error)
            self._count("failed", len(batch))
            self._put_back(batch)
            return False
        except BaseException:
            self._put_back(batch)  # it may have been written: counting twice beats losing it
            raise
        self._outage.record_success()
        self._count("written", len(batch))
        if fill:  # the stored state, not the buffered one: the session may have been revoked since
            await self._filler.fill(touched, start)
        return True

    def _put_back(self, batch: Mapping[SessionId, _BufferedTouch]) -> None:
        for session_id, old in batch.items():
            newer = self._buffer.get(session_id)
            if newer is not None:
                newer.times += old.times
                newer.token = newer.token or old.token
            elif len(self._buffer) < self._max_buffered:
                self._buffer[session_id] = old
            else:
                self._count("dropped", 1)
                continue
            self._due[session_id] = None

    def _touch_copy(self, session: Session, at: datetime) -> None:
        with suppress(SessionEnded):  # it ended between the verdict and this call
            self._touch_memory(session.touched(at))


def _get_current_token(session: Session) -> Digest | None:
    return session.digest if session.is_for_current_token else None
