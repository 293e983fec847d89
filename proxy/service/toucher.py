"""Note that sessions were seen, without making anybody wait: bounded, batched, throttled.

A session is written at most once per threshold, and what is noted is written within one. So the
stored last_seen_at lags behind by at most a threshold (and a session that comes back after a long
silence is written at once): nobody who keeps coming back looks idle on another instance.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

from proxy.core.clock import Clock
from proxy.core.errors import SessionEnded, StoreUnavailable
from proxy.core.lifetimes import Lifetimes
from proxy.core.protocols import DurableStore, HotStore, Touch
from proxy.core.session import Session, SessionId
from proxy.core.session_type import SessionType
from proxy.service.outward import offer

# One statement's worth: it holds its rows' locks for a few milliseconds.
_BATCH: Final = 500

Counted = Callable[[str, int], None]
"""Told what became of how many touches: written, failed (tried again) or dropped."""


@dataclass(slots=True)
class _Note:
    session: Session
    seen_at: datetime
    times: int
    due: float  # by the monotonic clock


class Toucher:
    """Collects what was seen, and writes it down behind everybody's back."""

    def __init__(
        self,
        durable: DurableStore,
        *,
        hot: Sequence[HotStore],
        lifetimes: Mapping[SessionType, Lifetimes],
        clock: Clock,
        counted: Counted,
        max_notes: int = 100_000,
    ) -> None:
        """Hold at most `max_notes` sessions' notes; beyond that they are dropped, and counted."""
        self._durable = durable
        self._hot = hot
        self._thresholds = {type_: each.touch_threshold for type_, each in lifetimes.items()}
        self._clock = clock
        self._counted = counted
        self._max_notes = max_notes
        self._notes: dict[SessionId, _Note] = {}

    def seen(self, session: Session, at: datetime) -> None:
        """Note that `session`, which is alive, was seen. Never waits and never fails."""
        note = self._notes.get(session.id)
        if note is not None:
            note.seen_at = at
            note.times += 1
        elif len(self._notes) < self._max_notes:
            self._notes[session.id] = _Note(session, at, 1, self._due(session, at))
        else:
            self._counted("dropped", 1)

    async def run(self, every: float) -> NoReturn:
        """Write what is due every so many seconds, until cancelled; then write the rest."""
        try:
            while True:
                await asyncio.sleep(every)
                await self.flush()
        finally:
            await self.flush(everything=True)

    async def flush(self, *, everything: bool = False) -> None:
        """Write what is due. What cannot be written is noted again and tried next time."""
        now = self._clock.monotonic()
        due = [note for note in self._notes.values() if everything or note.due <= now]
        for start in range(0, len(due), _BATCH):
            await self._write(due[start : start + _BATCH])

    async def _write(self, notes: Sequence[_Note]) -> None:
        for note in notes:
            del self._notes[note.session.id]  # whoever is seen from here on is noted anew
        try:
            await self._durable.touch(
                [Touch(note.session.id, note.seen_at, note.times) for note in notes]
            )
        except StoreUnavailable:
            self._counted("failed", len(notes))
            self._keep(notes)
            return
        self._counted("written", len(notes))
        await offer(_touched(notes), self._hot)

    def _keep(self, notes: Sequence[_Note]) -> None:
        for old in notes:
            newer = self._notes.get(old.session.id)
            if newer is not None:
                newer.times += old.times
            elif len(self._notes) < self._max_notes:
                self._notes[old.session.id] = old
            else:
                self._counted("dropped", 1)

    def _due(self, session: Session, at: datetime) -> float:
        threshold = self._thresholds[session.type]
        overdue = at - session.last_seen_at >= threshold
        return self._clock.monotonic() + (0.0 if overdue else threshold.total_seconds())


def _touched(notes: Sequence[_Note]) -> list[Session]:
    touched = []
    for note in notes:
        try:
            touched.append(note.session.touched(note.seen_at))
        except SessionEnded:  # seen in the moment of its end
            continue
    return touched
