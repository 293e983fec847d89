"""Holds on locks as rows: what the tables of Postgres and SQLite have in common."""

from datetime import timedelta

from sidegate.core.lock import Contended, Hold
from sidegate.stores.sql.rows import Row, moment_of


def hold_of(row: Row) -> Hold:
    """Return the hold a row tells of."""
    return Hold(row["fence"], moment_of(row["expires_at"]))


def contended_of(row: Row) -> Contended:
    """Return what a row tells of somebody else's hold; `remaining` may count microseconds."""
    remaining = row["remaining"]
    if isinstance(remaining, int):
        remaining = timedelta(microseconds=remaining)
    return Contended(moment_of(row["expires_at"]), remaining, row["holder"])
