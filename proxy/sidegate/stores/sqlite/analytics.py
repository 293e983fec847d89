"""Count sessions in SQLite, and keep the samples of it."""

import json
from datetime import datetime, timedelta
from typing import Final

from sidegate.core.analytics import ActiveSessions, Sample, Totals, Window, stale
from sidegate.core.durations import BOUNDS
from sidegate.core.session_state import SessionState
from sidegate.stores.codec import microseconds
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
from sidegate.stores.sql.conditions import SQLITE, Asking
from sidegate.stores.sqlite.database import SqliteDatabase

_MARKS: Final = tuple(f"?{number}" for number in range(1, 6))
_TAKE_TURN: Final = TAKE_TURN.format(*_MARKS)
# Row after row: through an index, which SQLite would choose, it takes ten times as long.
_SESSIONS: Final = "sessions NOT INDEXED"
_RUNS_OUT_AT: Final = "min(expires_at, coalesce(last_seen_at + idle_timeout, expires_at))"
_HAS_RUN_OUT: Final = f"revoked_at IS NULL AND ran_out_at IS NULL AND {_RUNS_OUT_AT} <= :at"
# Looked for first, and looked at again when it is noted, so many at once: nobody else has to wait
# for the search, nor for all that it finds.
_AT_ONCE: Final = 1000
_RAN_OUT: Final = f"SELECT id FROM {_SESSIONS} WHERE {_HAS_RUN_OUT} LIMIT :limit"  # noqa: S608
_NOTE_ENDS: Final = (
    f"UPDATE sessions SET ran_out_at = {_RUNS_OUT_AT}"  # noqa: S608 - our own words
    f" WHERE id IN (SELECT value FROM json_each(:ids)) AND {_HAS_RUN_OUT} RETURNING id"
)
# Three steps of one transaction, all of the same rows: meanwhile nobody writes any.
_SOME: Final = "number IN (SELECT number FROM analytics_uncounted ORDER BY number LIMIT ?1)"
_ADD_COUNTS: Final = (
    f"INSERT INTO analytics_counts SELECT {WHAT} AS kind, type, sum(times)"  # noqa: S608
    f" FROM analytics_uncounted WHERE {_SOME} GROUP BY kind, type"
    " ON CONFLICT DO UPDATE SET times = times + excluded.times"
)
_ADD_DURATIONS: Final = (
    "INSERT INTO analytics_durations SELECT"  # noqa: S608 - our own words
    " (SELECT count(*) FROM json_each(?2) WHERE value <= lasted) AS bucket,"
    f" sum(times), sum(lasted * times) FROM analytics_uncounted WHERE {_SOME}"
    " AND lasted IS NOT NULL GROUP BY bucket ON CONFLICT DO UPDATE"
    " SET times = times + excluded.times, lasted = lasted + excluded.lasted"
)
_ADDED: Final = f"DELETE FROM analytics_uncounted WHERE {_SOME} RETURNING number"  # noqa: S608
_KEEP: Final = KEEP.format(*_MARKS)
_WINDOW: Final = WINDOW.format(*_MARKS)
_FORGET: Final = FORGET.format(*_MARKS)


class SqliteAnalytics:
    """An AnalyticsStore."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def take_turn(self, at: datetime, every: timedelta) -> bool:
        values = [microseconds(moment) for moment in (at, *stale(at, every))]
        return bool(await self._database.change(_TAKE_TURN, values))

    async def note_ends(self, at: datetime, *, limit: int) -> int:
        values: dict[str, object] = {"at": microseconds(at), "limit": limit}
        found = [row["id"] for row in await self._database.survey(_RAN_OUT, values)]
        for start in range(0, len(found), _AT_ONCE):
            some = json.dumps(found[start : start + _AT_ONCE])
            await self._database.change(_NOTE_ENDS, values | {"ids": some})
        return len(found)  # one that was seen meanwhile is not noted, but others may be left

    async def add_up(self, *, limit: int) -> int:
        _, _, added = await self._database.change_all(
            (_ADD_COUNTS, (limit,)),
            (_ADD_DURATIONS, (limit, json.dumps(BOUNDS))),
            (_ADDED, (limit,)),
        )
        return len(added)

    async def living(self, at: datetime) -> ActiveSessions:
        asking = Asking(SQLITE)
        active = " AND ".join(asking.being(SessionState.ACTIVE, at))
        query = LIVING.format(sessions=_SESSIONS, active=active)
        return living_of(await self._database.survey(query, asking.arguments))

    async def totals(self) -> Totals:
        return totals_of(await self._database.look(TOTALS, ()))

    async def keep(self, sample: Sample) -> None:
        at, *others = values_of(sample)
        await self._database.change(_KEEP, (microseconds(at), *others))

    async def last(self) -> Sample | None:
        rows = await self._database.look(LAST, ())
        return sample_of(rows[0]) if rows else None

    async def window(self, since: datetime, until: datetime) -> Window | None:
        values = (microseconds(since), microseconds(until))
        rows = await self._database.look(_WINDOW, values)
        return window_of(rows[0]) if rows else None

    async def forget(self, before: datetime, *, limit: int) -> None:
        await self._database.change(_FORGET, (microseconds(before), limit))
