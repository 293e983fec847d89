"""Keep sessions in one SQLite file: the durable store of a single machine."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from sidegate.core.actor import SIDEGATE, Actor
from sidegate.core.condition import Condition
from sidegate.core.errors import LimitReached
from sidegate.core.limits import EVICTED_REASON, Limit
from sidegate.core.protocols import Cursor, RotatedOut, Touch
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.token import Digest
from sidegate.stores.codec import microseconds
from sidegate.stores.sql.conditions import SQLITE, Asking, counting, listing, revocable
from sidegate.stores.sql.rows import (
    COLUMNS,
    SEEN_COLUMNS,
    SESSION_COLUMNS,
    answering,
    is_canonical,
    readable_sessions,
    record_of,
    rotated_out_of,
    values_of,
)
from sidegate.stores.sqlite.database import SqliteDatabase

# SQLite takes 32,766 parameters; a look-up names each digest thrice.
_MOST_AT_ONCE: Final = 1000

_TIMES: Final = (
    "previous_until",
    "created_at",
    "authenticated_at",
    "last_seen_at",
    "expires_at",
    "revoked_at",
    "changed_at",
)

# ruff's S608 suspects every built statement: these are built from column names of this house only.
_SESSION: Final = ", ".join(SESSION_COLUMNS)
_RECORD: Final = ", ".join(COLUMNS)
# The complement of Session.ended.
_LIVING: Final = (
    "revoked_at IS NULL AND expires_at > :at"
    " AND (idle_timeout IS NULL OR last_seen_at + idle_timeout > :at)"
)
_CREATE: Final = (
    f"INSERT INTO sessions ({_RECORD}) VALUES ({', '.join(f':{column}' for column in COLUMNS)})"  # noqa: S608
)
_HAS_ROOM: Final = (
    ":at_limit <> 'refuse' OR (SELECT count(*) FROM sessions WHERE user_id = :user_id"  # noqa: S608
    f" AND type = :type AND tenant IS :tenant AND id <> :id AND {_LIVING}) < :most"
)
# Two steps of one transaction: no row of the first is a refusal.
_CREATE_WITHIN: Final = (
    f"INSERT INTO sessions ({_RECORD}) SELECT {', '.join(f':{column}' for column in COLUMNS)}"
    f" WHERE {_HAS_ROOM} RETURNING id"
)
# One that looks idle takes no room, but what does not fit beside the living ends for good: it may
# have been seen, and a touch that comes late would make it one too many.
_MAKE_ROOM: Final = (
    "UPDATE sessions SET revoked_at = :at, revoked_by = :by, revoked_reason = :reason,"  # noqa: S608
    " changed_at = :at, changed_by = :by, changed_from = NULL, version = version + 1"
    " WHERE id IN (SELECT id FROM sessions WHERE user_id = :user_id"
    " AND type = :type AND tenant IS :tenant AND id <> :id"
    " AND revoked_at IS NULL AND expires_at > :at"
    f" ORDER BY ({_LIVING}) DESC,"
    " CASE :at_limit WHEN 'evict_idle_longest' THEN last_seen_at END DESC,"
    " created_at DESC, id DESC LIMIT -1 OFFSET :most - 1)"
    f" AND EXISTS (SELECT 1 FROM sessions WHERE digest = :digest) RETURNING {_SESSION}"
)
# The current digest, the previous one, or one rotated out before that.
_FIND: Final = (
    f"SELECT {_SESSION}, NULL AS rotated_digest FROM sessions"  # noqa: S608
    " WHERE digest IN ({marks}) OR previous_digest IN ({marks}) UNION ALL"
    f" SELECT {', '.join(f'sessions.{column}' for column in SESSION_COLUMNS)}, rotated.digest"
    " FROM rotated_digests AS rotated JOIN sessions ON sessions.id = rotated.session_id"
    " WHERE rotated.digest IN ({marks}) AND rotated.digest <> sessions.previous_digest"
)
_ROTATED_OUT: Final = "SELECT until, nonce FROM rotated_digests WHERE digest = :digest"
_OWNER: Final = (
    f"SELECT {_RECORD} FROM sessions WHERE digest = :digest OR previous_digest = :digest"  # noqa: S608
    " OR id = (SELECT session_id FROM rotated_digests WHERE digest = :digest)"
)
_GET: Final = f"SELECT {_RECORD} FROM sessions WHERE id = :id"  # noqa: S608
_CLAIMED: Final = f"SELECT {_RECORD} FROM sessions WHERE claim = :claim"  # noqa: S608
_SET: Final = ", ".join(
    f"{column} = max({column}, :{column})" if column in SEEN_COLUMNS else f"{column} = :{column}"
    for column in COLUMNS
    if column != "id"
)
_REPLACE: Final = f"UPDATE sessions SET {_SET} WHERE id = :id AND version = :expected RETURNING id"  # noqa: S608
_REPLACE_WITHIN: Final = (
    f"UPDATE sessions SET {_SET} WHERE id = :id AND version = :expected AND ({_HAS_ROOM})"  # noqa: S608
    " RETURNING id"
)
_STILL: Final = "SELECT id FROM sessions WHERE id = :id AND version = :expected"
_TOUCH: Final = (
    "UPDATE sessions SET last_seen_at = max(last_seen_at, seen_at),"  # noqa: S608
    " access_count = access_count + times"
    " FROM (SELECT json_extract(value, '$[0]') AS touched,"
    " json_extract(value, '$[1]') AS seen_at, json_extract(value, '$[2]') AS times"
    " FROM json_each(:touches))"
    " WHERE id = touched AND revoked_at IS NULL AND expires_at > seen_at"
    f" RETURNING {_SESSION}"
)
_GENERATION: Final = "SELECT number FROM hot_generation"
_NEXT_GENERATION: Final = (
    "UPDATE hot_generation SET number = number + 1 WHERE number = :after RETURNING number"
)
_PURGE: Final = (
    "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < :before"
    " ORDER BY expires_at LIMIT :limit) RETURNING id"
)
_NEXT: Final = "SELECT number + 1 AS mark FROM changes"
_CHANGED: Final = (
    f"SELECT number + 1 AS mark, {_SESSION} FROM changes LEFT JOIN sessions ON changed >= :mark"  # noqa: S608
)
_LAST_CHANGED: Final = (
    f"SELECT {_SESSION} FROM sessions WHERE changed IS NOT NULL ORDER BY changed DESC LIMIT :most"  # noqa: S608
)


class SqliteSessions:
    """A DurableStore. What it has acknowledged survives a crash and a power cut.

    Each operation is one statement or one transaction, hence whole: a caller that leaves interrupts
    none.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    @classmethod
    async def open(cls, path: Path, *, busy_timeout: timedelta = timedelta(seconds=5)) -> Self:
        """Return the store in the file at `path`; see SqliteDatabase.open."""
        return cls(await SqliteDatabase.open(path, busy_timeout=busy_timeout))

    async def find(self, digest: Digest) -> Session | None:
        return (await self.find_many((digest,))).get(digest)

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        found: dict[Digest, Session] = {}
        for start in range(0, len(digests), _MOST_AT_ONCE):
            some = digests[start : start + _MOST_AT_ONCE]
            marks = ", ".join("?" * len(some))
            query = _FIND.format(marks=marks)
            found |= answering(await self._database.look(query, (*some, *some, *some)), some)
        return found

    async def create(self, record: SessionRecord, *, limit: Limit | None = None) -> list[Session]:
        values = _values(record)
        if limit is None:
            await self._database.change(_CREATE, values)
            return []
        values |= _room(limit, record.session.created_at)
        created, evicted = await self._database.change_all(
            (_CREATE_WITHIN, values), (_MAKE_ROOM, values)
        )
        if not created:
            raise LimitReached(record.session.type, limit.most)
        return list(readable_sessions(evicted))

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        if not is_canonical(session_id):
            return None
        rows = await self._database.look(_GET, {"id": session_id})
        return record_of(rows[0]) if rows else None

    async def find_by_idempotency_key(self, claim: bytes) -> SessionRecord | None:
        rows = await self._database.look(_CLAIMED, {"claim": claim})
        return record_of(rows[0]) if rows else None

    async def rotated_out(self, digest: Digest) -> RotatedOut | None:
        rows = await self._database.look(_ROTATED_OUT, {"digest": digest})
        return rotated_out_of(rows[0]) if rows else None

    async def find_by_any_digest(self, digest: Digest) -> SessionRecord | None:
        rows = await self._database.look(_OWNER, {"digest": digest})
        return record_of(rows[0]) if rows else None

    async def list_where(
        self,
        condition: Condition,
        *,
        limit: int,
        after: Cursor | None = None,
        state: tuple[SessionState, datetime] | None = None,
    ) -> list[SessionRecord]:
        query, arguments = listing(SQLITE, condition, limit=limit, after=after, state=state)
        return [record_of(row) for row in await self._database.look(query, arguments)]

    async def count_where(self, condition: Condition, *, at: datetime) -> int:
        query, arguments = counting(SQLITE, condition, at)
        return int((await self._database.look(query, arguments))[0]["number"])

    async def replace(self, record: SessionRecord, *, expected: int) -> bool:
        values = _values(record) | {"expected": expected}
        return bool(await self._database.change(_REPLACE, values))

    async def replace_within(
        self, record: SessionRecord, *, expected: int, limit: Limit, at: datetime
    ) -> list[Session] | None:
        values = _values(record) | _room(limit, at) | {"expected": expected}
        replaced, evicted, still = await self._database.change_all(
            (_REPLACE_WITHIN, values), (_MAKE_ROOM, values), (_STILL, values)
        )
        if still:
            raise LimitReached(record.session.type, limit.most)
        return list(readable_sessions(evicted)) if replaced else None

    async def revoke_where(
        self,
        condition: Condition,
        *,
        at: datetime,
        by: Actor,
        reason: str,
        limit: int,
        after: SessionId | None = None,
    ) -> list[Session]:
        asking = Asking(SQLITE)
        doomed = revocable(asking, condition, at=at, after=after, limit=limit)
        moment, name, source, why = map(asking.mark, (at, by.name, by.source, reason))
        revoke = (
            f"UPDATE sessions SET revoked_at = {moment}, revoked_by = {name},"  # noqa: S608
            f" revoked_reason = {why}, changed_at = {moment}, changed_by = {name},"
            f" changed_from = {source}, version = version + 1"
            f" WHERE id IN ({doomed}) RETURNING {_SESSION}"
        )
        while rows := await self._database.change(revoke, asking.arguments):
            tombstones = sorted(readable_sessions(rows), key=lambda tombstone: tombstone.id)
            if tombstones:
                return tombstones
        return []

    async def touch(self, touches: Sequence[Touch]) -> list[Session]:
        values = [(touch.id, microseconds(touch.seen_at), touch.times) for touch in touches]
        return list(
            readable_sessions(await self._database.change(_TOUCH, {"touches": json.dumps(values)}))
        )

    async def generation(self) -> int:
        return int((await self._database.look(_GENERATION, {}))[0]["number"])

    async def next_generation(self, after: int) -> int:
        rows = await self._database.change(_NEXT_GENERATION, {"after": after})
        return int(rows[0]["number"]) if rows else await self.generation()

    async def purge(self, expired_before: datetime, *, limit: int) -> int:
        values = {"before": microseconds(expired_before), "limit": limit}
        return len(await self._database.change(_PURGE, values))

    async def changed_since(self, mark: int) -> tuple[int, list[Session]]:
        """See the protocol. Writers take turns here: a mark is the number of the next change."""
        if mark == 0:
            rows = await self._database.look(_NEXT, {})
            return rows[0]["mark"], []
        rows = await self._database.look(_CHANGED, {"mark": mark})
        changed = (row for row in rows if row["id"] is not None)
        return rows[0]["mark"], list(readable_sessions(changed))

    async def last_changed(self, most: int) -> list[Session]:
        return list(readable_sessions(await self._database.look(_LAST_CHANGED, {"most": most})))

    async def ping(self) -> None:
        await self._database.look("SELECT number FROM changes", {})

    async def close(self) -> None:
        await self._database.close()


def _values(record: SessionRecord) -> dict[str, Any]:
    values = values_of(record)
    values |= {name: microseconds(values[name]) for name in _TIMES if values[name] is not None}
    return values | {"scopes": json.dumps(values["scopes"])}


def _room(limit: Limit, at: datetime) -> dict[str, Any]:
    return {
        "most": limit.most,
        "at_limit": limit.at_limit.value,
        "at": microseconds(at),
        "by": SIDEGATE.name,
        "reason": EVICTED_REASON,
    }
