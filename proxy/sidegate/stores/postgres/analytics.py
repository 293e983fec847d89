"""Session counts and their samples in Postgres."""

from datetime import datetime, timedelta
from typing import Final

from sidegate.core.analytics import ActiveSessions, Sample, Totals, Window, compute_due_bounds
from sidegate.core.durations import BOUNDS
from sidegate.core.session_state import SessionState
from sidegate.stores.postgres.database import PostgresDatabase
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
from sidegate.stores.sql.conditions import POSTGRES, QueryBuilder

_PLACEHOLDERS: Final = tuple(f"${number}" for number in range(1, 6))
_RESERVE_SAMPLE: Final = RESERVE_SAMPLE.format(*_PLACEHOLDERS)
_RECORD_EXPIRED: Final = (
    "WITH ended AS (SELECT id FROM sessions WHERE revoked_at IS NULL AND timed_out_at IS NULL"
    " AND sidegate_times_out_at(sessions) <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED),"
    " recorded AS (UPDATE sessions SET timed_out_at = sidegate_times_out_at(sessions)"
    " FROM ended WHERE sessions.id = ended.id RETURNING sessions.id)"
    " SELECT count(*) AS number FROM recorded"
)
# Concurrent runs add different rows, and update the totals in the same order.
_ADD_TO_TOTALS: Final = (
    "WITH batch AS (SELECT number FROM analytics_events"  # noqa: S608
    " ORDER BY number LIMIT $1 FOR UPDATE SKIP LOCKED),"
    " added AS (DELETE FROM analytics_events USING batch"
    " WHERE analytics_events.number = batch.number"
    f" RETURNING {EVENT_KIND} AS kind, type, delta, duration),"
    " counts AS (INSERT INTO analytics_counts AS known"
    " SELECT kind, type, sum(delta) FROM added GROUP BY kind, type ORDER BY kind, type"
    " ON CONFLICT (kind, type) DO UPDATE SET total = known.total + excluded.total),"
    " durations AS (INSERT INTO analytics_durations AS known"
    " SELECT width_bucket(duration, $2::bigint[]), sum(delta), sum(duration * delta) FROM added"
    " WHERE duration IS NOT NULL GROUP BY 1 ORDER BY 1 ON CONFLICT (bucket) DO UPDATE"
    " SET total = known.total + excluded.total,"
    " duration_sum = known.duration_sum + excluded.duration_sum)"
    " SELECT count(*) AS number FROM added"
)
_INSERT_SAMPLE: Final = INSERT_SAMPLE.format(*_PLACEHOLDERS)
_SELECT_WINDOW: Final = SELECT_WINDOW.format(*_PLACEHOLDERS)
_DELETE_SAMPLES: Final = DELETE_SAMPLES.format(*_PLACEHOLDERS)


class PostgresAnalytics:
    """Implements AnalyticsStore."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._execute = database.execute

    async def reserve_sample(self, at: datetime, interval: timedelta) -> bool:
        return bool(await self._execute(_RESERVE_SAMPLE, at, *compute_due_bounds(at, interval)))

    async def record_expired(self, at: datetime, *, limit: int) -> int:
        return int((await self._execute(_RECORD_EXPIRED, at, limit))[0]["number"])

    async def add_to_totals(self, *, limit: int) -> int:
        return int((await self._execute(_ADD_TO_TOTALS, limit, BOUNDS))[0]["number"])

    async def count_active(self, at: datetime) -> ActiveSessions:
        builder = QueryBuilder(POSTGRES)
        active = " AND ".join(builder.match_state(SessionState.ACTIVE, at))
        query = COUNT_ACTIVE.format(sessions="sessions", active=active)
        return decode_active(await self._execute(query, *builder.arguments))

    async def read_totals(self) -> Totals:
        return decode_totals(await self._execute(SELECT_TOTALS))

    async def save_sample(self, sample: Sample) -> None:
        await self._execute(_INSERT_SAMPLE, *encode_sample(sample))

    async def read_last_sample(self) -> Sample | None:
        rows = await self._execute(SELECT_LAST_SAMPLE)
        return decode_sample(rows[0]) if rows else None

    async def read_window(self, since: datetime, until: datetime) -> Window | None:
        rows = await self._execute(_SELECT_WINDOW, since, until)
        return decode_window(rows[0]) if rows else None

    async def delete_samples(self, before: datetime, *, limit: int) -> None:
        await self._execute(_DELETE_SAMPLES, before, limit)
