"""The change log in Postgres.

A mark's snapshot does not see the transactions from its `xmax` on, nor those that were in progress.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sidegate.core.actor import SIDEGATE
from sidegate.core.change_log import ChangeCursor, ChangedSession, ChangePage, Mark
from sidegate.core.session import Session
from sidegate.stores.postgres.database import PostgresDatabase
from sidegate.stores.sql.change_rows import (
    MAX_CHANGES,
    MAX_MARKS,
    RESTORED_REASON,
    SELECT_KEPT_MARKS,
    build_position_lost,
    compute_survivors_end,
    decode_mark,
    decode_page,
    decode_position,
    decode_readable_changes,
    find_remaining,
    is_full,
    is_lost,
    select_tombstones,
    split_cursor,
)
from sidegate.stores.sql.conditions import POSTGRES
from sidegate.stores.sql.retry_unknown import retry_idempotent
from sidegate.stores.sql.rows import SESSION_COLUMNS, Row

# S608: all interpolated parts are column names and SQL of this package.
_COLUMNS: Final = (*SESSION_COLUMNS, POSTGRES.changed_xid)


def select_changed(table: str) -> str:
    """Return the columns of changed sessions, for a table with those of the sessions.

    The rows must be locked, or written, by the statement.
    """
    columns = ", ".join(f"{table}.{column}" for column in _COLUMNS)
    rotated = f"sidegate_rotated_digests({table}.id, {table}.previous_digest)"
    return f"{columns}, {rotated} AS rotated_digests"


_POSITION: Final = "pg_current_snapshot()::text AS snapshot, sidegate_system() AS system"
_READ_POSITION: Final = f"SELECT {_POSITION}"
# The upper bound matters after a restore into a younger cluster: its rows carry transaction numbers
# that were not assigned yet.
_ASSIGNED: Final = "changed_xid < pg_snapshot_xmax(pg_current_snapshot())"
# Not EXISTS, which is planned as a scan of the table where many rows are expected.
_HAS_BEGUN_LATER: Final = (
    f"(SELECT true FROM sessions WHERE changed_xid >= $1::xid8 AND {_ASSIGNED}"  # noqa: S608
    " ORDER BY changed_xid, id LIMIT 1)"
)
_HAS_COMMITTED_LATER: Final = (
    "(SELECT true FROM unnest($2::xid8[]) AS late (xid) CROSS JOIN LATERAL (SELECT FROM sessions"
    " WHERE changed_xid = late.xid ORDER BY id LIMIT 1) AS found LIMIT 1)"
)
# One range of the index for the transactions from `xmax` on, and one for each that was in progress,
# instead of the visibility of each row: one that is in progress for hours does not make all changes
# since its begin be read.
_IS_LISTED: Final = "($3 OR version > 1 OR revoked_at IS NOT NULL)"
_SELECT_CHANGED: Final = (
    "(SELECT found.* FROM unnest($2::xid8[]) AS late (xid) CROSS JOIN LATERAL"  # noqa: S608
    f" (SELECT {{columns}} FROM sessions WHERE changed_xid = late.xid AND {_IS_LISTED}"
    " ORDER BY id LIMIT $4) AS found) UNION ALL"
    " (SELECT {columns} FROM sessions"
    f" WHERE changed_xid >= $1::xid8 AND {_ASSIGNED} AND {_IS_LISTED}"
    " {in_order} LIMIT $4) LIMIT $4"
)
# Also those rotated out since the mark. Not by the function of migration 0012, which sees more than
# the statement's snapshot: a digest listed as the current one must not be listed as rotated out.
_ROTATED_DIGESTS: Final = (
    "ARRAY (SELECT rotated.digest FROM rotated_digests AS rotated"
    " WHERE rotated.session_id = changed.id"
    " AND rotated.digest IS DISTINCT FROM changed.previous_digest"
    " AND (rotated.valid_until > (SELECT sidegate_now()) - interval '10 seconds'"
    " OR rotated.changed_xid >= $1::xid8 OR rotated.changed_xid = ANY ($2::xid8[])))"
)
_CHECK: Final = (
    f"{_POSITION}, EXISTS (SELECT FROM cache_marks WHERE id = ${{mark}}) AS is_marked,"
    f" coalesce({_HAS_BEGUN_LATER}, {_HAS_COMMITTED_LATER}, false) AS has_changed"
)
# Quick to plan, for the usual case without changes.
_CHECK_FOR_CHANGES: Final = f"SELECT {_CHECK.format(mark=3)}"
_LIST: Final = (
    f"SELECT {{check}}, changed.*, {_ROTATED_DIGESTS} AS rotated_digests"  # noqa: S608
    " FROM (VALUES (1)) AS always LEFT JOIN ({changed}) AS changed ON true"
)
_LIST_FIRST: Final = _LIST.format(
    check=_CHECK.format(mark=5),
    # In the order of the index, so that it is used for a few of many rows.
    changed=_SELECT_CHANGED.format(
        columns=", ".join(_COLUMNS), in_order="ORDER BY changed_xid, id"
    ),
)
_LIST_IDS: Final = _SELECT_CHANGED.format(columns="id", in_order="")
_LIST_NEXT: Final = _LIST.format(
    check=_CHECK.format(mark=4),
    changed=f"SELECT {', '.join(_COLUMNS)} FROM sessions WHERE id = ANY ($3::uuid[])",  # noqa: S608
)
# In the statement whose snapshot it is: no restore and no failover comes between the two.
_STORE_MARK: Final = (
    "WITH deleted AS (DELETE FROM cache_marks WHERE number = ANY (ARRAY ("  # noqa: S608
    "SELECT number FROM cache_marks"
    f" WHERE number < (SELECT max(number) FROM cache_marks) - {MAX_MARKS - 2}"
    " ORDER BY number LIMIT 100))),"
    " stored AS (INSERT INTO cache_marks (snapshot)"
    " VALUES (pg_current_snapshot()::text) RETURNING id AS mark_id)"
    " SELECT * FROM stored CROSS JOIN"
)
_ADD_MARK: Final = f"{_STORE_MARK} ({_READ_POSITION}) AS position"
_LIST_FIRST_AND_MARK: Final = f"{_STORE_MARK} ({_LIST_FIRST}) AS page"
_SELECT_KEPT_MARKS: Final = SELECT_KEPT_MARKS.format("$1")
# Locked in the order of their ids, as everywhere: concurrent statements do not deadlock.
_REVOKE_AGAIN: Final = (
    "WITH tombstone AS (SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[])"  # noqa: S608
    " AS tombstone (session_id, ended_at, ended_version)),"
    " selected AS MATERIALIZED (SELECT id FROM sessions WHERE id = ANY ($1::uuid[])"
    " AND revoked_at IS NULL ORDER BY id FOR UPDATE)"
    " UPDATE sessions SET revoked_at = ended_at, revoked_by = $4, revoked_reason = $5,"
    " changed_at = sidegate_now(), changed_by = $4, changed_from = NULL,"
    " version = greatest(version + 1, ended_version), changed_xid = pg_current_xact_id()"
    " FROM selected JOIN tombstone ON selected.id = session_id WHERE sessions.id = session_id"
    f" RETURNING {select_changed('sessions')}"
)


class PostgresChanges:
    """Implements ChangeLog."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._execute_priority = database.execute_priority
        self._write = database.write

    async def read_position(self) -> Mark:
        return decode_position((await self._execute_priority(_READ_POSITION))[0])

    async def list_changes(
        self,
        since: Mark,
        *,
        limit: int,
        after: ChangeCursor | None = None,
        created: bool = False,
        store_mark: bool = False,
    ) -> ChangePage:
        if after is not None:
            ids, remaining = split_cursor(after, limit)
            return decode_page(await self._list(since, _LIST_NEXT, ids), remaining=remaining)
        if not store_mark:
            [checked] = await self._list(since, _CHECK_FOR_CHANGES)
            if not checked["has_changed"] or limit == 0:
                return ChangePage(decode_position(checked), has_changed=checked["has_changed"])
        query = _LIST_FIRST_AND_MARK if store_mark else _LIST_FIRST
        rows = await self._list(since, query, created, limit)
        remaining = None
        if is_full(rows, limit):
            changed = await self._execute_priority(
                _LIST_IDS, *_build_ranges(since), created, MAX_CHANGES + 1
            )
            remaining = find_remaining(changed, rows)
        page = decode_page(rows, remaining=remaining)
        if not store_mark:
            return page
        return replace(page, position=decode_mark(rows[0], id_=rows[0]["mark_id"]))

    async def _list(self, since: Mark, query: str, *arguments: object) -> list[Row]:
        """Return the rows of a page, at least one. Raise PositionLost if the mark is lost."""
        rows = await self._execute_priority(query, *_build_ranges(since), *arguments, since.id)
        if is_lost(since, rows[0]):
            kept = await self._execute_priority(_SELECT_KEPT_MARKS, compute_survivors_end(since))
            raise build_position_lost(since, decode_position(rows[0]), kept=kept[0])
        return rows

    async def add_mark(self) -> Mark:
        [row] = await self._execute_priority(_ADD_MARK)
        return decode_mark(row, id_=row["mark_id"])

    async def revoke_again(self, tombstones: Sequence[Session]) -> list[ChangedSession]:
        changed: list[ChangedSession] = []
        for batch in select_tombstones(tombstones):
            changed += await self._revoke_again(batch)
        return changed

    async def _revoke_again(self, tombstones: Sequence[Session]) -> list[ChangedSession]:
        arguments = (
            [tombstone.id for tombstone in tombstones],
            [tombstone.revoked_at for tombstone in tombstones],
            [tombstone.version for tombstone in tombstones],
            SIDEGATE.name,
            RESTORED_REASON,
        )
        return decode_readable_changes(
            await retry_idempotent(lambda: self._write(_REVOKE_AGAIN, *arguments))
        )


def _build_ranges(since: Mark) -> tuple[int, list[int]]:
    """Return the arguments that select what has changed since a mark."""
    return since.snapshot.xmax, sorted(since.snapshot.in_progress)
