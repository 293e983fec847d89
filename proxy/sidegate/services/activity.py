"""Record session activity: buffered, throttled, and written in batches.

A session is written at most once per touch threshold, and a touch is written within one threshold.
So the stored last_seen_at lags by at most the threshold, and a session in use does not look idle
on another instance. A session that returns after a longer pause is written at the next flush, and
so is the first use of a token that a rotation has issued.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

from sidegate.core.clock import Clock
from sidegate.core.digest import Digest
from sidegate.core.errors import SessionEnded, StoreUnavailable
from sidegate.core.protocols import ActivityStore, Touch
from sidegate.core.session import Session, SessionId
from sidegate.core.timeouts import with_timeout
from sidegate.services.cache_filler import CacheFiller
from sidegate.services.job_outage import watch_job
from sidegate.services.rules import RulesInForce

# Sessions in one statement: it holds its row locks for a few milliseconds.
_BATCH_SIZE: Final = 500
# Seconds for one flush. What is not written within them is written by the next one.
FLUSH_TIMEOUT: Final = 5.0

CountTouches = Callable[[str, int], None]
"""Called with an outcome (written, failed or dropped) and a number of touches."""


@dataclass(slots=True)
class _BufferedTouch:
    seen_at: datetime
    times: int
    due: float  # by the monotonic clock
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
        self._outage = watch_job("activity", clock)
        self._buffer: dict[SessionId, _BufferedTouch] = {}

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
            if is_due:
                touch.due = 0.0
        elif len(self._buffer) < self._max_buffered:
            wait = 0.0 if is_due else threshold.total_seconds()
            due = self._clock.monotonic() + wait
            self._buffer[session.id] = _BufferedTouch(at, 1, due, token)
        else:
            self._count("dropped", 1)

    async def run(self, interval: float) -> NoReturn:
        """Flush every `interval` seconds until cancelled; then flush the rest."""
        try:
            while True:
                await asyncio.sleep(interval)
                await self._flush_in_time(everything=False)
        finally:
            await self._flush_in_time(everything=True)

    async def flush(self, *, everything: bool = False) -> None:
        """Write the touches that are due. A touch that cannot be written stays buffered."""
        now = self._clock.monotonic()
        due = [each for each in self._buffer.items() if everything or each[1].due <= now]
        for start in range(0, len(due), _BATCH_SIZE):
            await self._write(dict(due[start : start + _BATCH_SIZE]))

    async def _flush_in_time(self, *, everything: bool) -> None:
        try:
            await with_timeout(self.flush(everything=everything), self._timeout, store="durable")
        except StoreUnavailable as error:  # what was not written is still buffered
            self._on_unavailable()
            self._outage.record_failure(error)

    async def _write(self, batch: Mapping[SessionId, _BufferedTouch]) -> None:
        for session_id in batch:
            del self._buffer[session_id]  # activity from here on is buffered anew
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
            return
        except BaseException:
            self._put_back(batch)  # it may have been written: counting twice beats losing it
            raise
        self._outage.record_success()
        self._count("written", len(batch))
        # The stored state, not the buffered one: the session may have been revoked since.
        await self._filler.fill(touched, start)

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

    def _touch_copy(self, session: Session, at: datetime) -> None:
        with suppress(SessionEnded):  # it ended between the verdict and this call
            self._touch_memory(session.touched(at))


def _get_current_token(session: Session) -> Digest | None:
    return session.digest if session.is_for_current_token else None
