"""Keep sessions in Postgres: the durable store of many instances."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self, cast

import asyncpg

from proxy.core.errors import LimitReached, SchemaMismatch, SessionExists, StoreUnavailable
from proxy.core.limits import EVICTED_BY, EVICTED_REASON, Limit
from proxy.core.protocols import Condition, Cursor, RotatedOut, Touch
from proxy.core.session import Session, SessionId, SessionRecord
from proxy.core.token import Digest
from proxy.stores.migrate import lacking
from proxy.stores.postgres_connection import Connector, primary, understood
from proxy.stores.rows import (
    BEYOND_ALL,
    COLUMNS,
    SEEN_COLUMNS,
    SESSION_COLUMNS,
    Row,
    answering,
    canonical,
    is_canonical,
    readable_sessions,
    record_of,
    rotated_out_of,
    values_of,
)

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    # Generic in the stubs only.
    _Connection = PoolConnectionProxy[asyncpg.Record]

# A deadlock or a failed serialization undid one side: the other went on, so this one may follow.
_ATTEMPTS: Final = 3
# How long the server has to confirm that it dropped a query nobody waits for any more.
_CANCELLING_SECONDS: Final = 1.0
_CLOSING_SECONDS: Final = 2.0

# ruff's S608 suspects every built statement: these are built from column names of this house only.
_SESSION: Final = ", ".join(SESSION_COLUMNS)
_RECORD: Final = ", ".join(COLUMNS)
_NUMBER: Final = {column: f"${number}" for number, column in enumerate(COLUMNS, 1)}
# The complement of Session.ended: $1 is the moment.
_LIVING: Final = (
    "revoked_at IS NULL AND expires_at > $1 AND (idle_timeout IS NULL"
    " OR last_seen_at + idle_timeout * interval '1 microsecond' > $1)"
)
_CREATE: Final = f"INSERT INTO sessions ({_RECORD}) VALUES ({', '.join(_NUMBER.values())})"  # noqa: S608
# Made room for first, because the insertion asks what came of it: a row of nulls is a refusal.
_CREATE_WITHIN: Final = (
    "WITH room AS MATERIALIZED (SELECT * FROM sidegate_make_room("  # noqa: S608
    f"{', '.join(f'${len(COLUMNS) + number}' for number in range(1, 8))})),"
    f" created AS (INSERT INTO sessions ({_RECORD}) SELECT {', '.join(_NUMBER.values())}"
    f" WHERE NOT EXISTS (SELECT FROM room WHERE id IS NULL)) SELECT {_SESSION} FROM room"
)
# The current digest, the previous one, or one rotated out before that.
_FIND: Final = (
    f"SELECT {_SESSION}, NULL::bytea AS rotated_digest FROM sessions"  # noqa: S608
    " WHERE digest = ANY($1) OR previous_digest = ANY($1) UNION ALL"
    f" SELECT {', '.join(f'sessions.{column}' for column in SESSION_COLUMNS)}, rotated.digest"
    " FROM rotated_digests AS rotated JOIN sessions ON sessions.id = rotated.session_id"
    " WHERE rotated.digest = ANY($1) AND rotated.digest <> sessions.previous_digest"
)
_GET: Final = f"SELECT {_RECORD} FROM sessions WHERE id = $1"  # noqa: S608
_ROTATED_OUT: Final = "SELECT until, nonce FROM rotated_digests WHERE digest = $1"
_OWNER: Final = (
    f"SELECT {_RECORD} FROM sessions WHERE digest = $1 OR previous_digest = $1"  # noqa: S608
    " OR id = (SELECT session_id FROM rotated_digests WHERE digest = $1)"
)
_CLAIMED: Final = f"SELECT {_RECORD} FROM sessions WHERE claim = $1"  # noqa: S608
_LIST: Final = (
    f"SELECT {_RECORD} FROM sessions WHERE user_id = $2 AND (created_at, id) < ($3, $4)"  # noqa: S608
    f" AND ($1::timestamptz IS NULL OR {_LIVING}) ORDER BY created_at DESC, id DESC LIMIT $5"
)
_SET: Final = ", ".join(
    f"{column} = greatest({column}, {number})" if column in SEEN_COLUMNS else f"{column} = {number}"
    for column, number in _NUMBER.items()
    if column != "id"
)
_REPLACE: Final = (
    f"WITH replaced AS (UPDATE sessions SET {_SET}, changed_xid = pg_current_xact_id()"  # noqa: S608
    f" WHERE id = $1 AND version = ${len(COLUMNS) + 1} RETURNING id, previous_digest,"
    " previous_until, rotation_nonce),"
    " remembered AS (INSERT INTO rotated_digests"
    " SELECT previous_digest, id, previous_until, rotation_nonce FROM replaced"
    " WHERE previous_digest IS NOT NULL ON CONFLICT DO NOTHING) SELECT id FROM replaced"
)
_REVOKE: Final = (
    "UPDATE sessions SET revoked_at = $1, revoked_by = $2, revoked_reason = $3,"  # noqa: S608
    " version = version + 1, changed_xid = pg_current_xact_id()"
    " WHERE ($4::text IS NULL OR user_id = $4) AND ($5::text IS NULL OR type = $5)"
    " AND ($6::uuid IS NULL OR id <> $6) AND ($7::uuid IS NULL OR id = $7)"
    f" AND revoked_at IS NULL AND expires_at > $1 RETURNING {_SESSION}"
)
_TOUCH: Final = (
    "UPDATE sessions SET last_seen_at = greatest(last_seen_at, seen_at),"  # noqa: S608
    " access_count = access_count + times"
    " FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[]) AS touch (touched, seen_at, times)"
    " WHERE id = touched AND revoked_at IS NULL AND expires_at > seen_at"
    f" RETURNING {_SESSION}"
)
_GENERATION: Final = "SELECT max(number) AS number FROM hot_generation"
_NEXT_GENERATION: Final = "UPDATE hot_generation SET number = number + 1 RETURNING number"
# One instance at a time; the lock ends with the statement.
_PURGE: Final = (
    "WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($3) AS ours),"
    " old AS (SELECT id FROM sessions, turn WHERE turn.ours AND expires_at < $1"
    " ORDER BY expires_at LIMIT $2 FOR UPDATE OF sessions SKIP LOCKED)"
    " DELETE FROM sessions USING old WHERE sessions.id = old.id RETURNING sessions.id"
)
# Any number that nobody else takes in this database.
_PURGE_LOCK: Final = 0x5347_7075_7267_6500
_NOW: Final = "SELECT pg_current_snapshot()::text AS seen"
# What the snapshot $1 did not see and the present one, which becomes the next mark, does. The upper
# bound matters after a restore into a younger cluster: its rows carry numbers from the future.
_CHANGED: Final = (
    f"SELECT present::text AS seen, {_SESSION} FROM pg_current_snapshot() AS present"  # noqa: S608
    " LEFT JOIN sessions ON changed_xid >= pg_snapshot_xmin($1::text::pg_snapshot)"
    " AND changed_xid < pg_snapshot_xmax(present)"
    " AND NOT pg_visible_in_snapshot(changed_xid, $1::text::pg_snapshot)"
)


class PostgresStore:
    """A DurableStore. It needs no database to be opened, and recovers by itself."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", connector: Connector) -> None:
        self._pool = pool
        self._connector = connector
        # Look-ups have half of the connections to themselves: what waits for a lock must not keep
        # everybody from being checked.
        self._others = asyncio.Semaphore(max(1, pool.get_max_size() // 2))
        self._schema_fits = False
        self._returning: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, dsn: str, *, pool_max: int = 8, prepared_statements: bool = True) -> Self:
        """Return the store at `dsn`, without waiting for it.

        `prepared_statements=False` suits a pooler that hands each transaction another connection.
        """
        connector = Connector()
        pool = asyncpg.create_pool(
            dsn,
            connect=connector,
            min_size=0,
            max_size=pool_max,
            reset=_leave_as_it_is,
            **primary(prepared_statements=prepared_statements),
        )
        return cls(await pool, connector)

    async def check_schema(self) -> None:
        """Return when the tables fit this program. SchemaMismatch: they are older or newer.

        StoreUnavailable: nobody knows yet. ValueError: the DSN cannot be understood.

        Every call checks it until it was true once: what runs may go on while a newer instance,
        which migrates, takes over.
        """
        with understood():
            async with self._borrowed() as connection:
                await self._check(connection)

    async def find(self, digest: Digest) -> Session | None:
        return (await self.find_many((digest,))).get(digest)

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        return answering(await self._ask_at_once(_FIND, digests), digests)

    async def create(self, record: SessionRecord, *, limit: Limit | None = None) -> list[Session]:
        values = values_of(record).values()
        try:
            if limit is None:
                rows = await self._ask(_CREATE, *values)
            else:
                rows = await self._ask(_CREATE_WITHIN, *values, *_room(record.session, limit))
        except asyncpg.UniqueViolationError:
            raise SessionExists(f"session {record.session.id} or its digest is taken") from None
        if limit is not None and rows and rows[0]["id"] is None:
            raise LimitReached(record.session.type, limit.most)
        return list(readable_sessions(rows))

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        if not is_canonical(session_id):
            return None
        rows = await self._ask(_GET, session_id)
        return record_of(rows[0]) if rows else None

    async def claimed(self, claim: bytes) -> SessionRecord | None:
        rows = await self._ask(_CLAIMED, claim)
        return record_of(rows[0]) if rows else None

    async def rotated_out(self, digest: Digest) -> RotatedOut | None:
        rows = await self._ask(_ROTATED_OUT, digest)
        return rotated_out_of(rows[0]) if rows else None

    async def owner(self, digest: Digest) -> SessionRecord | None:
        rows = await self._ask(_OWNER, digest)
        return record_of(rows[0]) if rows else None

    async def list_for_user(
        self,
        user_id: str,
        *,
        limit: int,
        after: Cursor | None = None,
        living_at: datetime | None = None,
    ) -> list[SessionRecord]:
        begin = after or BEYOND_ALL
        rows = await self._ask(_LIST, living_at, user_id, begin.created_at, begin.id, limit)
        return [record_of(row) for row in rows]

    async def replace(self, record: SessionRecord, *, expected: int) -> bool:
        try:
            return bool(await self._ask(_REPLACE, *values_of(record).values(), expected))
        except asyncpg.UniqueViolationError:
            raise SessionExists(f"the new digest of {record.session.id} is taken") from None

    async def revoke_where(
        self, condition: Condition, *, at: datetime, by: str, reason: str
    ) -> list[Session]:
        spared = None if condition.except_id is None else canonical(condition.except_id)
        only = None if condition.session_id is None else canonical(condition.session_id)
        rows = await self._ask(
            _REVOKE, at, by, reason, condition.user_id, condition.type, spared, only
        )
        return list(readable_sessions(rows))

    async def touch(self, touches: Sequence[Touch]) -> list[Session]:
        # In one order everywhere: two batches that meet do not wait for each other crosswise.
        ordered = sorted(touches, key=lambda touch: touch.id)
        rows = await self._ask(
            _TOUCH,
            [touch.id for touch in ordered],
            [touch.seen_at for touch in ordered],
            [touch.times for touch in ordered],
        )
        return list(readable_sessions(rows))

    async def generation(self) -> int:
        return int((await self._ask(_GENERATION))[0]["number"])

    async def next_generation(self) -> int:
        return int((await self._ask(_NEXT_GENERATION))[0]["number"])

    async def purge(self, expired_before: datetime, *, limit: int) -> int:
        return len(await self._ask(_PURGE, expired_before, limit, _PURGE_LOCK))

    async def changed_since(self, mark: int) -> tuple[int, list[Session]]:
        """See the protocol. A mark spells a snapshot: what that one saw is not told again."""
        if mark == 0:
            rows = await self._ask(_NOW)
            return _mark(rows[0]["seen"]), []
        rows = await self._ask(_CHANGED, _snapshot(mark))
        changed = (row for row in rows if row["id"] is not None)
        return _mark(rows[0]["seen"]), list(readable_sessions(changed))

    async def ping(self) -> None:
        await self._ask("SELECT 1")

    async def close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSING_SECONDS):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()
        await asyncio.gather(self._connector.close(), *self._returning)

    async def _ask(self, query: str, *arguments: object) -> list[Row]:
        """Run one statement, which is its own transaction. An error leaves open if it happened."""
        async with self._others:
            return await self._ask_at_once(query, *arguments)

    async def _ask_at_once(self, query: str, *arguments: object) -> list[Row]:
        with understood():
            for _ in range(_ATTEMPTS - 1):
                with suppress(asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                    return await self._ask_once(query, *arguments)
            return await self._ask_once(query, *arguments)

    async def _ask_once(self, query: str, *arguments: object) -> list[Row]:
        async with self._borrowed() as connection:
            if not self._schema_fits:
                await self._insist_on_schema(connection)
            # A Record is a mapping in all but name.
            return cast("list[Row]", await connection.fetch(query, *arguments))

    async def _insist_on_schema(self, connection: "_Connection") -> None:
        try:
            await self._check(connection)
        except SchemaMismatch as mismatch:
            raise StoreUnavailable("postgres", str(mismatch)) from mismatch

    async def _check(self, connection: "_Connection") -> None:
        missing = await lacking(connection)
        if missing:
            raise SchemaMismatch(f"the database lacks {', '.join(missing)}: run `sidegate migrate`")
        self._schema_fits = True

    @asynccontextmanager
    async def _borrowed(self) -> "AsyncIterator[_Connection]":
        connection = await self._pool.acquire()
        try:
            yield connection
        except asyncio.CancelledError:
            # The server is asked to drop the query, and that can last as long as what we gave up
            # waiting for: the connection finds its way back without us.
            task = asyncio.create_task(self._return_cancelled(connection))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)
            raise
        except Exception:
            await self._pool.release(connection)
            raise
        else:
            await self._pool.release(connection)

    async def _return_cancelled(self, connection: "_Connection") -> None:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self._pool.release(connection, timeout=_CANCELLING_SECONDS)


async def _leave_as_it_is(_: "asyncpg.Connection[Any]") -> None:
    """Skip the reset between two borrowers, one round trip: we keep no state in a connection."""


def _room(session: Session, limit: Limit) -> tuple[object, ...]:
    return (
        session.user_id,
        session.type.value,
        limit.most,
        limit.at_limit.value,
        session.created_at,
        EVICTED_BY,
        EVICTED_REASON,
    )


def _mark(snapshot: str) -> int:
    return int.from_bytes(snapshot.encode("ascii"))


def _snapshot(mark: int) -> str:
    return mark.to_bytes((mark.bit_length() + 7) // 8).decode("ascii")
