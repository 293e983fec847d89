"""The durable store in a SQLite file, for the instances of one machine."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from sidegate.core.actor import SIDEGATE, Actor
from sidegate.core.change_log import ChangedSession
from sidegate.core.condition import Condition
from sidegate.core.digest import Digest
from sidegate.core.errors import LimitReached
from sidegate.core.limits import EVICTED_REASON, Limit
from sidegate.core.protocols import Cursor, RotatedOut, Touch
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.stores.codec import to_microseconds
from sidegate.stores.sql.change_rows import decode_changed, decode_readable_changes
from sidegate.stores.sql.conditions import (
    SQLITE,
    QueryBuilder,
    build_count_query,
    build_list_query,
    build_revocable_query,
)
from sidegate.stores.sql.rows import (
    ACTIVITY_COLUMNS,
    RECORD_COLUMNS,
    SESSION_COLUMNS,
    decode_copies,
    decode_readable_sessions,
    decode_record,
    decode_rotated_out,
    encode_record,
    is_canonical,
)
from sidegate.stores.sqlite.changes import SELECT_LAST_CHANGED, SqliteChanges
from sidegate.stores.sqlite.database import SqliteDatabase

# SQLite allows 32,766 parameters; a lookup binds each digest three times.
_BATCH_SIZE: Final = 1000

_TIMESTAMP_COLUMNS: Final = (
    "previous_until",
    "created_at",
    "authenticated_at",
    "last_seen_at",
    "expires_at",
    "revoked_at",
    "changed_at",
)

# S608: all interpolated parts are column names and SQL of this package.
_SESSION_COLUMNS: Final = ", ".join((*SESSION_COLUMNS, SQLITE.changed_xid))
_QUALIFIED_COLUMNS: Final = ", ".join(
    f"sessions.{column}" for column in (*SESSION_COLUMNS, SQLITE.changed_xid)
)
_INSERTED_COLUMNS: Final = ", ".join(RECORD_COLUMNS)
_RECORD_COLUMNS: Final = f"{_INSERTED_COLUMNS}, {SQLITE.changed_xid}"
_PLACEHOLDERS: Final = ", ".join(f":{column}" for column in RECORD_COLUMNS)
# The complement of Session.has_ended.
_IS_ACTIVE: Final = (
    "revoked_at IS NULL AND expires_at > :at"
    " AND (idle_timeout IS NULL OR last_seen_at + idle_timeout > :at)"
)
_CREATE: Final = f"INSERT INTO sessions ({_INSERTED_COLUMNS}) VALUES ({_PLACEHOLDERS})"  # noqa: S608
_IS_BELOW_LIMIT: Final = (
    ":at_limit <> 'refuse' OR (SELECT count(*) FROM sessions WHERE user_id = :user_id"  # noqa: S608
    f" AND type = :type AND tenant IS :tenant AND id <> :id AND {_IS_ACTIVE}) < :max_sessions"
)
# Two statements of one transaction; if the first returns no row, the limit is reached.
_CREATE_WITHIN_LIMIT: Final = (
    f"INSERT INTO sessions ({_INSERTED_COLUMNS}) SELECT {_PLACEHOLDERS}"
    f" WHERE {_IS_BELOW_LIMIT} RETURNING id"
)
# A session that looks idle does not count, but is revoked if it does not fit beside the active
# ones: a late touch may prove it active, and would exceed the limit.
_EVICT: Final = (
    "UPDATE sessions SET revoked_at = :at, revoked_by = :by, revoked_reason = :reason,"  # noqa: S608
    " changed_at = :at, changed_by = :by, changed_from = NULL, version = version + 1"
    " WHERE id IN (SELECT id FROM sessions WHERE user_id = :user_id"
    " AND type = :type AND tenant IS :tenant AND id <> :id"
    " AND revoked_at IS NULL AND expires_at > :at"
    f" ORDER BY ({_IS_ACTIVE}) DESC,"
    " CASE :at_limit WHEN 'evict_idle_longest' THEN last_seen_at END DESC,"
    " created_at DESC, id DESC LIMIT -1 OFFSET :max_sessions - 1)"
    " AND EXISTS (SELECT 1 FROM sessions WHERE digest = :digest)"
)
# By the current digest, the previous one, or one that was rotated out earlier.
_FIND_BY_DIGEST: Final = (
    f"SELECT {_SESSION_COLUMNS}, NULL AS rotated_digest FROM sessions"  # noqa: S608
    " WHERE digest IN ({placeholders}) OR previous_digest IN ({placeholders}) UNION ALL"
    f" SELECT {_QUALIFIED_COLUMNS}, rotated.digest"
    " FROM rotated_digests AS rotated JOIN sessions ON sessions.id = rotated.session_id"
    " WHERE rotated.digest IN ({placeholders}) AND rotated.digest <> sessions.previous_digest"
)
_FIND_ROTATED_OUT: Final = "SELECT valid_until, nonce FROM rotated_digests WHERE digest = :digest"
_FIND_BY_ANY_DIGEST: Final = (
    f"SELECT {_RECORD_COLUMNS} FROM sessions WHERE digest = :digest OR previous_digest = :digest"  # noqa: S608
    " OR id = (SELECT session_id FROM rotated_digests WHERE digest = :digest)"
)
_GET: Final = f"SELECT {_RECORD_COLUMNS} FROM sessions WHERE id = :id"  # noqa: S608
_FIND_BY_IDEMPOTENCY_KEY: Final = (
    f"SELECT {_RECORD_COLUMNS} FROM sessions WHERE idempotency_key_hash = :key_hash"  # noqa: S608
)
_ASSIGNMENTS: Final = ", ".join(
    f"{column} = max({column}, :{column})"
    if column in ACTIVITY_COLUMNS
    else f"{column} = :{column}"
    for column in RECORD_COLUMNS
    if column != "id"
)
_REPLACE: Final = f"UPDATE sessions SET {_ASSIGNMENTS} WHERE id = :id AND version = :expected"  # noqa: S608
_REPLACE_WITHIN_LIMIT: Final = (
    f"UPDATE sessions SET {_ASSIGNMENTS} WHERE id = :id AND version = :expected"  # noqa: S608
    f" AND ({_IS_BELOW_LIMIT})"
)
_SELECT_EXPECTED: Final = "SELECT id FROM sessions WHERE id = :id AND version = :expected"
_TOUCH: Final = (
    "UPDATE sessions SET last_seen_at = max(last_seen_at, seen_at),"  # noqa: S608
    " access_count = access_count + touches,"
    " token_seen = token_seen OR hex(digest) IS seen_token"
    " FROM (SELECT json_extract(value, '$[0]') AS session_id,"
    " json_extract(value, '$[1]') AS seen_at, json_extract(value, '$[2]') AS touches,"
    " json_extract(value, '$[3]') AS seen_token"
    " FROM json_each(:touches))"
    " WHERE id = session_id AND revoked_at IS NULL AND expires_at > seen_at"
    f" RETURNING {_SESSION_COLUMNS}"
)
_PURGE: Final = (
    "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < :before"
    " ORDER BY expires_at LIMIT :limit) RETURNING id"
)


class SqliteSessions(SqliteChanges):
    """Implements DurableStore. An acknowledged write survives a crash and a power failure.

    Each operation is one statement or one transaction, hence atomic. It completes even if the
    caller is cancelled.
    """

    @classmethod
    async def open(cls, path: Path, *, busy_timeout: timedelta = timedelta(seconds=5)) -> Self:
        """Return the store in the file at `path`; see SqliteDatabase.open."""
        return cls(await SqliteDatabase.open(path, busy_timeout=busy_timeout))

    async def find(self, digest: Digest) -> Session | None:
        return (await self.find_many((digest,))).get(digest)

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        found: dict[Digest, Session] = {}
        for start in range(0, len(digests), _BATCH_SIZE):
            batch = digests[start : start + _BATCH_SIZE]
            placeholders = ", ".join("?" * len(batch))
            query = _FIND_BY_DIGEST.format(placeholders=placeholders)
            found |= decode_copies(
                await self._database.read(query, (*batch, *batch, *batch)), batch
            )
        return found

    async def create(
        self, record: SessionRecord, *, limit: Limit | None = None
    ) -> list[ChangedSession]:
        values = _encode_values(record)
        if limit is None:
            await self._database.write(_CREATE, values)
            return []
        values |= _build_limit_values(limit, record.session.created_at)
        created, _, evicted = await self._database.write_all(
            (_CREATE_WITHIN_LIMIT, values), (_EVICT, values), (SELECT_LAST_CHANGED, ())
        )
        if not created:
            raise LimitReached(record.session.type, limit.max_sessions)
        return decode_readable_changes(evicted)

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        if not is_canonical(session_id):
            return None
        rows = await self._database.read(_GET, {"id": session_id})
        return decode_record(rows[0]) if rows else None

    async def find_by_idempotency_key(self, key_hash: bytes) -> SessionRecord | None:
        rows = await self._database.read(_FIND_BY_IDEMPOTENCY_KEY, {"key_hash": key_hash})
        return decode_record(rows[0]) if rows else None

    async def find_rotated_out(self, digest: Digest) -> RotatedOut | None:
        rows = await self._database.read(_FIND_ROTATED_OUT, {"digest": digest})
        return decode_rotated_out(rows[0]) if rows else None

    async def find_by_any_digest(self, digest: Digest) -> SessionRecord | None:
        rows = await self._database.read(_FIND_BY_ANY_DIGEST, {"digest": digest})
        return decode_record(rows[0]) if rows else None

    async def list_where(
        self,
        condition: Condition,
        *,
        limit: int,
        after: Cursor | None = None,
        state: tuple[SessionState, datetime] | None = None,
    ) -> list[SessionRecord]:
        query, arguments = build_list_query(
            SQLITE, condition, limit=limit, after=after, state=state
        )
        return [decode_record(row) for row in await self._database.read(query, arguments)]

    async def count_where(self, condition: Condition, *, at: datetime) -> int:
        query, arguments = build_count_query(SQLITE, condition, at=at)
        return int((await self._database.read(query, arguments))[0]["number"])

    async def replace(self, record: SessionRecord, *, expected: int) -> ChangedSession | None:
        values = _encode_values(record) | {"expected": expected}
        replaced = await self._change(_REPLACE, values)
        return decode_changed(replaced[0]) if replaced else None

    async def replace_within_limit(
        self, record: SessionRecord, *, expected: int, limit: Limit, at: datetime
    ) -> list[ChangedSession] | None:
        values = _encode_values(record) | _build_limit_values(limit, at) | {"expected": expected}
        _, replaced, _, evicted, expected_row = await self._database.write_all(
            (_REPLACE_WITHIN_LIMIT, values),
            (SELECT_LAST_CHANGED, ()),
            (_EVICT, values),
            (SELECT_LAST_CHANGED, ()),
            (_SELECT_EXPECTED, values),
        )
        if expected_row:
            raise LimitReached(record.session.type, limit.max_sessions)
        return decode_readable_changes([*replaced, *evicted]) if replaced else None

    async def revoke_where(
        self,
        condition: Condition,
        *,
        at: datetime,
        by: Actor,
        reason: str,
        limit: int,
        after: SessionId | None = None,
        acknowledged: bool = False,
    ) -> list[ChangedSession]:
        del acknowledged  # no other machine's clock, and a write waits for 5 s at most
        builder = QueryBuilder(SQLITE)
        selected = build_revocable_query(builder, condition, at=at, after=after, limit=limit)
        timestamp, actor, source, stated_reason = map(
            builder.bind, (at, by.name, by.source, reason)
        )
        revoke = (
            f"UPDATE sessions SET revoked_at = {timestamp}, revoked_by = {actor},"  # noqa: S608
            f" revoked_reason = {stated_reason}, changed_at = {timestamp}, changed_by = {actor},"
            f" changed_from = {source}, version = version + 1"
            f" WHERE id IN ({selected})"
        )
        while rows := await self._change(revoke, builder.arguments):
            if revoked := decode_readable_changes(rows):
                return revoked
        return []

    async def touch(self, touches: Sequence[Touch]) -> list[Session]:
        values = [
            (
                touch.id,
                to_microseconds(touch.seen_at),
                touch.count,
                None if touch.token is None else touch.token.hex().upper(),
            )
            for touch in touches
        ]
        return list(
            decode_readable_sessions(
                await self._database.write(_TOUCH, {"touches": json.dumps(values)})
            )
        )

    async def purge(self, expired_before: datetime, *, limit: int) -> int:
        values = {"before": to_microseconds(expired_before), "limit": limit}
        return len(await self._database.write(_PURGE, values))

    async def ping(self) -> None:
        await self._database.read("SELECT number FROM change_counter", {})

    async def close(self) -> None:
        await self._database.close()


def _encode_values(record: SessionRecord) -> dict[str, Any]:
    values = encode_record(record)
    values |= {
        name: to_microseconds(values[name])
        for name in _TIMESTAMP_COLUMNS
        if values[name] is not None
    }
    return values | {"scopes": json.dumps(values["scopes"])}


def _build_limit_values(limit: Limit, at: datetime) -> dict[str, Any]:
    return {
        "max_sessions": limit.max_sessions,
        "at_limit": limit.at_limit.value,
        "at": to_microseconds(at),
        "by": SIDEGATE.name,
        "reason": EVICTED_REASON,
    }
