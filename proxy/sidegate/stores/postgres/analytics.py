"""Count sessions in Postgres, and keep the samples of it."""

from datetime import datetime, timedelta
from typing import Final

from sidegate.core.analytics import ActiveSessions, Sample, Totals, Window, stale
from sidegate.core.durations import BOUNDS
from sidegate.core.session_state import SessionState
from sidegate.stores.postgres.database import PostgresDatabase
from sidegate.stores.sql.analytics_rows import (
    FORGET,
    KEEP,
    LAST,
    LIVING,
    TAKE_TURN,
    TOTALS,
    WHAT,
    WINDOW,
    living_of,
    sample_of,
    totals_of,
    values_of,
    window_of,
)
from sidegate.stores.sql.conditions import POSTGRES, Asking

_MARKS: Final = tuple(f"${number}" for number in range(1, 6))
_TAKE_TURN: Final = TAKE_TURN.format(*_MARKS)
_NOTE_ENDS: Final = (
    "WITH over AS (SELECT id FROM sessions WHERE revoked_at IS NULL AND ran_out_at IS NULL"
    " AND sidegate_runs_out_at(sessions) <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED),"
    " noted AS (UPDATE sessions SET ran_out_at = sidegate_runs_out_at(sessions)"
    " FROM over WHERE sessions.id = over.id RETURNING sessions.id)"
    " SELECT count(*) AS number FROM noted"
)
# Two who are at it at once add up different rows, and change the totals in one order.
_ADD_UP: Final = (
    "WITH batch AS (SELECT number FROM analytics_uncounted"  # noqa: S608 - our own words
    " ORDER BY number LIMIT $1 FOR UPDATE SKIP LOCKED),"
    " counted AS (DELETE FROM analytics_uncounted USING batch"
    " WHERE analytics_uncounted.number = batch.number"
    f" RETURNING {WHAT} AS what, type, times, lasted),"
    " counts AS (INSERT INTO analytics_counts AS known"
    " SELECT what, type, sum(times) FROM counted GROUP BY what, type ORDER BY what, type"
    " ON CONFLICT (what, type) DO UPDATE SET times = known.times + excluded.times),"
    " durations AS (INSERT INTO analytics_durations AS known"
    " SELECT width_bucket(lasted, $2::bigint[]), sum(times), sum(lasted * times) FROM counted"
    " WHERE lasted IS NOT NULL GROUP BY 1 ORDER BY 1 ON CONFLICT (bucket) DO UPDATE"
    " SET times = known.times + excluded.times, lasted = known.lasted + excluded.lasted)"
    " SELECT count(*) AS number FROM counted"
)
_KEEP: Final = KEEP.format(*_MARKS)
_WINDOW: Final = WINDOW.format(*_MARKS)
_FORGET: Final = FORGET.format(*_MARKS)


class PostgresAnalytics:
    """An AnalyticsStore."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._ask = database.ask

    async def take_turn(self, at: datetime, every: timedelta) -> bool:
        return bool(await self._ask(_TAKE_TURN, at, *stale(at, every)))

    async def note_ends(self, at: datetime, *, limit: int) -> int:
        return int((await self._ask(_NOTE_ENDS, at, limit))[0]["number"])

    async def add_up(self, *, limit: int) -> int:
        return int((await self._ask(_ADD_UP, limit, BOUNDS))[0]["number"])

    async def living(self, at: datetime) -> ActiveSessions:
        asking = Asking(POSTGRES)
        active = " AND ".join(asking.being(SessionState.ACTIVE, at))
        return living_of(
            await self._ask(LIVING.format(sessions="sessions", active=active), *asking.arguments)
        )

    async def totals(self) -> Totals:
        return totals_of(await self._ask(TOTALS))

    async def keep(self, sample: Sample) -> None:
        await self._ask(_KEEP, *values_of(sample))

    async def last(self) -> Sample | None:
        rows = await self._ask(LAST)
        return sample_of(rows[0]) if rows else None

    async def window(self, since: datetime, until: datetime) -> Window | None:
        rows = await self._ask(_WINDOW, since, until)
        return window_of(rows[0]) if rows else None

    async def forget(self, before: datetime, *, limit: int) -> None:
        await self._ask(_FORGET, before, limit)
