"""Note that sessions were seen, without making anybody wait: bounded, batched, throttled.

A session is written at most once per threshold, and what is noted is written within one. So the
stored last_seen_at lags behind by at most a threshold (and a session that comes back after a long
silence is written at once): nobody who keeps coming back looks idle on another instance.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

from sidegate.core.clock import Clock
from sidegate.core.errors import SessionEnded, StoreUnavailable
from sidegate.core.lifetimes import Lifetimes
from sidegate.core.protocols import DurableStore, SessionCache, Touch
from sidegate.core.session import Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.services.publisher import put_copies

# One statement's worth: it holds its rows' locks for a few milliseconds.
_BATCH: Final = 500

Counted = Callable[[str, int], None]
"""Told what became of how many touches: written, failed (tried again) or dropped."""


@dataclass(slots=True)
class _Note:
    seen_at: datetime
    times: int
    due: float  # by the monotonic clock


class ActivityRecorder:
    """Collects what was seen, and writes it down behind everybody's back."""

    def __init__(
        self,
        durable: DurableStore,
        *,
        hot: Sequence[SessionCache],
        lifetimes: Mapping[SessionType, Lifetimes],
        clock: Clock,
        keep_near: Callable[[Session], object],
        counted: Counted,
        max_notes: int = 100_000,
        patience: float = 5.0,
    ) -> None:
        """Hold at most `max_notes` sessions' notes; beyond that they are dropped, and counted.

        `keep_near` takes a copy into this process's memory at once. `patience` is how many seconds
        a silent store is waited for, also when all is over.
        """
        self._durable = durable
        self._hot = hot
        self.use_lifetimes(lifetimes)
        self._clock = clock
        self._keep_near = keep_near
        self._counted = counted
        self._max_notes = max_notes
        self._patience = patience
        self._notes: dict[SessionId, _Note] = {}

    def use_lifetimes(self, lifetimes: Mapping[SessionType, Lifetimes]) -> None:
        """From now on write a session once per these thresholds."""
        self._thresholds = {type_: each.touch_threshold for type_, each in lifetimes.items()}

    def on_allowed(self, session: Session, at: datetime) -> None:
        """Note that `session`, which is alive, was seen. Never waits and never fails."""
        overdue = at - session.last_seen_at >= self._thresholds[session.type]
        if overdue:
            # The others learn of it when it is written. Here it must not look idle until then.
            self._remember(session, at)
        note = self._notes.get(session.id)
        if note is not None:
            note.seen_at = at
            note.times += 1
            if overdue:
                note.due = 0.0
        elif len(self._notes) < self._max_notes:
            wait = 0.0 if overdue else self._thresholds[session.type].total_seconds()
            self._notes[session.id] = _Note(at, 1, self._clock.monotonic() + wait)
        else:
            self._counted("dropped", 1)

    async def run(self, every: float) -> NoReturn:
        """Write what is due every so many seconds, until cancelled; then write the rest."""
        try:
            while True:
                await asyncio.sleep(every)
                await self._flush_in_time(everything=False)
        finally:
            await self._flush_in_time(everything=True)

    async def flush(self, *, everything: bool = False) -> None:
        """Write what is due. What cannot be written is noted again and tried next time."""
        now = self._clock.monotonic()
        due = [each for each in self._notes.items() if everything or each[1].due <= now]
        for start in range(0, len(due), _BATCH):
            await self._write(dict(due[start : start + _BATCH]))

    async def _flush_in_time(self, *, everything: bool) -> None:
        with suppress(TimeoutError):  # what was not written is noted still
            async with asyncio.timeout(self._patience):
                await self.flush(everything=everything)

    async def _write(self, notes: Mapping[SessionId, _Note]) -> None:
        for session_id in notes:
            del self._notes[session_id]  # whoever is seen from here on is noted anew
        try:
            touched = await self._durable.touch(
                [Touch(session_id, note.seen_at, note.times) for session_id, note in notes.items()]
            )
        except StoreUnavailable:
            self._counted("failed", len(notes))
            self._keep(notes)
            return
        except asyncio.CancelledError:
            self._keep(notes)  # perhaps it was written: rather counted twice than never
            raise
        self._counted("written", len(notes))
        # Not what was noted but what is true: it may have been revoked since.
        await put_copies(touched, self._hot)

    def _keep(self, notes: Mapping[SessionId, _Note]) -> None:
        for session_id, old in notes.items():
            newer = self._notes.get(session_id)
            if newer is not None:
                newer.times += old.times
            elif len(self._notes) < self._max_notes:
                self._notes[session_id] = old
            else:
                self._counted("dropped", 1)

    def _remember(self, session: Session, at: datetime) -> None:
        with suppress(SessionEnded):  # seen in the moment of its end
            self._keep_near(session.touched(at))
