"""The audit trail in SQLite, whose events are written by the triggers of migration 0007."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sidegate.core.audit import AuditEvent, AuditFilter, Seal
from sidegate.core.errors import SessionExists
from sidegate.stores.codec import to_microseconds
from sidegate.stores.sql.audit_rows import (
    EVENT_COLUMNS,
    SEALED_COLUMNS,
    SELECT_ANCHOR,
    SELECT_HEAD,
    SELECT_OLDEST,
    build_events_query,
    decode_event,
    decode_seal,
)
from sidegate.stores.sql.conditions import SQLITE
from sidegate.stores.sqlite.database import SqliteDatabase

_SELECT_UNSEALED: Final = (
    f"SELECT {EVENT_COLUMNS} FROM audit_events WHERE link IS NULL ORDER BY number LIMIT ?1"  # noqa: S608
)
_SELECT_SEALED: Final = (
    f"SELECT {SEALED_COLUMNS} FROM audit_events WHERE link > ?1 ORDER BY link LIMIT ?2"  # noqa: S608
)
_UPDATE_SEALS: Final = (
    "UPDATE audit_events SET link = seal.column2, hash = seal.column3"
    " FROM (VALUES {rows}) AS seal WHERE number = seal.column1 AND link IS NULL RETURNING number"
)
# Two statements of one transaction.
_MOVE_ANCHOR: Final = (
    "UPDATE audit_anchor SET link = last.link, hash = last.hash"  # noqa: S608
    f" FROM ({SELECT_OLDEST.format('?1', '?2')} ORDER BY link DESC LIMIT 1) AS last"
)
_DELETE_OLDEST: Final = (
    "DELETE FROM audit_events WHERE link <= (SELECT link FROM audit_anchor) RETURNING number"
)


class SqliteAudit:
    """Implements AuditLog."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def list_events(
        self, criteria: AuditFilter, *, limit: int, before: int | None = None
    ) -> list[AuditEvent]:
        query, arguments = build_events_query(SQLITE, criteria, limit=limit, before=before)
        return [decode_event(row) for row in await self._database.read(query, arguments)]

    async def list_unsealed(self, *, limit: int) -> list[AuditEvent]:
        return [decode_event(row) for row in await self._database.read(_SELECT_UNSEALED, (limit,))]

    async def read_head(self) -> Seal:
        return decode_seal((await self._database.read(SELECT_HEAD, ()))[0])

    async def add_seals(self, seals: Sequence[tuple[int, Seal]]) -> bool:
        if not seals:
            return True
        query = _UPDATE_SEALS.format(rows=", ".join("(?, ?, ?)" for _ in seals))
        values = [part for number, seal in seals for part in (number, seal.link, seal.hash)]
        try:
            return len(await self._database.write(query, values)) == len(seals)
        except SessionExists:  # the translation of a uniqueness error; here the link is taken
            return False

    async def read_anchor(self) -> Seal:
        return decode_seal((await self._database.read(SELECT_ANCHOR, ()))[0])

    async def list_sealed(self, *, after: int, limit: int) -> list[tuple[AuditEvent, Seal]]:
        rows = await self._database.read(_SELECT_SEALED, (after, limit))
        return [(decode_event(row), decode_seal(row)) for row in rows]

    async def delete_oldest(self, before: datetime, *, limit: int) -> int:
        values = (to_microseconds(before), limit)
        _, deleted = await self._database.write_all((_MOVE_ANCHOR, values), (_DELETE_OLDEST, ()))
        return len(deleted)
