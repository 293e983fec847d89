"""Samples as rows: what the tables of Postgres and SQLite have in common."""

import json
from datetime import datetime
from typing import Any, Final

from sidegate.core.analytics import ActiveSessions, Cause, Peak, Sample, Totals, Window
from sidegate.core.durations import Durations
from sidegate.core.errors import UnreadableRecord
from sidegate.core.session_type import SessionType
from sidegate.stores.sql.rows import Row, moment_of

CREATED: Final = "created"

WHAT: Final = (
    "CASE WHEN what <> 'revoked' THEN what"
    " WHEN revoked_by = 'sidegate' AND revoked_reason IN ('limit', 'token_reuse', 'binding')"
    " THEN revoked_reason"
    " WHEN substr(revoked_by, 1, 9) = 'provider:' AND revoked_reason = 'logout' THEN 'logout'"
    " ELSE 'revoked' END"
)
"""What a beginning or an end is counted as: `created`, or a Cause. Reasons of callers are any text,
and count as what they are, a revocation."""

# The two databases differ in how an argument is marked, and in nothing else.
TAKE_TURN: Final = (
    "UPDATE analytics_turn SET taken_at = {0} WHERE taken_at <= {1} OR taken_at > {2}"
    " RETURNING taken_at"
)
LIVING: Final = (
    "WITH living AS (SELECT user_id, type, count(*) AS sessions FROM {sessions} WHERE {active}"
    " GROUP BY user_id, type)"
    " SELECT type, sum(sessions) AS sessions, (SELECT count(DISTINCT user_id) FROM living) AS users"
    " FROM living GROUP BY type"
)
TOTALS: Final = (
    "SELECT what, type, NULL AS bucket, times, NULL AS lasted FROM analytics_counts UNION ALL"
    " SELECT NULL, NULL, bucket, times, lasted FROM analytics_durations"
)
KEEP: Final = (
    "INSERT INTO analytics_samples (at, active, users, by_type, totals)"
    " VALUES ({0}, {1}, {2}, {3}, {4})"
)
_SAMPLE: Final = "at, users, by_type, totals"
LAST: Final = f"SELECT {_SAMPLE} FROM analytics_samples ORDER BY number DESC LIMIT 1"  # noqa: S608
WINDOW: Final = (
    "WITH beginning AS (SELECT coalesce("  # noqa: S608 - our own words
    "(SELECT max(at) FROM analytics_samples WHERE at <= {0}),"
    " (SELECT min(at) FROM analytics_samples WHERE at <= {1})) AS at),"
    " peak AS (SELECT at, active FROM analytics_samples"
    " WHERE at BETWEEN (SELECT at FROM beginning) AND {1} ORDER BY active DESC, at DESC LIMIT 1)"
    f" SELECT {', '.join(f'first.{column}' for column in _SAMPLE.split(', '))},"
    " peak.at AS peak_at, peak.active AS peak FROM (SELECT * FROM analytics_samples"
    " WHERE at = (SELECT at FROM beginning) ORDER BY number DESC LIMIT 1) AS first, peak"
)
FORGET: Final = (
    "DELETE FROM analytics_samples WHERE number IN"
    " (SELECT number FROM analytics_samples WHERE at < {0} ORDER BY at LIMIT {1})"
)


def living_of(rows: list[Row]) -> ActiveSessions:
    """Return what the rows of LIVING tell. UnreadableRecord: a type nobody knows is among them."""
    try:
        by_type = {SessionType(row["type"]): int(row["sessions"]) for row in rows}
    except ValueError as error:
        raise UnreadableRecord(f"the sessions: {error}") from None
    return ActiveSessions(by_type, rows[0]["users"] if rows else 0)


def totals_of(rows: list[Row]) -> Totals:
    """Return what the rows of TOTALS tell. UnreadableRecord: a newer version counted them."""
    counts = [row for row in rows if row["bucket"] is None]
    durations = [row for row in rows if row["bucket"] is not None]
    try:
        return Totals(
            created={
                SessionType(row["type"]): row["times"] for row in counts if row["what"] == CREATED
            },
            ended={
                (SessionType(row["type"]), Cause(row["what"])): row["times"]
                for row in counts
                if row["what"] != CREATED
            },
            durations=Durations(
                {row["bucket"]: row["times"] for row in durations if row["times"]},
                sum(row["lasted"] for row in durations),
            ),
        )
    except ValueError as error:
        raise UnreadableRecord(f"the totals: {error}") from None


def values_of(sample: Sample) -> tuple[datetime, int, int, str, str]:
    """Return what KEEP stores."""
    totals = {
        "created": sample.totals.created,
        "ended": [(*key, times) for key, times in sample.totals.ended.items()],
        "durations": list(sample.totals.durations.counts.items()),
        "lasted": sample.totals.durations.microseconds,
    }
    living = sample.living
    return sample.at, living.total, living.users, _spelled(living.by_type), _spelled(totals)


def sample_of(row: Row) -> Sample:
    """Return the sample in a row. UnreadableRecord: there is none in it."""
    try:
        totals = json.loads(row["totals"])
        return Sample(
            moment_of(row["at"]),
            ActiveSessions(_by_type(json.loads(row["by_type"])), row["users"]),
            Totals(
                created=_by_type(totals["created"]),
                ended={(SessionType(t), Cause(why)): times for t, why, times in totals["ended"]},
                durations=Durations(dict(totals["durations"]), totals["lasted"]),
            ),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnreadableRecord(f"a sample: {type(error).__name__}") from None


def window_of(row: Row) -> Window:
    """Return the window in a row of WINDOW. UnreadableRecord: there is none in it."""
    return Window(sample_of(row), Peak(row["peak"], moment_of(row["peak_at"])))


def _by_type(counts: dict[str, int]) -> dict[SessionType, int]:
    return {SessionType(type_): count for type_, count in counts.items()}


def _spelled(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))
