"""The durable store in Postgres, shared by all instances."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Self

import asyncpg

from sidegate.core.actor import SIDEGATE, Actor
from sidegate.core.change_log import ChangedSession
from sidegate.core.condition import Condition
from sidegate.core.digest import Digest
from sidegate.core.errors import LimitReached, PurgeInProgress, SessionExists
from sidegate.core.limits import EVICTED_REASON, Limit
from sidegate.core.protocols import Cursor, RotatedOut, Touch
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.stores.postgres.changes import PostgresChanges, select_changed
from sidegate.stores.postgres.database import PostgresDatabase
from sidegate.stores.sql.change_rows import decode_changed, decode_readable_changes
from sidegate.stores.sql.conditions import (
    POSTGRES,
    QueryBuilder,
    build_count_query,
    build_list_query,
    build_revocable_query,
)
from sidegate.stores.sql.retry_unknown import retry_create, retry_idempotent, retry_replace
from sidegate.stores.sql.rows import (
    ACTIVITY_COLUMNS,
    RECORD_COLUMNS,
    SESSION_COLUMNS,
    Row,
    decode_copies,
    decode_readable_sessions,
    decode_record,
    decode_rotated_out,
    encode_record,
    is_canonical,
)

# S608: all interpolated parts are column names and SQL of this package.
_SESSION_COLUMNS: Final = ", ".join((*SESSION_COLUMNS, POSTGRES.changed_xid))
_QUALIFIED_COLUMNS: Final = ", ".join(
    f"sessions.{column}" for column in (*SESSION_COLUMNS, POSTGRES.changed_xid)
)
_INSERTED_COLUMNS: Final = ", ".join(RECORD_COLUMNS)
_RECORD_COLUMNS: Final = f"{_INSERTED_COLUMNS}, {POSTGRES.changed_xid}"
_PLACEHOLDERS: Final = {column: f"${number}" for number, column in enumerate(RECORD_COLUMNS, 1)}
_CREATE: Final = (
    f"INSERT INTO sessions ({_INSERTED_COLUMNS}) VALUES ({', '.join(_PLACEHOLDERS.values())})"  # noqa: S608
)
# MATERIALIZED: the limit is enforced before the insert, which checks the result. A row of nulls
# means that the limit is reached.
_EVICTED: Final = (
    "evicted AS MATERIALIZED (SELECT * FROM sidegate_enforce_limit("  # noqa: S608
    f"{', '.join(f'${len(RECORD_COLUMNS) + number}' for number in range(1, 11))}))"
)
_CREATE_WITHIN_LIMIT: Final = (
    f"WITH {_EVICTED},"  # noqa: S608
    f" created AS (INSERT INTO sessions ({_INSERTED_COLUMNS})"
    f" SELECT {', '.join(_PLACEHOLDERS.values())}"
    f" WHERE NOT EXISTS (SELECT FROM evicted WHERE id IS NULL))"
    f" SELECT {select_changed('evicted')} FROM evicted"
)
# By the current digest, the previous one, or one that was rotated out earlier.
_FIND_BY_DIGEST: Final = (
    f"SELECT {_SESSION_COLUMNS}, NULL::bytea AS rotated_digest FROM sessions"  # noqa: S608
    " WHERE digest = ANY($1) OR previous_digest = ANY($1) UNION ALL"
    f" SELECT {_QUALIFIED_COLUMNS}, rotated.digest"
    " FROM rotated_digests AS rotated JOIN sessions ON sessions.id = rotated.session_id"
    " WHERE rotated.digest = ANY($1) AND rotated.digest <> sessions.previous_digest"
)
_GET: Final = f"SELECT {_RECORD_COLUMNS} FROM sessions WHERE id = $1"  # noqa: S608
_FIND_ROTATED_OUT: Final = "SELECT valid_until, nonce FROM rotated_digests WHERE digest = $1"
_FIND_BY_ANY_DIGEST: Final = (
    f"SELECT {_RECORD_COLUMNS} FROM sessions WHERE digest = $1 OR previous_digest = $1"  # noqa: S608
    " OR id = (SELECT session_id FROM rotated_digests WHERE digest = $1)"
)
_FIND_BY_IDEMPOTENCY_KEY: Final = (
    f"SELECT {_RECORD_COLUMNS} FROM sessions WHERE idempotency_key_hash = $1"  # noqa: S608
)
_CHANGED_AT: Final = f"{_PLACEHOLDERS['changed_at']}::timestamptz"
# Of what the caller computed from the time when it asked, these are later by the wait for the lock.
_SHIFTED_COLUMNS: Final = {
    "changed_at": "{0} + late",
    "revoked_at": "{0} + late",
    "previous_until": f"{{0}} + CASE WHEN {{0}} > {_CHANGED_AT} THEN late ELSE '0' END",
}


def _assign(column: str, placeholder: str) -> str:
    """Return the SQL that sets a column of a session that is replaced."""
    if column in ACTIVITY_COLUMNS:
        return f"{column} = greatest({column}, {placeholder})"
    shifted = _SHIFTED_COLUMNS.get(column)
    if shifted is not None:
        return f"{column} = {shifted.format(f'{placeholder}::timestamptz')}"
    return f"{column} = {placeholder}"


_ASSIGNMENTS: Final = ", ".join(
    _assign(column, placeholder) for column, placeholder in _PLACEHOLDERS.items() if column != "id"
)
# `{condition}` is part of the WHERE clause, `{expected}` the number of the argument.
_REPLACE_STEPS: Final = (
    "locked AS MATERIALIZED (SELECT id AS locked_id FROM sessions"  # noqa: S608
    " WHERE id = $1 AND version = ${expected}{condition} FOR UPDATE),"
    " timed AS MATERIALIZED"
    " (SELECT locked_id,"
    f" coalesce(sidegate_change_time({_CHANGED_AT}) - {_CHANGED_AT}, interval '0') AS late"
    " FROM locked),"
    f" replaced AS (UPDATE sessions SET {_ASSIGNMENTS}, changed_xid = pg_current_xact_id()"
    " FROM timed WHERE id = locked_id"
    f" RETURNING {_SESSION_COLUMNS}, rotation_nonce),"
    " rotated AS (INSERT INTO rotated_digests"
    " SELECT previous_digest, id, previous_until, rotation_nonce FROM replaced"
    " WHERE previous_digest IS NOT NULL ON CONFLICT DO NOTHING)"
)
_REPLACE: Final = (
    f"WITH {_REPLACE_STEPS.format(expected=len(RECORD_COLUMNS) + 1, condition='')}"  # noqa: S608
    f" SELECT {select_changed('replaced')} FROM replaced"
)
_BELOW_LIMIT: Final = " AND NOT EXISTS (SELECT FROM evicted WHERE id IS NULL)"
# The replaced session, and the evicted ones.
_REPLACE_WITHIN_LIMIT: Final = (
    f"WITH {_EVICTED},"  # noqa: S608
    f" {_REPLACE_STEPS.format(expected=len(RECORD_COLUMNS) + 10, condition=_BELOW_LIMIT)}"
    f" SELECT true AS is_replaced, {select_changed('replaced')} FROM replaced UNION ALL"
    f" SELECT false, {select_changed('evicted')} FROM evicted"
)
_TOUCH: Final = (
    "UPDATE sessions SET last_seen_at = greatest(last_seen_at, seen_at),"  # noqa: S608
    " access_count = access_count + touches,"
    " token_seen = token_seen OR coalesce(digest = seen_token, false)"
    " FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::bytea[])"
    " AS touch (session_id, seen_at, touches, seen_token)"
    " WHERE id = session_id AND revoked_at IS NULL AND expires_at > seen_at"
    f" RETURNING {_SESSION_COLUMNS}"
)
# One process at a time: the advisory lock is released with the statement.
_PURGE: Final = (
    "WITH lock AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($3) AS acquired),"
    " old AS (SELECT id FROM sessions, lock WHERE lock.acquired AND expires_at < $1"
    " ORDER BY expires_at LIMIT $2 FOR UPDATE OF sessions SKIP LOCKED),"
    " purged AS (DELETE FROM sessions USING old WHERE sessions.id = old.id RETURNING sessions.id)"
    " SELECT acquired, (SELECT count(*) FROM purged) AS number FROM lock"
)
# Any number that is used for no other advisory lock in this database.
PURGE_LOCK: Final = 0x5347_7075_7267_6500


class PostgresSessions(PostgresChanges):
    """Implements DurableStore. Opens without connecting, and recovers from outages by itself."""

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(database)
        self._database = database
        self._execute = database.execute

    @classmethod
    async def open(cls, dsn: str, *, pool_max: int = 8, prepared_statements: bool = True) -> Self:
        """Return the store at `dsn`, in a database of its own; see PostgresDatabase.open."""
        return cls(
            await PostgresDatabase.open(
                dsn, pool_max=pool_max, prepared_statements=prepared_statements
            )
        )

    async def check_schema(self) -> None:
        """See PostgresDatabase.check_schema."""
        await self._database.check_schema()

    async def find(self, digest: Digest) -> Session | None:
        return (await self.find_many((digest,))).get(digest)

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        return decode_copies(await self._execute_priority(_FIND_BY_DIGEST, digests), digests)

    async def create(
        self, record: SessionRecord, *, limit: Limit | None = None
    ) -> list[ChangedSession]:
        return await retry_create(lambda: self._create(record, limit), self.get, record=record)

    async def _create(self, record: SessionRecord, limit: Limit | None) -> list[ChangedSession]:
        values = encode_record(record).values()
        try:
            if limit is None:
                rows = await self._write(_CREATE, *values)
            else:
                arguments = _build_limit_arguments(record, limit, at=record.session.created_at)
                rows = await self._write(_CREATE_WITHIN_LIMIT, *values, *arguments, None, None)
        except asyncpg.UniqueViolationError:
            raise SessionExists(f"session {record.session.id} or its digest is taken") from None
        if limit is not None and rows and rows[0]["id"] is None:
            raise LimitReached(record.session.type, limit.max_sessions)
        return decode_readable_changes(rows)

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        if not is_canonical(session_id):
            return None
        rows = await self._execute(_GET, session_id)
        return decode_record(rows[0]) if rows else None

    async def find_by_idempotency_key(self, key_hash: bytes) -> SessionRecord | None:
        rows = await self._execute(_FIND_BY_IDEMPOTENCY_KEY, key_hash)
        return decode_record(rows[0]) if rows else None

    async def find_rotated_out(self, digest: Digest) -> RotatedOut | None:
        rows = await self._execute(_FIND_ROTATED_OUT, digest)
        return decode_rotated_out(rows[0]) if rows else None

    async def find_by_any_digest(self, digest: Digest) -> SessionRecord | None:
        rows = await self._execute(_FIND_BY_ANY_DIGEST, digest)
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
            POSTGRES, condition, limit=limit, after=after, state=state
        )
        return [decode_record(row) for row in await self._execute(query, *arguments)]

    async def count_where(self, condition: Condition, *, at: datetime) -> int:
        query, arguments = build_count_query(POSTGRES, condition, at=at)
        return int((await self._execute(query, *arguments))[0]["number"])

    async def replace(self, record: SessionRecord, *, expected: int) -> ChangedSession | None:
        values = (*encode_record(record).values(), expected)

        async def replace() -> list[ChangedSession] | None:
            rows = await self._replace(record, _REPLACE, *values)
            return [decode_changed(rows[0])] if rows else None

        changed = await retry_replace(replace, self.get, record=record)
        return None if changed is None else changed[0]

    async def replace_within_limit(
        self, record: SessionRecord, *, expected: int, limit: Limit, at: datetime
    ) -> list[ChangedSession] | None:
        arguments = _build_limit_arguments(record, limit, at=at)
        values = (*encode_record(record).values(), *arguments, record.session.id, expected)

        async def replace() -> list[ChangedSession] | None:
            rows = await self._replace(record, _REPLACE_WITHIN_LIMIT, *values)
            if any(row["id"] is None for row in rows):
                raise LimitReached(record.session.type, limit.max_sessions)
            ordered = sorted(rows, key=lambda row: not row["is_replaced"])
            is_replaced = ordered and ordered[0]["is_replaced"]
            return decode_readable_changes(ordered) if is_replaced else None

        return await retry_replace(replace, self.get, record=record)

    async def _replace(self, record: SessionRecord, query: str, *values: object) -> list[Row]:
        try:
            return await self._write(query, *values)
        except asyncpg.UniqueViolationError:
            raise SessionExists(f"the new digest of {record.session.id} is taken") from None

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
        builder = QueryBuilder(POSTGRES)
        # Locked as they are selected: a concurrent change comes before or after this one.
        selected = build_revocable_query(builder, condition, at=at, after=after, limit=limit)
        timestamp, actor, source, stated_reason = map(
            builder.bind, (at, by.name, by.source, reason)
        )
        revoked_at = f"{timestamp}::timestamptz"
        if not acknowledged:
            revoked_at = f"sidegate_change_time({revoked_at})"
        revoke = (
            f"WITH selected AS MATERIALIZED ({selected} FOR UPDATE),"  # noqa: S608
            f" timed AS MATERIALIZED (SELECT id AS locked_id, {revoked_at} AS ended_at"
            " FROM selected)"
            f" UPDATE sessions SET revoked_at = ended_at, revoked_by = {actor},"
            f" revoked_reason = {stated_reason}, changed_at = ended_at, changed_by = {actor},"
            f" changed_from = {source}, version = version + 1, changed_xid = pg_current_xact_id()"
            f" FROM timed WHERE sessions.id = locked_id RETURNING {select_changed('sessions')}"
        )
        while rows := await retry_idempotent(lambda: self._write(revoke, *builder.arguments)):
            if revoked := decode_readable_changes(rows):
                return sorted(revoked, key=lambda changed: changed.session.id)
        return []

    async def touch(self, touches: Sequence[Touch]) -> list[Session]:
        # In the same order everywhere: concurrent batches do not deadlock.
        ordered = sorted(touches, key=lambda touch: touch.id)
        rows = await self._execute(
            _TOUCH,
            [touch.id for touch in ordered],
            [touch.seen_at for touch in ordered],
            [touch.count for touch in ordered],
            [touch.token for touch in ordered],
        )
        return list(decode_readable_sessions(rows))

    async def purge(self, expired_before: datetime, *, limit: int) -> int:
        [row] = await self._execute(_PURGE, expired_before, limit, PURGE_LOCK)
        if not row["acquired"]:
            raise PurgeInProgress
        return int(row["number"])

    async def now(self) -> datetime:
        """Return the database's time."""
        now: datetime = (await self._execute_priority("SELECT sidegate_now() AS now"))[0]["now"]
        return now

    async def ping(self) -> None:
        await self._execute_priority("SELECT 1")

    async def close(self) -> None:
        await self._database.close()


def _build_limit_arguments(
    record: SessionRecord, limit: Limit, *, at: datetime
) -> tuple[object, ...]:
    return (
        record.session.user_id,
        record.session.type.value,
        record.details.tenant,
        limit.max_sessions,
        limit.at_limit.value,
        at,
        SIDEGATE.name,
        EVICTED_REASON,
    )
