"""Keep sessions in Postgres: the durable store of many instances."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Self

import asyncpg

from sidegate.core.actor import SIDEGATE, Actor
from sidegate.core.condition import Condition
from sidegate.core.errors import LimitReached, MarkLost, SessionExists
from sidegate.core.limits import EVICTED_REASON, Limit
from sidegate.core.protocols import Cursor, RotatedOut, Touch
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.token import Digest
from sidegate.stores.postgres.database import PostgresDatabase
from sidegate.stores.sql.conditions import POSTGRES, Asking, counting, listing, revocable
from sidegate.stores.sql.retry_unknown import created, made, replaced
from sidegate.stores.sql.rows import (
    COLUMNS,
    SEEN_COLUMNS,
    SESSION_COLUMNS,
    Row,
    answering,
    is_canonical,
    readable_sessions,
    record_of,
    rotated_out_of,
    values_of,
)

# ruff's S608 suspects every built statement: these are built from column names of this house only.
_SESSION: Final = ", ".join(SESSION_COLUMNS)
_ROW: Final = ", ".join(f"sessions.{column}" for column in SESSION_COLUMNS)
_RECORD: Final = ", ".join(COLUMNS)
_NUMBER: Final = {column: f"${number}" for number, column in enumerate(COLUMNS, 1)}
_CREATE: Final = f"INSERT INTO sessions ({_RECORD}) VALUES ({', '.join(_NUMBER.values())})"  # noqa: S608
# Made room for first, because the insertion asks what came of it: a row of nulls is a refusal.
_ROOM: Final = (
    "room AS MATERIALIZED (SELECT * FROM sidegate_make_room("  # noqa: S608
    f"{', '.join(f'${len(COLUMNS) + number}' for number in range(1, 11))}))"
)
_CREATE_WITHIN: Final = (
    f"WITH {_ROOM},"  # noqa: S608
    f" created AS (INSERT INTO sessions ({_RECORD}) SELECT {', '.join(_NUMBER.values())}"
    f" WHERE NOT EXISTS (SELECT FROM room WHERE id IS NULL)) SELECT {_SESSION} FROM room"
)
# The current digest, the previous one, or one rotated out before that.
_FIND: Final = (
    f"SELECT {_SESSION}, NULL::bytea AS rotated_digest FROM sessions"  # noqa: S608
    " WHERE digest = ANY($1) OR previous_digest = ANY($1) UNION ALL"
    f" SELECT {_ROW}, rotated.digest"
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
_SET: Final = ", ".join(
    f"{column} = greatest({column}, {number})" if column in SEEN_COLUMNS else f"{column} = {number}"
    for column, number in _NUMBER.items()
    if column != "id"
)
_REPLACED: Final = (
    "replaced AS (UPDATE sessions SET {set}, changed_xid = pg_current_xact_id()"
    " WHERE id = $1 AND version = ${expected}{room} RETURNING id, previous_digest,"
    " previous_until, rotation_nonce),"
    " remembered AS (INSERT INTO rotated_digests"
    " SELECT previous_digest, id, previous_until, rotation_nonce FROM replaced"
    " WHERE previous_digest IS NOT NULL ON CONFLICT DO NOTHING)"
)
_REPLACE: Final = (
    f"WITH {_REPLACED.format(set=_SET, expected=len(COLUMNS) + 1, room='')}"  # noqa: S608
    " SELECT id FROM replaced"
)
_IF_ROOM: Final = " AND NOT EXISTS (SELECT FROM room WHERE id IS NULL)"
# Always a row: whether it was replaced, whether it was refused, and who had to end for it.
_REPLACE_WITHIN: Final = (
    f"WITH {_ROOM}, {_REPLACED.format(set=_SET, expected=len(COLUMNS) + 10, room=_IF_ROOM)}"  # noqa: S608
    " SELECT EXISTS (SELECT FROM replaced) AS replaced,"
    " EXISTS (SELECT FROM room WHERE id IS NULL) AS refused,"
    f" {', '.join(f'room.{column}' for column in SESSION_COLUMNS)}"
    " FROM (VALUES (1)) AS always LEFT JOIN room ON true"
)
_TOUCH: Final = (
    "UPDATE sessions SET last_seen_at = greatest(last_seen_at, seen_at),"  # noqa: S608
    " access_count = access_count + times"
    " FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[]) AS touch (touched, seen_at, times)"
    " WHERE id = touched AND revoked_at IS NULL AND expires_at > seen_at"
    f" RETURNING {_SESSION}"
)
_GENERATION: Final = "SELECT max(number) AS number FROM hot_generation"
# The time, not merely the next number: a replica that takes over may not know of the last ones, and
# what was kept under those must not be believed when it has counted as far.
_NEXT_GENERATION: Final = (
    "UPDATE hot_generation SET number ="
    " greatest(number + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
    " WHERE number = $1 RETURNING number"
)
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
# bound, here and below, matters after a restore into a younger cluster: its rows carry numbers
# from the future.
_CHANGED: Final = (
    f"SELECT present::text AS seen, {_SESSION} FROM pg_current_snapshot() AS present"  # noqa: S608
    " LEFT JOIN sessions ON changed_xid >= pg_snapshot_xmin($1::text::pg_snapshot)"
    " AND changed_xid < pg_snapshot_xmax(present)"
    " AND NOT pg_visible_in_snapshot(changed_xid, $1::text::pg_snapshot)"
)
_LAST_CHANGED: Final = (
    f"SELECT {_SESSION} FROM sessions"  # noqa: S608
    " WHERE changed_xid < pg_snapshot_xmax(pg_current_snapshot())"
    " ORDER BY changed_xid DESC LIMIT $1"
)


class PostgresSessions:
    """A DurableStore. It needs no database to be opened, and recovers by itself."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._ask = database.ask
        self._ask_at_once = database.ask_at_once
        self._change = database.change

    @classmethod
    async def open(cls, dsn: str, *, pool_max: int = 8, prepared_statements: bool = True) -> Self:
        """Return the store at `dsn`, in a database of its own; see PostgresDatabase.open."""
        return cls(
            await PostgresDatabase.open(
                dsn, pool_max=pool_max, prepared_statements=prepared_statements
            )
        )

    async def check_schema(self) -> None:
        """See PostgresDatabase."""
        await self._database.check_schema()

    async def find(self, digest: Digest) -> Session | None:
        return (await self.find_many((digest,))).get(digest)

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        return answering(await self._ask_at_once(_FIND, digests), digests)

    async def create(self, record: SessionRecord, *, limit: Limit | None = None) -> list[Session]:
        return await created(lambda: self._create(record, limit), self.get, record)

    async def _create(self, record: SessionRecord, limit: Limit | None) -> list[Session]:
        values = values_of(record).values()
        try:
            if limit is None:
                rows = await self._change(_CREATE, *values)
            else:
                room = _room(record, limit, record.session.created_at)
                rows = await self._change(_CREATE_WITHIN, *values, *room, None, None)
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

    async def find_by_idempotency_key(self, claim: bytes) -> SessionRecord | None:
        rows = await self._ask(_CLAIMED, claim)
        return record_of(rows[0]) if rows else None

    async def rotated_out(self, digest: Digest) -> RotatedOut | None:
        rows = await self._ask(_ROTATED_OUT, digest)
        return rotated_out_of(rows[0]) if rows else None

    async def find_by_any_digest(self, digest: Digest) -> SessionRecord | None:
        rows = await self._ask(_OWNER, digest)
        return record_of(rows[0]) if rows else None

    async def list_where(
        self,
        condition: Condition,
        *,
        limit: int,
        after: Cursor | None = None,
        state: tuple[SessionState, datetime] | None = None,
    ) -> list[SessionRecord]:
        query, arguments = listing(POSTGRES, condition, limit=limit, after=after, state=state)
        return [record_of(row) for row in await self._ask(query, *arguments)]

    async def count_where(self, condition: Condition, *, at: datetime) -> int:
        query, arguments = counting(POSTGRES, condition, at)
        return int((await self._ask(query, *arguments))[0]["number"])

    async def replace(self, record: SessionRecord, *, expected: int) -> bool:
        values = (*values_of(record).values(), expected)

        async def replace() -> list[Session] | None:
            return [] if await self._replace(record, _REPLACE, *values) else None

        return await replaced(replace, self.get, record) is not None

    async def replace_within(
        self, record: SessionRecord, *, expected: int, limit: Limit, at: datetime
    ) -> list[Session] | None:
        room = _room(record, limit, at)
        values = (*values_of(record).values(), *room, record.session.id, expected)

        async def replace() -> list[Session] | None:
            rows = await self._replace(record, _REPLACE_WITHIN, *values)
            if rows[0]["refused"]:
                raise LimitReached(record.session.type, limit.most)
            evicted = (row for row in rows if row["id"] is not None)
            return list(readable_sessions(evicted)) if rows[0]["replaced"] else None

        return await replaced(replace, self.get, record)

    async def _replace(self, record: SessionRecord, query: str, *values: object) -> list[Row]:
        try:
            return await self._change(query, *values)
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
    ) -> list[Session]:
        asking = Asking(POSTGRES)
        # Locked as they are chosen: whoever changes one meanwhile changes it before or after.
        doomed = revocable(asking, condition, at=at, after=after, limit=limit)
        moment, name, source, why = map(asking.mark, (at, by.name, by.source, reason))
        revoke = (
            f"WITH doomed AS MATERIALIZED ({doomed} FOR UPDATE)"  # noqa: S608
            f" UPDATE sessions SET revoked_at = {moment}, revoked_by = {name},"
            f" revoked_reason = {why}, changed_at = {moment}, changed_by = {name},"
            f" changed_from = {source}, version = version + 1, changed_xid = pg_current_xact_id()"
            f" FROM doomed WHERE sessions.id = doomed.id RETURNING {_ROW}"
        )
        while rows := await made(lambda: self._change(revoke, *asking.arguments)):
            tombstones = sorted(readable_sessions(rows), key=lambda tombstone: tombstone.id)
            if tombstones:
                return tombstones
        return []

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
        return int((await self._ask_at_once(_GENERATION))[0]["number"])

    async def next_generation(self, after: int) -> int:
        rows = await self._ask_at_once(_NEXT_GENERATION, after)
        return int(rows[0]["number"]) if rows else await self.generation()

    async def purge(self, expired_before: datetime, *, limit: int) -> int:
        return len(await self._ask(_PURGE, expired_before, limit, _PURGE_LOCK))

    async def changed_since(self, mark: int) -> tuple[int, list[Session]]:
        """See the protocol. A mark spells a snapshot: what that one saw is not told again."""
        if mark == 0:
            rows = await self._ask_at_once(_NOW)
            return _mark(rows[0]["seen"]), []
        rows = await self._ask_at_once(_CHANGED, _snapshot(mark))
        if _end(rows[0]["seen"]) < _end(_snapshot(mark)):
            raise MarkLost("its transactions are counted from an earlier number")
        changed = (row for row in rows if row["id"] is not None)
        return _mark(rows[0]["seen"]), list(readable_sessions(changed))

    async def last_changed(self, most: int) -> list[Session]:
        return list(readable_sessions(await self._ask_at_once(_LAST_CHANGED, most)))

    async def now(self) -> datetime:
        """Return the database's time."""
        moment: datetime = (await self._ask_at_once("SELECT clock_timestamp() AS now"))[0]["now"]
        return moment

    async def ping(self) -> None:
        await self._ask_at_once("SELECT 1")

    async def close(self) -> None:
        await self._database.close()


def _room(record: SessionRecord, limit: Limit, at: datetime) -> tuple[object, ...]:
    return (
        record.session.user_id,
        record.session.type.value,
        record.details.tenant,
        limit.most,
        limit.at_limit.value,
        at,
        SIDEGATE.name,
        EVICTED_REASON,
    )


def _mark(snapshot: str) -> int:
    return int.from_bytes(snapshot.encode("ascii"))


def _end(snapshot: str) -> int:
    """Return the first transaction number that a snapshot does not see: it only ever grows."""
    return int(snapshot.split(":")[1])


def _snapshot(mark: int) -> str:
    return mark.to_bytes((mark.bit_length() + 7) // 8).decode("ascii")
