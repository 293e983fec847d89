"""The stores of the simulated database as one process sees them, over its own connection."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, TypeVar

from sidegate.core.actor import Actor
from sidegate.core.change_log import ChangeCursor, ChangedSession, ChangePage, Mark
from sidegate.core.condition import Condition
from sidegate.core.digest import Digest
from sidegate.core.errors import OutcomeUnknown, StoreUnavailable
from sidegate.core.limits import Limit
from sidegate.core.lock import Contended, Hold, LeaseDigest
from sidegate.core.protocols import Cursor, RotatedOut, Touch
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.stores.sql.change_rows import select_tombstones
from sidegate.stores.sql.retry_unknown import retry_create, retry_idempotent, retry_replace
from sidegate.stores.sql.rows import encode_record, is_canonical
from tests.simulation.database import ServerLost, SimulatedDatabase
from tests.simulation.event_loop import Process

_T = TypeVar("_T")

_STORE: Final = "postgres"
_DIGEST_SIZE: Final = 32


class DatabaseLink:
    """The way of one process to the database. Without a `process`, statements run at once.

    `lose_replies` is the share of writes whose connection is lost after the commit.
    """

    def __init__(
        self,
        database: SimulatedDatabase,
        *,
        process: Process | None = None,
        random: Random | None = None,
    ) -> None:
        self.database = database
        self._process = process
        self._random = random or Random(0)
        self.is_cut = False
        self.lose_replies = 0.0
        self.extra_delay = 0.0
        self.slow_touches = 0.0
        self._silent_until = 0.0
        self._waiting: list[asyncio.Future[object]] = []

    def silence(self, until: float) -> None:
        """Let nothing arrive before a time of the loop."""
        self._silent_until = max(self._silent_until, until)

    def reset(self) -> None:
        """Lose all connections, with the statements in progress."""
        waiting, self._waiting = self._waiting, []
        for reply in waiting:
            if not reply.done():
                reply.set_exception(ServerLost())

    async def run(
        self, statement: Callable[[], Awaitable[_T]], *, is_write: bool = False, extra: float = 0.0
    ) -> _T:
        """Run a statement on the server, and return its result."""
        if self._process is None:
            return await self._run_at_once(statement)
        if self.is_cut or not self.database.is_up:
            await asyncio.sleep(self._draw_delay())
            raise StoreUnavailable(_STORE, "refused by the simulated network")
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[object] = loop.create_future()
        self._waiting.append(reply)
        running = self._process.spawn(self._serve(statement, reply, is_write=is_write, extra=extra))
        try:
            result: _T = await reply  # type: ignore[assignment]  # that of the statement
        except ServerLost:
            kind = OutcomeUnknown if is_write else StoreUnavailable
            raise kind(_STORE, "lost by the simulated network") from None
        except asyncio.CancelledError:
            self._cancel_later(running)
            raise
        finally:
            if reply in self._waiting:
                self._waiting.remove(reply)
        return result

    async def _run_at_once(self, statement: Callable[[], Awaitable[_T]]) -> _T:
        if self.is_cut:
            raise StoreUnavailable(_STORE, "stopped by the test")
        await asyncio.sleep(0)  # others run meanwhile, as during a round trip
        return await statement()

    async def _serve(
        self,
        statement: Callable[[], Awaitable[_T]],
        reply: "asyncio.Future[object]",
        *,
        is_write: bool,
        extra: float,
    ) -> None:
        await self._travel()
        outcome: object
        error: Exception | None = None
        try:
            if not self.database.is_up:
                raise ServerLost
            outcome = await statement()
        except Exception as failure:  # noqa: BLE001 - the client gets it
            outcome, error = None, failure
        if is_write and error is None and self._random.random() < self.lose_replies:
            error = ServerLost()
        await asyncio.sleep(extra)
        await self._travel()
        if reply.done():
            return
        if error is None:
            reply.set_result(outcome)
        else:
            reply.set_exception(error)

    async def _travel(self) -> None:
        await asyncio.sleep(self._draw_delay())
        now = asyncio.get_running_loop().time()
        if now < self._silent_until:
            await asyncio.sleep(self._silent_until - now)

    def _draw_delay(self) -> float:
        return self._random.uniform(0.0001, 0.0008) + self.extra_delay

    def _cancel_later(self, running: "asyncio.Task[None]") -> None:
        """Ask the server to cancel the statement, which may be done by then, or not be heard."""
        if self._process is not None and self._random.random() < 0.8:
            self._process.call_later(self._draw_delay(), running.cancel)


class SimulatedSessions:
    """Implements DurableStore."""

    def __init__(self, link: DatabaseLink) -> None:
        self._link = link
        self._database = link.database
        self._is_closed = False

    async def _run(self, statement: Callable[[], Awaitable[_T]], **how: Any) -> _T:
        if self._is_closed:
            raise StoreUnavailable(_STORE, "closed")
        return await self._link.run(statement, **how)

    async def _read(self, question: Callable[[], _T]) -> _T:
        async def statement() -> _T:
            return question()

        return await self._run(statement)

    async def _write(self, statement: Callable[[], Awaitable[_T]]) -> _T:
        return await self._run(statement, is_write=True)

    async def find(self, digest: Digest) -> Session | None:
        return (await self.find_many((digest,))).get(digest)

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        found = await self._read(lambda: [self._database.tables.find(each) for each in digests])
        return {copy.digest: copy for copy in found if copy is not None}

    async def create(
        self, record: SessionRecord, *, limit: Limit | None = None
    ) -> list[ChangedSession]:
        _require_storable(record)
        return await retry_create(
            lambda: self._write(lambda: self._database.create(record, limit)),
            self.get,
            record=record,
        )

    async def find_by_idempotency_key(self, key_hash: bytes) -> SessionRecord | None:
        def find() -> SessionRecord | None:
            tables = self._database.tables
            session_id = tables.keys.get(key_hash)
            return None if session_id is None else tables.sessions[session_id]

        return await self._read(find)

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        if not is_canonical(session_id):
            return None
        return await self._read(lambda: self._database.tables.sessions.get(session_id))

    async def find_rotated_out(self, digest: Digest) -> RotatedOut | None:
        def find() -> RotatedOut | None:
            rotated = self._database.tables.rotated.get(digest)
            return None if rotated is None else rotated.out

        return await self._read(find)

    async def find_by_any_digest(self, digest: Digest) -> SessionRecord | None:
        return await self._read(lambda: self._database.tables.find_record(digest))

    async def list_where(
        self,
        condition: Condition,
        *,
        limit: int,
        after: Cursor | None = None,
        state: tuple[SessionState, datetime] | None = None,
    ) -> list[SessionRecord]:
        return await self._read(
            lambda: self._database.tables.list_page(condition, after=after, state=state)[:limit]
        )

    async def count_where(self, condition: Condition, *, at: datetime) -> int:
        return await self._read(lambda: len(self._database.tables.select_revocable(condition, at)))

    async def replace(self, record: SessionRecord, *, expected: int) -> ChangedSession | None:
        _require_storable(record)

        async def replace_() -> list[ChangedSession] | None:
            changed = await self._write(lambda: self._database.replace(record, expected))
            return None if changed is None else [changed]

        changed = await retry_replace(replace_, self.get, record=record)
        return None if changed is None else changed[0]

    async def replace_within_limit(
        self, record: SessionRecord, *, expected: int, limit: Limit, at: datetime
    ) -> list[ChangedSession] | None:
        _require_storable(record)
        return await retry_replace(
            lambda: self._write(
                lambda: self._database.replace_within_limit(record, expected, limit=limit, at=at)
            ),
            self.get,
            record=record,
        )

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
        return await retry_idempotent(
            lambda: self._write(
                lambda: self._database.revoke_where(
                    condition,
                    at=at,
                    by=by,
                    reason=reason,
                    limit=limit,
                    after=after,
                    acknowledged=acknowledged,
                )
            )
        )

    async def touch(self, touches: Sequence[Touch]) -> list[Session]:
        extra = self._link.slow_touches
        return await self._run(lambda: self._database.touch(touches), extra=extra)

    async def purge(self, expired_before: datetime, *, limit: int) -> int:
        return await self._run(lambda: self._database.purge(expired_before, limit))

    async def read_position(self) -> Mark:
        return await self._read(self._database.read_position)

    async def list_changes(
        self,
        since: Mark,
        *,
        limit: int,
        after: ChangeCursor | None = None,
        created: bool = False,
        store_mark: bool = False,
    ) -> ChangePage:
        return await self._run(
            lambda: self._database.list_changes(
                since, limit=limit, after=after, created=created, store_mark=store_mark
            )
        )

    async def add_mark(self) -> Mark:
        return await self._run(self._database.add_mark)

    async def revoke_again(self, tombstones: Sequence[Session]) -> list[ChangedSession]:
        changed: list[ChangedSession] = []
        for batch in select_tombstones(tombstones):
            changed += await self._revoke_again(batch)
        return changed

    async def _revoke_again(self, batch: Sequence[Session]) -> list[ChangedSession]:
        return await retry_idempotent(
            lambda: self._write(lambda: self._database.revoke_again(batch))
        )

    async def now(self) -> datetime:
        """Return the database's time."""
        return await self._read(self._database.now)

    async def ping(self) -> None:
        await self._read(lambda: None)

    async def close(self) -> None:
        self._is_closed = True


class SimulatedLocks:
    """Implements SessionLocks."""

    def __init__(self, link: DatabaseLink) -> None:
        self._link = link
        self._database = link.database

    async def acquire(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta, holder: str | None
    ) -> Hold | Contended | None:
        return await self._link.run(
            lambda: self._database.acquire_lock(session_id, lease, ttl=ttl, holder=holder)
        )

    async def renew(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta
    ) -> Hold | None:
        return await self._link.run(lambda: self._database.renew_lock(session_id, lease, ttl=ttl))

    async def release(self, session_id: SessionId, lease: LeaseDigest) -> bool:
        return await self._link.run(lambda: self._database.release_lock(session_id, lease))


def _require_storable(record: SessionRecord) -> None:
    """Raise ValueError for what no database stores."""
    session = record.session
    encode_record(record)
    session.user_id.encode()
    if not (
        session.version > 0
        and len(session.digest) == _DIGEST_SIZE
        and session.expires_at > session.created_at
        and (session.idle_timeout is None or session.idle_timeout.total_seconds() > 0)
    ):
        raise ValueError("the database rejects a value")
