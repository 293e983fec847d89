"""Read and seal the audit trail that SQLite writes with each change of a session."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sidegate.core.audit import AuditEvent, AuditFilter, Seal
from sidegate.core.errors import SessionExists
from sidegate.stores.codec import microseconds
from sidegate.stores.sql.audit_rows import (
    ANCHOR,
    EVENT,
    HEAD,
    OLD,
    SEALED,
    event_of,
    events_asked,
    seal_of,
)
from sidegate.stores.sql.conditions import SQLITE
from sidegate.stores.sqlite.database import SqliteDatabase

_UNSEALED: Final = f"SELECT {EVENT} FROM audit_events WHERE link IS NULL ORDER BY number LIMIT ?1"  # noqa: S608
_CHAIN: Final = f"SELECT {SEALED} FROM audit_events WHERE link > ?1 ORDER BY link LIMIT ?2"  # noqa: S608
_SEAL: Final = (
    "UPDATE audit_events SET link = seal.column2, hash = seal.column3"
    " FROM (VALUES {rows}) AS seal WHERE number = seal.column1 AND link IS NULL RETURNING number"
)
# Two steps of one transaction.
_MOVE_ANCHOR: Final = (
    "UPDATE audit_anchor SET link = last.link, hash = last.hash"  # noqa: S608 - our own words
    f" FROM ({OLD.format('?1', '?2')} ORDER BY link DESC LIMIT 1) AS last"
)
_FORGET: Final = (
    "DELETE FROM audit_events WHERE link <= (SELECT link FROM audit_anchor) RETURNING number"
)


class SqliteAudit:
    """An AuditLog."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def events(
        self, wanted: AuditFilter, *, limit: int, before: int | None = None
    ) -> list[AuditEvent]:
        query, arguments = events_asked(SQLITE, wanted, limit=limit, before=before)
        return [event_of(row) for row in await self._database.look(query, arguments)]

    async def unsealed(self, *, limit: int) -> list[AuditEvent]:
        return [event_of(row) for row in await self._database.look(_UNSEALED, (limit,))]

    async def head(self) -> Seal:
        return seal_of((await self._database.look(HEAD, ()))[0])

    async def seal(self, seals: Sequence[tuple[int, Seal]]) -> bool:
        if not seals:
            return True
        query = _SEAL.format(rows=", ".join("(?, ?, ?)" for _ in seals))
        values = [part for number, seal in seals for part in (number, seal.link, seal.hash)]
        try:
            return len(await self._database.change(query, values)) == len(seals)
        except SessionExists:  # what SQLite's word for a unique value means here: a link is taken
            return False

    async def anchor(self) -> Seal:
        return seal_of((await self._database.look(ANCHOR, ()))[0])

    async def chain(self, *, after: int, limit: int) -> list[tuple[AuditEvent, Seal]]:
        rows = await self._database.look(_CHAIN, (after, limit))
        return [(event_of(row), seal_of(row)) for row in rows]

    async def forget(self, before: datetime, *, limit: int) -> int:
        values = (microseconds(before), limit)
        _, gone = await self._database.change_all((_MOVE_ANCHOR, values), (_FORGET, ()))
        return len(gone)
