"""A database in memory: statements as transactions, with snapshots, row locks and slow commits.

It does what the statements of stores/postgres do, at READ COMMITTED. The SQL itself is not part of
it: the contract suites, which it passes like the real databases, say that both mean the same.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final
from uuid import UUID

from sidegate.core.actor import SIDEGATE, Actor, Change
from sidegate.core.change_log import ChangeCursor, ChangedSession, ChangePage, Mark
from sidegate.core.condition import Condition
from sidegate.core.errors import (
    LimitReached,
    PurgeInProgress,
    SessionExists,
    TooManyChanges,
)
from sidegate.core.limits import EVICTED_REASON, AtLimit, Limit
from sidegate.core.lock import Contended, Hold, LeaseDigest
from sidegate.core.protocols import Touch
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.snapshot import Snapshot
from sidegate.stores.sql.change_rows import (
    MAX_CHANGES,
    MAX_MARKS,
    RESTORED_REASON,
    build_position_lost,
    compute_survivors_end,
    is_lost,
)
from sidegate.stores.sql.rows import is_canonical
from tests.simulation.database_state import (
    LockRow,
    StoredMark,
    Tables,
    is_revocable,
    order_by_surplus,
    state_of,
)
from tests.support.replace import replace

_VERSION_7: Final = 0x7 << 76
_VARIANT: Final = 0x2 << 62


class ServerLost(Exception):
    """The server has stopped, or was replaced, while a statement was running."""


class Transaction:
    """One statement that changes something: its number, and the locks that it holds."""

    def __init__(self, database: "SimulatedDatabase") -> None:
        self._database = database
        self._epoch = database.epoch
        self._held: list[object] = []
        self.changes: list[Callable[[Tables], None]] = []
        self._xid: int | None = None

    @property
    def xid(self) -> int:
        """The number, which is assigned when it is first needed."""
        self.require_server()
        if self._xid is None:
            tables = self._database.tables
            self._xid = tables.next_xid
            tables.next_xid += 1
            self._database.in_progress[self._xid] = None
        return self._xid

    def require_server(self) -> None:
        if self._epoch != self._database.epoch or not self._database.is_up:
            raise ServerLost

    async def lock(self, row: object) -> None:
        """Wait for the lock on a row, until the end of the transaction."""
        if row in self._held:
            return
        await self._database.acquire(row)
        self._held.append(row)
        self.require_server()

    def put(self, record: SessionRecord) -> None:
        xid = self.xid
        self.changes.append(lambda tables: tables.put(record, xid=xid))

    def update(self, record: SessionRecord) -> None:
        """Change a session without a change of it in the change log, as a touch does."""
        self.changes.append(lambda tables: tables.put(record, xid=None))

    async def commit(self) -> None:
        """Make the changes visible, after the time that writing them takes."""
        if not self.changes:
            return
        _ = self.xid
        delay = self._database.draw_commit_delay()
        if delay:
            await asyncio.sleep(delay)
        self.require_server()
        if self._database.history.maxlen:
            self._database.history.append(self._database.tables.copy())
        for change in self.changes:
            change(self._database.tables)
        del self._database.in_progress[self.xid]
        self._xid = None
        self._database.on_commit()

    def end(self) -> None:
        if self._epoch == self._database.epoch:
            if self._xid is not None:
                self._database.in_progress.pop(self._xid, None)
            for row in self._held:
                self._database.release(row)
        self._held.clear()


class SimulatedDatabase:
    """The server. Its methods are statements; a client calls them as database_client.py does.

    `follow_callers`: a change has the time at which its caller asked for it, as in the contract
    suites.
    """

    def __init__(
        self,
        *,
        random: Random,
        now: Callable[[], datetime],
        draw_commit_delay: Callable[[], float] = lambda: 0.0,
        follow_callers: bool = False,
        history_size: int = 0,
    ) -> None:
        """Keep so many older states, for replicas which lag."""
        self._random = random
        self._read_clock = now
        self.clock_offset = timedelta(0)
        self.draw_commit_delay = draw_commit_delay
        self._follow_callers = follow_callers
        self.tables = Tables()
        self.in_progress: dict[int, None] = {}
        self.history: deque[Tables] = deque(maxlen=history_size)
        self.epoch = 0
        self.is_up = True
        self.is_purging = False
        self.on_commit: Callable[[], None] = lambda: None
        self._locked: dict[object, deque[asyncio.Future[None]]] = {}

    # Faults

    def stop(self) -> None:
        """Stop at once: transactions in progress are rolled back."""
        self.is_up = False
        self.epoch += 1
        self.in_progress.clear()
        locked, self._locked = self._locked, {}
        for waiters in locked.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(ServerLost())

    def start(self, tables: Tables | None = None) -> None:
        """Start again, with an older state if one is given."""
        if tables is not None:
            self.tables = tables.copy()
            self.history.clear()
        self.is_up = True

    def now(self) -> datetime:
        return self._read_clock() + self.clock_offset

    def change_time(self, asked_at: datetime) -> datetime:
        asked_at = asked_at.astimezone(UTC)
        return asked_at if self._follow_callers else max(asked_at, self.now())

    # Locks and snapshots

    async def acquire(self, row: object) -> None:
        waiters = self._locked.get(row)
        if waiters is None:
            self._locked[row] = deque()
            return
        waiter = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release(row)
            raise

    def release(self, row: object) -> None:
        waiters = self._locked.get(row)
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._locked.pop(row, None)

    @asynccontextmanager
    async def hold(self, row: object) -> AsyncIterator[None]:
        """Hold a row lock, as a foreign transaction does."""
        epoch = self.epoch
        await self.acquire(row)
        try:
            yield
        finally:
            if epoch == self.epoch:
                self.release(row)

    @contextmanager
    def _transaction(self) -> Any:
        transaction = Transaction(self)
        try:
            yield transaction
        finally:
            transaction.end()

    def take_snapshot(self) -> Snapshot:
        xmax = self.tables.next_xid
        return Snapshot(min(self.in_progress, default=xmax), xmax, frozenset(self.in_progress))

    def _as_changed(self, session_ids: Iterable[SessionId]) -> list[ChangedSession]:
        now, tables = self.now(), self.tables
        return [tables.as_changed(tables.sessions[id_].session, now) for id_ in session_ids]

    # Sessions

    async def create(self, record: SessionRecord, limit: Limit | None) -> list[ChangedSession]:
        session, key = record.session, record.details.idempotency_key_hash
        with self._transaction() as transaction:
            evicted: list[SessionId] = []
            if limit is not None:
                at = session.created_at
                evicted = await self._enforce_limit(transaction, record, limit, at=at)
            for unique in (session.id, session.digest, key):
                if unique is not None:
                    await transaction.lock(("unique", unique))
            tables = self.tables
            if (
                session.id in tables.sessions
                or session.digest in tables.digests
                or (key is not None and key in tables.keys)
            ):
                raise SessionExists(f"session {session.id} or its digest is taken")
            transaction.put(_to_utc(record))
            await transaction.commit()
            return self._as_changed(evicted)

    async def _enforce_limit(
        self,
        transaction: Transaction,
        record: SessionRecord,
        limit: Limit,
        *,
        at: datetime,
        joins: bool = False,
        expected: int = 0,
    ) -> list[SessionId]:
        """Evict others for a new session, or one that `joins` its type; return their ids."""
        session = record.session
        await transaction.lock(("limit", session.user_id, session.type))
        if joins:
            await transaction.lock(session.id)
            stored = self.tables.sessions.get(session.id)
            if stored is None or stored.session.version != expected:
                return []
        at = self.change_time(at)

        def counts(each: SessionRecord) -> bool:
            return (
                each.session.type is session.type
                and each.details.tenant == record.details.tenant
                and not (joins and each.session.id == session.id)
                and is_revocable(each.session, at)
            )

        others = [each for each in self.tables.select(Condition(session.user_id)) if counts(each)]
        if limit.at_limit is AtLimit.REFUSE:
            active = [each for each in others if state_of(each.session, at) is SessionState.ACTIVE]
            if len(active) >= limit.max_sessions:
                raise LimitReached(session.type, limit.max_sessions)
        idle_longest = limit.at_limit is AtLimit.EVICT_IDLE_LONGEST
        kept = order_by_surplus(others, at=at, idle_longest=idle_longest)
        surplus = sorted(each.session.id for each in kept[limit.max_sessions - 1 :])
        evicted = []
        for id_ in surplus:
            await transaction.lock(id_)
            each = self.tables.sessions.get(id_)
            if each is None or each.session.type is not session.type or each.session.revoked_at:
                continue
            evicted.append(id_)
            by, reason = SIDEGATE, EVICTED_REASON
            transaction.put(_revoke(each, self.change_time(at), by=by, reason=reason))
        return evicted

    async def replace(self, record: SessionRecord, expected: int) -> ChangedSession | None:
        changed = await self._replace(record, expected, limit=None, at=None)
        return changed[0] if changed else None

    async def replace_within_limit(
        self, record: SessionRecord, expected: int, *, limit: Limit, at: datetime
    ) -> list[ChangedSession] | None:
        return await self._replace(record, expected, limit=limit, at=at)

    async def _replace(
        self, record: SessionRecord, expected: int, *, limit: Limit | None, at: datetime | None
    ) -> list[ChangedSession] | None:
        session_id = record.session.id
        with self._transaction() as transaction:
            evicted: list[SessionId] = []
            if limit is not None and at is not None:
                evicted = await self._enforce_limit(
                    transaction, record, limit, at=at, joins=True, expected=expected
                )
            await transaction.lock(session_id)
            stored = self.tables.sessions.get(session_id)
            if stored is None or stored.session.version != expected:
                return None
            await transaction.lock(("unique", record.session.digest))
            owner = self.tables.digests.get(record.session.digest)
            if owner not in (None, session_id):
                raise SessionExists(f"the new digest of {session_id} is taken")
            transaction.put(_to_utc(self._shift(record, stored)))
            await transaction.commit()
            return self._as_changed([session_id, *evicted])

    def _shift(self, record: SessionRecord, stored: SessionRecord) -> SessionRecord:
        """Return the record as of when its lock is held, with the stored activity if later."""
        session, change = record.session, record.details.change
        late = timedelta(0)
        if change is not None:
            late = self.change_time(change.at) - change.at
        fields: dict[str, Any] = {
            "last_seen_at": max(session.last_seen_at, stored.session.last_seen_at)
        }
        if session.revoked_at is not None:
            fields["revoked_at"] = session.revoked_at + late
        if session.previous_digest is not None and change is not None:
            is_later = session.previous_until > change.at
            fields["previous_until"] = session.previous_until + (late if is_later else timedelta(0))
        details = replace(
            record.details,
            access_count=max(record.details.access_count, stored.details.access_count),
            change=None if change is None else Change(change.at + late, change.by),
        )
        return SessionRecord(replace(session, **fields), details)

    async def revoke_where(
        self,
        condition: Condition,
        *,
        at: datetime,
        by: Actor,
        reason: str,
        limit: int,
        after: SessionId | None,
        acknowledged: bool,
    ) -> list[ChangedSession]:
        selected = self.tables.select_revocable(condition, at, after)[:limit]
        with self._transaction() as transaction:
            revoked = []
            for id_ in selected:
                await transaction.lock(id_)
                stored = self.tables.sessions.get(id_)
                if stored is None or not is_revocable(stored.session, at):
                    continue
                if not any(self.tables.select(condition.narrowed(session_id=id_))):
                    continue
                ended_at = at if acknowledged else self.change_time(at)
                transaction.put(_to_utc(_revoke(stored, ended_at, by=by, reason=reason)))
                revoked.append(id_)
            await transaction.commit()
            return self._as_changed(revoked)

    async def touch(self, touches: Sequence[Touch]) -> list[Session]:
        touched = []
        with self._transaction() as transaction:
            for touch in sorted(touches, key=lambda each: each.id):
                await transaction.lock(touch.id)
                stored = self.tables.sessions.get(touch.id)
                if stored is None or not is_revocable(stored.session, touch.seen_at):
                    continue
                session = stored.session
                is_seen = session.token_seen or touch.token == session.digest
                session = replace(
                    session,
                    last_seen_at=max(session.last_seen_at, touch.seen_at.astimezone(UTC)),
                    token_seen=is_seen,
                )
                count = stored.details.access_count + touch.count
                details = replace(stored.details, access_count=count)
                transaction.update(SessionRecord(session, details))
                touched.append(session.id)
            await transaction.commit()
            return [self.tables.sessions[id_].session for id_ in touched]

    async def purge(self, expired_before: datetime, limit: int) -> int:
        if self.is_purging:
            raise PurgeInProgress
        self.is_purging = True
        try:
            old = sorted(
                (record.session.expires_at, id_)
                for id_, record in self.tables.sessions.items()
                if record.session.expires_at < expired_before and id_ not in self._locked
            )
            for _, id_ in old[:limit]:
                self.tables.delete(id_)
            return len(old[:limit])
        finally:
            self.is_purging = False

    # Change log

    def read_position(self) -> Mark:
        return Mark(self.take_snapshot(), self.tables.system)

    async def list_changes(
        self,
        since: Mark,
        *,
        limit: int,
        after: ChangeCursor | None,
        created: bool,
        store_mark: bool,
    ) -> ChangePage:
        self._require_position(since)
        position, snapshot = self.read_position(), since.snapshot
        all_changed = self.tables.list_changed(snapshot, created=True)
        has_changed = bool(all_changed)
        ids: tuple[SessionId, ...]
        if after is not None:
            ids = after.ids
        elif limit == 0 and not store_mark:
            return ChangePage(position, has_changed=has_changed)
        else:
            changed = self.tables.list_changed(snapshot, created=created)
            if len(changed) > limit and len(changed) > MAX_CHANGES:
                raise TooManyChanges(f"more than {MAX_CHANGES} changes")
            ids = tuple(session.id for session in changed)
        now, sessions = self.now(), self.tables.sessions
        changes = [
            self.tables.as_changed(sessions[id_].session, now, snapshot)
            for id_ in ids[:limit]
            if id_ in sessions
        ]
        rest = ids[limit:]
        if store_mark:
            position = await self._store_mark(position)
        return ChangePage(
            position,
            has_changed=has_changed,
            changes=changes,
            next=ChangeCursor(rest) if rest else None,
        )

    def _require_position(self, since: Mark) -> None:
        position, marks = self.read_position(), self.tables.marks
        row = {
            "snapshot": str(position.snapshot),
            "system": position.system,
            "is_marked": since.id in marks,
        }
        if not is_lost(since, row):
            return
        until = compute_survivors_end(since)
        earlier = [mark.at for mark in marks.values() if mark.at <= until]
        oldest = next(iter(marks.values()), None)
        kept = {
            "oldest": None if oldest is None else str(oldest.snapshot),
            "last_at": max(earlier, default=None),
        }
        raise build_position_lost(since, position, kept=kept)

    async def add_mark(self) -> Mark:
        return await self._store_mark(self.read_position())

    async def _store_mark(self, position: Mark) -> Mark:
        """Store a mark by the statement that has read the position."""
        now = self.now()
        id_ = self._build_mark_id(now)

        def store(tables: Tables) -> None:
            tables.marks[id_] = StoredMark(position.snapshot, now)
            while len(tables.marks) > MAX_MARKS:
                del tables.marks[next(iter(tables.marks))]

        with self._transaction() as transaction:
            transaction.changes.append(store)
            await transaction.commit()
        return replace(position, id=id_)

    def _build_mark_id(self, now: datetime) -> UUID:
        number = self._random.getrandbits(74)
        high, low = number >> 62, number & (1 << 62) - 1
        milliseconds = int(now.timestamp() * 1000)
        return UUID(int=milliseconds << 80 | _VERSION_7 | high << 64 | _VARIANT | low)

    async def revoke_again(self, tombstones: Sequence[Session]) -> list[ChangedSession]:
        by_id = {each.id: each for each in tombstones}
        with self._transaction() as transaction:
            revoked = []
            for id_ in sorted(by_id):
                stored = self.tables.sessions.get(id_)
                if stored is None or stored.session.revoked_at is not None:
                    continue
                await transaction.lock(id_)
                stored = self.tables.sessions.get(id_)
                tombstone = by_id[id_]
                if stored is None or stored.session.revoked_at or not tombstone.revoked_at:
                    continue
                after = _revoke(stored, tombstone.revoked_at, by=SIDEGATE, reason=RESTORED_REASON)
                version = max(stored.session.version + 1, tombstone.version)
                transaction.put(
                    SessionRecord(
                        replace(after.session, version=version),
                        replace(after.details, change=Change(self.now(), SIDEGATE)),
                    )
                )
                revoked.append(id_)
            await transaction.commit()
            return self._as_changed(revoked)

    # Locks of sessions, and logout tokens

    async def acquire_lock(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta, holder: str | None
    ) -> Hold | Contended | None:
        if not is_canonical(session_id) or session_id not in self.tables.sessions:
            return None
        with self._transaction() as transaction:
            await transaction.lock(("lock", session_id))
            if session_id not in self.tables.sessions:
                return None
            now, row = self.now(), self.tables.locks.get(session_id)
            if row is not None and row.expires_at is not None and row.expires_at > now:
                return Contended(row.expires_at, row.expires_at - now, row.holder)
            fence = max(int(now.timestamp() * 1_000_000), 0 if row is None else row.fence + 1)
            self._put_lock(transaction, session_id, LockRow(fence, lease, holder, now + ttl))
            await transaction.commit()
            return Hold(fence, now + ttl)

    async def renew_lock(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta
    ) -> Hold | None:
        with self._transaction() as transaction:
            row = await self._lock_own(transaction, session_id, lease)
            if row is None or row.expires_at is None:
                return None
            until = max(row.expires_at, self.now() + ttl)
            self._put_lock(transaction, session_id, replace(row, expires_at=until))
            await transaction.commit()
            return Hold(row.fence, until)

    async def release_lock(self, session_id: SessionId, lease: LeaseDigest) -> bool:
        with self._transaction() as transaction:
            row = await self._lock_own(transaction, session_id, lease)
            if row is None:
                return False
            self._put_lock(transaction, session_id, LockRow(row.fence, None, None, None))
            await transaction.commit()
            return True

    async def _lock_own(
        self, transaction: Transaction, session_id: SessionId, lease: LeaseDigest
    ) -> LockRow | None:
        await transaction.lock(("lock", session_id))
        row = self.tables.locks.get(session_id)
        is_own = row is not None and row.lease == lease and row.expires_at is not None
        return row if is_own and row and row.expires_at and row.expires_at > self.now() else None

    def _put_lock(self, transaction: Transaction, session_id: SessionId, row: LockRow) -> None:
        def put(tables: Tables) -> None:
            tables.locks[session_id] = row

        transaction.changes.append(put)


def _revoke(record: SessionRecord, at: datetime, *, by: Actor, reason: str) -> SessionRecord:
    session = record.session
    details = replace(
        record.details, revoked_by=by.name, revoked_reason=reason, change=Change(at, by)
    )
    return SessionRecord(replace(session, revoked_at=at, version=session.version + 1), details)


def _to_utc(record: SessionRecord) -> SessionRecord:
    """Return the record with its times in UTC, as a database returns them."""
    session = record.session
    fields: dict[str, Any] = {
        name: value.astimezone(UTC)
        for name in ("created_at", "authenticated_at", "last_seen_at", "expires_at", "revoked_at")
        if (value := getattr(session, name)) is not None and value.tzinfo is not UTC
    }
    return replace(record, session=replace(session, **fields)) if fields else record
