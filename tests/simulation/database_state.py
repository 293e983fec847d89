"""The tables of the simulated database, as committed, and the questions about them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sidegate.core.change_log import ChangedSession
from sidegate.core.client_ip import to_sort_key, to_sort_key_range
from sidegate.core.condition import Condition
from sidegate.core.digest import Digest
from sidegate.core.lock import LeaseDigest
from sidegate.core.protocols import Cursor, RotatedOut
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.snapshot import Snapshot
from sidegate.stores.sql.rows import is_canonical, require_canonical
from tests.support.replace import replace

_GRACE_MARGIN: Final = timedelta(seconds=10)  # as in migration 0012


@dataclass(frozen=True, slots=True)
class Rotated:
    """A row of rotated_digests."""

    session_id: SessionId
    out: RotatedOut
    xid: int


@dataclass(frozen=True, slots=True)
class StoredMark:
    """A row of cache_marks."""

    snapshot: Snapshot
    at: datetime


@dataclass(frozen=True, slots=True)
class LockRow:
    """A row of session_locks."""

    fence: int
    lease: LeaseDigest | None
    holder: str | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A row of audit_events."""

    action: str
    session: SessionId
    version: int
    user: str
    reason: str | None


@dataclass
class Tables:
    """All that is committed. Rows are values, so that a copy of the tables is a backup."""

    sessions: dict[SessionId, SessionRecord] = field(default_factory=dict)
    digests: dict[Digest, SessionId] = field(default_factory=dict)
    previous: dict[Digest, SessionId] = field(default_factory=dict)
    rotated: dict[Digest, Rotated] = field(default_factory=dict)
    rotated_by_session: dict[SessionId, tuple[Digest, ...]] = field(default_factory=dict)
    keys: dict[bytes, SessionId] = field(default_factory=dict)
    by_user: dict[str, tuple[SessionId, ...]] = field(default_factory=dict)
    marks: dict[UUID, StoredMark] = field(default_factory=dict)
    locks: dict[SessionId, LockRow] = field(default_factory=dict)
    logout_tokens: dict[bytes, datetime] = field(default_factory=dict)
    audit: tuple[AuditRow, ...] = ()
    next_xid: int = 1000
    last_change: int = 0
    system: str = "7"

    def copy(self) -> "Tables":
        return Tables(
            dict(self.sessions),
            dict(self.digests),
            dict(self.previous),
            dict(self.rotated),
            dict(self.rotated_by_session),
            dict(self.keys),
            dict(self.by_user),
            dict(self.marks),
            dict(self.locks),
            dict(self.logout_tokens),
            self.audit,
            self.next_xid,
            self.last_change,
            self.system,
        )

    # Rows

    def put(self, record: SessionRecord, *, xid: int | None) -> None:
        """Insert or update a session. `xid`: the transaction, if it is a change of the session."""
        session = record.session
        before = self.sessions.get(session.id)
        if xid is not None:
            session = replace(session, changed_xid=xid)
            record = replace(record, session=session)
            self.last_change = max(self.last_change, xid)
            self._record_audit(record, before)
        if before is None:
            users = self.by_user.get(session.user_id, ())
            self.by_user[session.user_id] = (*users, session.id)
        else:
            self._remove_digests(before.session)
        self.sessions[session.id] = record
        self.digests[session.digest] = session.id
        if session.previous_digest is not None:
            self.previous[session.previous_digest] = session.id
            if before is not None and xid is not None:
                self._rotate_out(record, session.previous_digest, xid)
        if record.details.idempotency_key_hash is not None:
            self.keys[record.details.idempotency_key_hash] = session.id

    def _remove_digests(self, session: Session) -> None:
        del self.digests[session.digest]
        if session.previous_digest is not None:
            self.previous.pop(session.previous_digest, None)

    def _rotate_out(self, record: SessionRecord, digest: Digest, xid: int) -> None:
        if digest in self.rotated:
            return
        session, nonce = record.session, record.details.rotation_nonce
        out = RotatedOut(session.previous_until, nonce)
        self.rotated[digest] = Rotated(session.id, out, xid)
        own = self.rotated_by_session.get(session.id, ())
        self.rotated_by_session[session.id] = (*own, digest)

    def _record_audit(self, after: SessionRecord, before: SessionRecord | None) -> None:
        session = after.session
        if before is None:
            action = "create"
        elif session.revoked_at is not None:
            action = "revoke"
        elif session.type is not before.session.type or (
            session.digest != before.session.digest and after.details.rotation_nonce is None
        ):
            action = "migrate"
        else:
            action = "refresh"
        reason = after.details.revoked_reason
        row = AuditRow(action, session.id, session.version, session.user_id, reason)
        self.audit = (*self.audit, row)

    def delete(self, session_id: SessionId) -> None:
        record = self.sessions.pop(session_id)
        self._remove_digests(record.session)
        for digest in self.rotated_by_session.pop(session_id, ()):
            del self.rotated[digest]
        key = record.details.idempotency_key_hash
        if key is not None:
            del self.keys[key]
        users = self.by_user[record.session.user_id]
        self.by_user[record.session.user_id] = tuple(id_ for id_ in users if id_ != session_id)
        self.locks.pop(session_id, None)

    # Questions

    def find(self, digest: Digest) -> Session | None:
        """Return the copy of the session for any digest that it has or had."""
        session_id = self.digests.get(digest)
        if session_id is not None:
            return self.sessions[session_id].session
        session_id = self.previous.get(digest)
        if session_id is not None:
            return self.sessions[session_id].session.copies()[1]
        rotated = self.rotated.get(digest)
        if rotated is None:
            return None
        return self.sessions[rotated.session_id].session.rotated_out(digest)

    def find_record(self, digest: Digest) -> SessionRecord | None:
        copy = self.find(digest)
        return None if copy is None else self.sessions[copy.id]

    def select(self, condition: Condition) -> Iterator[SessionRecord]:
        """Yield the sessions that match, in no particular order."""
        records: Iterable[SessionRecord | None]
        if condition.session_id is not None:
            records = [self.sessions.get(require_canonical(condition.session_id))]
        elif condition.user_id is not None:
            records = [self.sessions[id_] for id_ in self.by_user.get(condition.user_id, ())]
        else:
            records = self.sessions.values()
        if condition.except_id is not None:
            require_canonical(condition.except_id)
        return (record for record in records if record is not None and _matches(record, condition))

    def list_page(
        self,
        condition: Condition,
        *,
        after: Cursor | None,
        state: tuple[SessionState, datetime] | None,
    ) -> list[SessionRecord]:
        records = [
            record
            for record in self.select(condition)
            if state is None or state_of(record.session, state[1]) is state[0]
        ]
        records.sort(key=_order, reverse=True)
        if after is not None:
            records = [each for each in records if _order(each) < (after.created_at, after.id)]
        return records

    def select_revocable(
        self, condition: Condition, at: datetime, after: SessionId | None = None
    ) -> list[SessionId]:
        if after is not None:
            require_canonical(after)
        return sorted(
            record.session.id
            for record in self.select(condition)
            if is_revocable(record.session, at) and (after is None or record.session.id > after)
        )

    def list_rotated(
        self, session: Session, now: datetime, since: Snapshot | None = None
    ) -> tuple[Digest, ...]:
        """Return the digests older than the previous one, within their grace or since a mark."""
        digests = []
        for digest in self.rotated_by_session.get(session.id, ()):
            row = self.rotated[digest]
            is_recent = row.out.until > now - _GRACE_MARGIN
            is_later = since is not None and not since.sees(row.xid)
            if digest != session.previous_digest and (is_recent or is_later):
                digests.append(digest)
        return tuple(digests)

    def as_changed(
        self, session: Session, now: datetime, since: Snapshot | None = None
    ) -> ChangedSession:
        return ChangedSession(session, self.list_rotated(session, now, since))

    def list_changed(self, since: Snapshot, *, created: bool) -> list[Session]:
        """Return the sessions changed since a snapshot, in the order of their transactions."""
        if self.last_change < since.xmin:
            return []
        changed = [
            record.session
            for record in self.sessions.values()
            if not since.sees(record.session.changed_xid)
            and (created or record.session.version > 1 or record.session.revoked_at is not None)
        ]
        return sorted(changed, key=lambda session: (session.changed_xid, session.id))

    def exists(self, session_id: SessionId) -> bool:
        return is_canonical(session_id) and session_id in self.sessions


def state_of(session: Session, at: datetime) -> SessionState:
    if session.revoked_at is not None:
        return SessionState.REVOKED
    if session.expires_at <= at:
        return SessionState.EXPIRED
    if session.idle_at is not None and session.idle_at <= at:
        return SessionState.IDLE
    return SessionState.ACTIVE


def is_revocable(session: Session, at: datetime) -> bool:
    return session.revoked_at is None and session.expires_at > at


def order_by_surplus(
    records: Sequence[SessionRecord], *, at: datetime, idle_longest: bool
) -> list[SessionRecord]:
    """Return sessions in the order in which a limit keeps them."""

    def key(record: SessionRecord) -> tuple[object, ...]:
        session = record.session
        is_active = state_of(session, at) is SessionState.ACTIVE
        seen_at = session.last_seen_at if idle_longest else session.created_at
        return is_active, seen_at, session.created_at, session.id

    return sorted(records, key=key, reverse=True)


def _order(record: SessionRecord) -> tuple[datetime, SessionId]:
    return record.session.created_at, record.session.id


def _matches(record: SessionRecord, condition: Condition) -> bool:
    session, details = record.session, record.details
    wanted = (
        (condition.tenant, details.tenant),
        (condition.provider, details.provider),
        (condition.provider_session_id, details.provider_session_id),
        (condition.provider_subject, details.provider_subject),
    )
    return (
        condition.matches(session)
        and all(value is None or value == stored for value, stored in wanted)
        and not (condition.subject_unknown and details.provider_subject is not None)
        and _is_within(details.ip, condition)
        and (condition.user_agent_contains or "") in (details.user_agent or "")
        and not (condition.user_agent_contains is not None and details.user_agent is None)
        and (
            condition.last_seen_before is None or session.last_seen_at < condition.last_seen_before
        )
    )


def _is_within(ip: str | None, condition: Condition) -> bool:
    if condition.ip_within is None:
        return True
    first, last = to_sort_key_range(condition.ip_within)
    key = to_sort_key(ip)
    return key is not None and first <= key <= last
