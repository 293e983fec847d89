"""The audit trail in Postgres, whose events are written by the triggers of migration 0007."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg

from sidegate.core.audit import AuditEvent, AuditFilter, Seal
from sidegate.stores.postgres.database import PostgresDatabase
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
from sidegate.stores.sql.conditions import POSTGRES

_SELECT_UNSEALED: Final = (
    f"SELECT {EVENT_COLUMNS} FROM audit_events WHERE link IS NULL ORDER BY number LIMIT $1"  # noqa: S608
)
_SELECT_SEALED: Final = (
    f"SELECT {SEALED_COLUMNS} FROM audit_events WHERE link > $1 ORDER BY link LIMIT $2"  # noqa: S608
)
_UPDATE_SEALS: Final = (
    "UPDATE audit_events SET link = seal.link, hash = seal.hash"
    " FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS seal (number, link, hash)"
    " WHERE audit_events.number = seal.number AND audit_events.link IS NULL"
    " RETURNING audit_events.number"
)
# A concurrent second run finds no events to delete, and does not move the anchor.
_DELETE_OLDEST: Final = (
    f"WITH old AS ({SELECT_OLDEST.format('$1', '$2')}),"  # noqa: S608
    " deleted AS (DELETE FROM audit_events USING old WHERE audit_events.number = old.number"
    " RETURNING old.link, old.hash),"
    " moved AS (UPDATE audit_anchor SET link = last.link, hash = last.hash"
    " FROM (SELECT link, hash FROM deleted ORDER BY link DESC LIMIT 1) AS last)"
    " SELECT count(*) AS number FROM deleted"
)


class PostgresAudit:
    """Implements AuditLog."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._execute = database.execute

    async def list_events(
        self, criteria: AuditFilter, *, limit: int, before: int | None = None
    ) -> list[AuditEvent]:
        query, arguments = build_events_query(POSTGRES, criteria, limit=limit, before=before)
        return [decode_event(row) for row in await self._execute(query, *arguments)]

    async def list_unsealed(self, *, limit: int) -> list[AuditEvent]:
        return [decode_event(row) for row in await self._execute(_SELECT_UNSEALED, limit)]

    async def read_head(self) -> Seal:
        return decode_seal((await self._execute(SELECT_HEAD))[0])

    async def add_seals(self, seals: Sequence[tuple[int, Seal]]) -> bool:
        if not seals:
            return True
        numbers, links, hashes = zip(*((n, seal.link, seal.hash) for n, seal in seals), strict=True)
        try:
            rows = await self._execute(_UPDATE_SEALS, numbers, links, hashes)
        except asyncpg.UniqueViolationError:
            return False
        return len(rows) == len(seals)

    async def read_anchor(self) -> Seal:
        return decode_seal((await self._execute(SELECT_ANCHOR))[0])

    async def list_sealed(self, *, after: int, limit: int) -> list[tuple[AuditEvent, Seal]]:
        return [
            (decode_event(row), decode_seal(row))
            for row in await self._execute(_SELECT_SEALED, after, limit)
        ]

    async def delete_oldest(self, before: datetime, *, limit: int) -> int:
        return int((await self._execute(_DELETE_OLDEST, before, limit))[0]["number"])
