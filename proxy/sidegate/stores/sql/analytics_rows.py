"""Analytics rows: the SQL and the conversions that Postgres and SQLite share."""

import json
from datetime import datetime
from typing import Any, Final

from sidegate.core.analytics import ActiveSessions, Cause, Peak, Sample, Totals, Window
from sidegate.core.durations import Durations
from sidegate.core.errors import UnreadableRecord
from sidegate.core.session_type import SessionType
from sidegate.stores.sql.rows import Row, decode_timestamp

CREATED_KIND: Final = "created"

EVENT_KIND: Final = (
    "CASE WHEN kind <> 'revoked' THEN kind"
    " WHEN revoked_by = 'sidegate' AND revoked_reason IN ('limit', 'token_reuse', 'binding')"
    " THEN revoked_reason"
    " WHEN substr(revoked_by, 1, 9) = 'provider:' AND revoked_reason = 'logout' THEN 'logout'"
    " ELSE 'revoked' END"
)
"""The kind under which an event is counted: `created`, or a Cause. The reason of a caller is free
text, and counts as `revoked`."""

# The dialects differ in their placeholders only, `{0}` to `{4}`.
RESERVE_SAMPLE: Final = (
    "UPDATE analytics_sampling SET reserved_at = {0} WHERE reserved_at <= {1} OR reserved_at > {2}"
    " RETURNING reserved_at"
)
COUNT_ACTIVE: Final = (
    "WITH active AS (SELECT user_id, type, count(*) AS sessions FROM {sessions} WHERE {active}"
    " GROUP BY user_id, type)"
    " SELECT type, sum(sessions) AS sessions, (SELECT count(DISTINCT user_id) FROM active) AS users"
    " FROM active GROUP BY type"
)
SELECT_TOTALS: Final = (
    "SELECT kind, type, NULL AS bucket, total, NULL AS duration_sum FROM analytics_counts UNION ALL"
    " SELECT NULL, NULL, bucket, total, duration_sum FROM analytics_durations"
)
INSERT_SAMPLE: Final = (
    "INSERT INTO analytics_samples (at, active, users, by_type, totals)"
    " VALUES ({0}, {1}, {2}, {3}, {4})"
)
_SAMPLE_COLUMNS: Final = ("at", "users", "by_type", "totals")
SELECT_LAST_SAMPLE: Final = (
    f"SELECT {', '.join(_SAMPLE_COLUMNS)} FROM analytics_samples ORDER BY number DESC LIMIT 1"  # noqa: S608
)
SELECT_WINDOW: Final = (
    "WITH start AS (SELECT coalesce("  # noqa: S608
    "(SELECT max(at) FROM analytics_samples WHERE at <= {0}),"
    " (SELECT min(at) FROM analytics_samples WHERE at <= {1})) AS at),"
    " peak AS (SELECT at, active FROM analytics_samples"
    " WHERE at BETWEEN (SELECT at FROM start) AND {1} ORDER BY active DESC, at DESC LIMIT 1)"
    f" SELECT {', '.join(f'first.{column}' for column in _SAMPLE_COLUMNS)},"
    " peak.at AS peak_at, peak.active AS peak FROM (SELECT * FROM analytics_samples"
    " WHERE at = (SELECT at FROM start) ORDER BY number DESC LIMIT 1) AS first, peak"
)
DELETE_SAMPLES: Final = (
    "DELETE FROM analytics_samples WHERE number IN"
    " (SELECT number FROM analytics_samples WHERE at < {0} ORDER BY at LIMIT {1})"
)


def decode_active(rows: list[Row]) -> ActiveSessions:
    """Decode the rows of COUNT_ACTIVE. Raise UnreadableRecord if a type is unknown."""
    try:
        by_type = {SessionType(row["type"]): int(row["sessions"]) for row in rows}
    except ValueError as error:
        raise UnreadableRecord(f"active sessions: {error}") from None
    return ActiveSessions(by_type, rows[0]["users"] if rows else 0)


def decode_totals(rows: list[Row]) -> Totals:
    """Decode the rows of SELECT_TOTALS. Raise UnreadableRecord if a type or cause is unknown."""
    counts = [row for row in rows if row["bucket"] is None]
    durations = [row for row in rows if row["bucket"] is not None]
    try:
        return Totals(
            created={
                SessionType(row["type"]): row["total"]
                for row in counts
                if row["kind"] == CREATED_KIND
            },
            ended={
                (SessionType(row["type"]), Cause(row["kind"])): row["total"]
                for row in counts
                if row["kind"] != CREATED_KIND
            },
            durations=Durations(
                {row["bucket"]: row["total"] for row in durations if row["total"]},
                sum(row["duration_sum"] for row in durations),
            ),
        )
    except ValueError as error:
        raise UnreadableRecord(f"analytics totals: {error}") from None


def encode_sample(sample: Sample) -> tuple[datetime, int, int, str, str]:
    """Return the arguments of INSERT_SAMPLE."""
    totals = {
        "created": sample.totals.created,
        "ended": [(*key, count) for key, count in sample.totals.ended.items()],
        "durations": list(sample.totals.durations.counts.items()),
        "duration_sum": sample.totals.durations.microseconds,
    }
    active = sample.active
    return sample.at, active.total, active.users, _encode_json(active.by_type), _encode_json(totals)


def decode_sample(row: Row) -> Sample:
    """Decode a sample. Raise UnreadableRecord if the row contains none."""
    try:
        totals = json.loads(row["totals"])
        return Sample(
            decode_timestamp(row["at"]),
            ActiveSessions(_decode_by_type(json.loads(row["by_type"])), row["users"]),
            Totals(
                created=_decode_by_type(totals["created"]),
                ended={
                    (SessionType(type_), Cause(cause)): count
                    for type_, cause, count in totals["ended"]
                },
                durations=Durations(dict(totals["durations"]), totals["duration_sum"]),
            ),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnreadableRecord(f"analytics sample: {type(error).__name__}") from None


def decode_window(row: Row) -> Window:
    """Decode a row of SELECT_WINDOW. Raise UnreadableRecord if it contains no sample."""
    return Window(decode_sample(row), Peak(row["peak"], decode_timestamp(row["peak_at"])))


def _decode_by_type(counts: dict[str, int]) -> dict[SessionType, int]:
    return {SessionType(type_): count for type_, count in counts.items()}


def _encode_json(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))
