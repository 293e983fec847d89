"""The change log in SQLite, which serializes all writes: changes are numbered in their order.

The text of a snapshot is as Postgres', with numbers of changes as transactions.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sidegate.core.actor import SIDEGATE
from sidegate.core.change_log import ChangeCursor, ChangedSession, ChangePage, Mark
from sidegate.core.session import Session
from sidegate.stores.codec import to_microseconds
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
from sidegate.stores.sql.conditions import SQLITE
from sidegate.stores.sql.rows import SESSION_COLUMNS, Row
from sidegate.stores.sqlite.database import NOW, SqliteDatabase, Values

# S608: all interpolated parts are column names and SQL of this package.
_COLUMNS: Final = ", ".join((*SESSION_COLUMNS, SQLITE.changed_xid))
_POSITION: Final = "(number + 1) || ':' || (number + 1) || ':' AS snapshot, 'sqlite' AS system"
_READ_POSITION: Final = f"SELECT {_POSITION} FROM change_counter"  # noqa: S608
# Those older than the previous one that are within their grace; 10 s more, as in Postgres.
_ROTATED_DIGESTS: Final = (
    "(SELECT json_group_array(hex(rotated.digest)) FROM rotated_digests AS rotated"  # noqa: S608
    " WHERE rotated.session_id = {sessions}.id"
    " AND rotated.digest IS NOT {sessions}.previous_digest"
    f" AND (rotated.valid_until > {NOW} - 10000000{{others}})) AS rotated_digests"
)
_IS_CHANGED: Final = (
    "change_number >= :since AND (:created OR version > 1 OR revoked_at IS NOT NULL)"
)
_LIST: Final = (
    f"SELECT {_POSITION}, EXISTS (SELECT 1 FROM cache_marks WHERE id = :mark) AS is_marked,"  # noqa: S608
    " EXISTS (SELECT 1 FROM sessions WHERE change_number >= :since) AS has_changed, changed.*,"
    f" {_ROTATED_DIGESTS.format(sessions='changed', others=' OR rotated.change_number >= :since')}"
    f" FROM change_counter LEFT JOIN (SELECT {_COLUMNS} FROM sessions WHERE {{condition}})"
    " AS changed ON true"
)
_LIST_FIRST: Final = _LIST.format(condition=f"{_IS_CHANGED} LIMIT :limit")
_LIST_IDS: Final = f"SELECT id FROM sessions WHERE {_IS_CHANGED} LIMIT :limit"  # noqa: S608
_LIST_NEXT: Final = _LIST.format(condition="id IN (SELECT value FROM json_each(:ids))")
SELECT_LAST_CHANGED: Final = (
    f"SELECT {_COLUMNS}, {_ROTATED_DIGESTS.format(sessions='sessions', others='')} FROM sessions"  # noqa: S608
    " WHERE change_number > (SELECT number FROM change_counter) - changes() ORDER BY id"
)
"""The sessions that the UPDATE before it in the transaction changed. Triggers number each of them;
RETURNING would not see the numbers."""

_SELECT_KEPT_MARKS: Final = SELECT_KEPT_MARKS.format(":at")
_DELETE_MARKS: Final = (
    "DELETE FROM cache_marks"  # noqa: S608
    f" WHERE number <= (SELECT max(number) FROM cache_marks) - {MAX_MARKS}"
)
_ADD_MARK: Final = (
    "INSERT INTO cache_marks (snapshot)"
    " SELECT (number + 1) || ':' || (number + 1) || ':' FROM change_counter RETURNING id"
)
_REVOKE_AGAIN: Final = (
    "UPDATE sessions SET revoked_at = ended_at, revoked_by = :by, revoked_reason = :reason,"  # noqa: S608
    f" changed_at = {NOW}, changed_by = :by, changed_from = NULL,"
    " version = max(version + 1, ended_version)"
    " FROM (SELECT json_extract(value, '$[0]') AS session_id,"
    " json_extract(value, '$[1]') AS ended_at, json_extract(value, '$[2]') AS ended_version"
    " FROM json_each(:tombstones)) WHERE id = session_id AND revoked_at IS NULL"
)


class SqliteChanges:
    """Implements ChangeLog."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def read_position(self) -> Mark:
        return decode_position((await self._database.read(_READ_POSITION, {}))[0])

    async def list_changes(
        self,
        since: Mark,
        *,
        limit: int,
        after: ChangeCursor | None = None,
        created: bool = False,
        store_mark: bool = False,
    ) -> ChangePage:
        values: dict[str, Any] = {
            "since": since.snapshot.xmax,
            "mark": None if since.id is None else str(since.id),
            "created": created,
            "limit": limit,
        }
        if after is not None:
            ids, remaining = split_cursor(after, limit)
            rows = await self._database.read(_LIST_NEXT, {**values, "ids": json.dumps(ids)})
            await self._require_mark(since, rows)
            return decode_page(rows, remaining=remaining)
        marks: list[Row] = []
        if store_mark:
            rows, marks, _ = await self._database.write_all(
                (_LIST_FIRST, values), (_ADD_MARK, ()), (_DELETE_MARKS, ())
            )
        else:
            rows = await self._database.read(_LIST_FIRST, values)
        await self._require_mark(since, rows)
        remaining = None
        if limit and is_full(rows, limit):
            changed = await self._database.read(_LIST_IDS, {**values, "limit": MAX_CHANGES + 1})
            remaining = find_remaining(changed, rows)
        page = decode_page(rows, remaining=remaining)
        return replace(page, position=decode_mark(rows[0], id_=marks[0]["id"])) if marks else page

    async def _require_mark(self, since: Mark, rows: Sequence[Row]) -> None:
        """Raise PositionLost if the mark is lost, by a row of its page."""
        if is_lost(since, rows[0]):
            at = to_microseconds(compute_survivors_end(since))
            kept = await self._database.read(_SELECT_KEPT_MARKS, {"at": at})
            raise build_position_lost(since, decode_position(rows[0]), kept=kept[0])

    async def add_mark(self) -> Mark:
        [position], [mark], _ = await self._database.write_all(
            (_READ_POSITION, ()), (_ADD_MARK, ()), (_DELETE_MARKS, ())
        )
        return decode_mark(position, id_=mark["id"])

    async def revoke_again(self, tombstones: Sequence[Session]) -> list[ChangedSession]:
        changed: list[ChangedSession] = []
        for batch in select_tombstones(tombstones):
            values = {
                "by": SIDEGATE.name,
                "reason": RESTORED_REASON,
                "tombstones": json.dumps([_encode_tombstone(tombstone) for tombstone in batch]),
            }
            changed += decode_readable_changes(await self._change(_REVOKE_AGAIN, values))
        return changed

    async def _change(self, update: str, values: Values) -> list[Row]:
        """Run an UPDATE of sessions, and return the rows of those changed, by id."""
        _, rows = await self._database.write_all((update, values), (SELECT_LAST_CHANGED, ()))
        return rows


def _encode_tombstone(tombstone: Session) -> tuple[str, int | None, int]:
    revoked_at = tombstone.revoked_at
    return (
        tombstone.id,
        None if revoked_at is None else to_microseconds(revoked_at),
        tombstone.version,
    )
