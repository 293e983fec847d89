"""Lock rows: the conversions that Postgres and SQLite share."""

from datetime import timedelta

from sidegate.core.lock import Contended, Hold
from sidegate.stores.sql.rows import Row, decode_timestamp


def decode_hold(row: Row) -> Hold:
    """Decode the hold of the caller."""
    return Hold(row["fence"], decode_timestamp(row["expires_at"]))


def decode_contended(row: Row) -> Contended:
    """Decode the hold of another holder; `remaining` is an interval or microseconds."""
    remaining = row["remaining"]
    if isinstance(remaining, int):
        remaining = timedelta(microseconds=remaining)
    return Contended(decode_timestamp(row["expires_at"]), remaining, row["holder"])
