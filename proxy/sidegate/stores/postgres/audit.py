"""Read and seal the audit trail that Postgres writes with each change of a session."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg

from sidegate.core.audit import AuditEvent, AuditFilter, Seal
from sidegate.stores.postgres.database import PostgresDatabase
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
from sidegate.stores.sql.conditions import POSTGRES

_UNSEALED: Final = f"SELECT {EVENT} FROM audit_events WHERE link IS NULL ORDER BY number LIMIT $1"  # noqa: S608
_CHAIN: Final = f"SELECT {SEALED} FROM audit_events WHERE link > $1 ORDER BY link LIMIT $2"  # noqa: S608
_SEAL: Final = (
    "UPDATE audit_events SET link = seal.link, hash = seal.hash"
    " FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS seal (number, link, hash)"
    " WHERE audit_events.number = seal.number AND audit_events.link IS NULL"
    " RETURNING audit_events.number"
)
# Whoever comes second finds the events gone, and moves the anchor nowhere.
_FORGET: Final = (
    f"WITH old AS ({OLD.format('$1', '$2')}), gone AS (DELETE FROM audit_events USING old"  # noqa: S608
    " WHERE audit_events.number = old.number RETURNING old.link, old.hash),"
    " moved AS (UPDATE audit_anchor SET link = last.link, hash = last.hash"
    " FROM (SELECT link, hash FROM gone ORDER BY link DESC LIMIT 1) AS last)"
    " SELECT count(*) AS number FROM gone"
)


class PostgresAudit:
    """An AuditLog."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._ask = database.ask

    async def events(
        self, wanted: AuditFilter, *, limit: int, before: int | None = None
    ) -> list[AuditEvent]:
        query, arguments = events_asked(POSTGRES, wanted, limit=limit, before=before)
        return [event_of(row) for row in await self._ask(query, *arguments)]

    async def unsealed(self, *, limit: int) -> list[AuditEvent]:
        return [event_of(row) for row in await self._ask(_UNSEALED, limit)]

    async def head(self) -> Seal:
        return seal_of((await self._ask(HEAD))[0])

    async def seal(self, seals: Sequence[tuple[int, Seal]]) -> bool:
        if not seals:
            return True
        numbers, links, hashes = zip(*((n, seal.link, seal.hash) for n, seal in seals), strict=True)
        try:
            rows = await self._ask(_SEAL, numbers, links, hashes)
        except asyncpg.UniqueViolationError:
            return False
        return len(rows) == len(seals)

    async def anchor(self) -> Seal:
        return seal_of((await self._ask(ANCHOR))[0])

    async def chain(self, *, after: int, limit: int) -> list[tuple[AuditEvent, Seal]]:
        return [(event_of(row), seal_of(row)) for row in await self._ask(_CHAIN, after, limit)]

    async def forget(self, before: datetime, *, limit: int) -> int:
        return int((await self._ask(_FORGET, before, limit))[0]["number"])
