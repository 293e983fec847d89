"""Session counts and their samples in SQLite."""

import json
from datetime import datetime, timedelta
from typing import Final

from sidegate.core.analytics import ActiveSessions, Sample, Totals, Window, compute_due_bounds
from sidegate.core.durations import BOUNDS
from sidegate.core.session_state import SessionState
from sidegate.stores.codec import to_microseconds
from sidegate.stores.sql.analytics_rows import (
    COUNT_ACTIVE,
    DELETE_SAMPLES,
    EVENT_KIND,
    INSERT_SAMPLE,
    RESERVE_SAMPLE,
    SELECT_LAST_SAMPLE,
    SELECT_TOTALS,
    SELECT_WINDOW,
    decode_active,
    decode_sample,
    decode_totals,
    decode_window,
    encode_sample,
)
from sidegate.stores.sql.conditions import SQLITE, QueryBuilder
from sidegate.stores.sqlite.database import SqliteDatabase

_PLACEHOLDERS: Final = tuple(f"?{number}" for number in range(1, 6))
_RESERVE_SAMPLE: Final = RESERVE_SAMPLE.format(*_PLACEHOLDERS)
# A full table scan: through an index, which SQLite would choose, it takes ten times as long.
_SESSIONS: Final = "sessions NOT INDEXED"
_TIMES_OUT_AT: Final = "min(expires_at, coalesce(last_seen_at + idle_timeout, expires_at))"
_HAS_EXPIRED: Final = f"revoked_at IS NULL AND timed_out_at IS NULL AND {_TIMES_OUT_AT} <= :at"
# Ended sessions are searched first, then checked again and recorded in batches: other writes wait
# neither for the search nor for all of its results.
_BATCH_SIZE: Final = 1000
_FIND_EXPIRED: Final = f"SELECT id FROM {_SESSIONS} WHERE {_HAS_EXPIRED} LIMIT :limit"  # noqa: S608
_RECORD_EXPIRED: Final = (
    f"UPDATE sessions SET timed_out_at = {_TIMES_OUT_AT}"  # noqa: S608
    f" WHERE id IN (SELECT value FROM json_each(:ids)) AND {_HAS_EXPIRED} RETURNING id"
)
# Three statements of one transaction, all on the same rows: no other write comes between.
_BATCH: Final = "number IN (SELECT number FROM analytics_events ORDER BY number LIMIT ?1)"
_ADD_COUNTS: Final = (
    f"INSERT INTO analytics_counts SELECT {EVENT_KIND} AS event_kind, type, sum(delta)"  # noqa: S608
    f" FROM analytics_events WHERE {_BATCH} GROUP BY event_kind, type"
    " ON CONFLICT DO UPDATE SET total = total + excluded.total"
)
_ADD_DURATIONS: Final = (
    "INSERT INTO analytics_durations SELECT"  # noqa: S608
    " (SELECT count(*) FROM json_each(?2) WHERE value <= duration) AS bucket,"
    f" sum(delta), sum(duration * delta) FROM analytics_events WHERE {_BATCH}"
    " AND duration IS NOT NULL GROUP BY bucket ON CONFLICT DO UPDATE"
    " SET total = total + excluded.total, duration_sum = duration_sum + excluded.duration_sum"
)
_DELETE_ADDED: Final = f"DELETE FROM analytics_events WHERE {_BATCH} RETURNING number"  # noqa: S608
_INSERT_SAMPLE: Final = INSERT_SAMPLE.format(*_PLACEHOLDERS)
_SELECT_WINDOW: Final = SELECT_WINDOW.format(*_PLACEHOLDERS)
_DELETE_SAMPLES: Final = DELETE_SAMPLES.format(*_PLACEHOLDERS)


class SqliteAnalytics:
    """Implements AnalyticsStore."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def reserve_sample(self, at: datetime, interval: timedelta) -> bool:
        values = [
            to_microseconds(timestamp) for timestamp in (at, *compute_due_bounds(at, interval))
        ]
        return bool(await self._database.write(_RESERVE_SAMPLE, values))

    async def record_expired(self, at: datetime, *, limit: int) -> int:
        values: dict[str, object] = {"at": to_microseconds(at), "limit": limit}
        found = [row["id"] for row in await self._database.scan(_FIND_EXPIRED, values)]
        for start in range(0, len(found), _BATCH_SIZE):
            batch = json.dumps(found[start : start + _BATCH_SIZE])
            await self._database.write(_RECORD_EXPIRED, values | {"ids": batch})
        return len(found)  # one touched meanwhile is not recorded, but others may be left

    async def add_to_totals(self, *, limit: int) -> int:
        _, _, added = await self._database.write_all(
            (_ADD_COUNTS, (limit,)),
            (_ADD_DURATIONS, (limit, json.dumps(BOUNDS))),
            (_DELETE_ADDED, (limit,)),
        )
        return len(added)

    async def count_active(self, at: datetime) -> ActiveSessions:
        builder = QueryBuilder(SQLITE)
        active = " AND ".join(builder.match_state(SessionState.ACTIVE, at))
        query = COUNT_ACTIVE.format(sessions=_SESSIONS, active=active)
        return decode_active(await self._database.scan(query, builder.arguments))

    async def read_totals(self) -> Totals:
        return decode_totals(await self._database.read(SELECT_TOTALS, ()))

    async def save_sample(self, sample: Sample) -> None:
        at, *others = encode_sample(sample)
        await self._database.write(_INSERT_SAMPLE, (to_microseconds(at), *others))

    async def read_last_sample(self) -> Sample | None:
        rows = await self._database.read(SELECT_LAST_SAMPLE, ())
        return decode_sample(rows[0]) if rows else None

    async def read_window(self, since: datetime, until: datetime) -> Window | None:
        values = (to_microseconds(since), to_microseconds(until))
        rows = await self._database.read(_SELECT_WINDOW, values)
        return decode_window(rows[0]) if rows else None

    async def delete_samples(self, before: datetime, *, limit: int) -> None:
        await self._database.write(_DELETE_SAMPLES, (to_microseconds(before), limit))
