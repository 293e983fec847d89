"""All changes of a history by session: when each one ended, and when it may have ended."""

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from math import inf
from typing import Final, NamedTuple

from tests.faults.history import (
    Check,
    Create,
    DatabaseRestore,
    Entry,
    FaultPeriod,
    Migrate,
    RedisDataLoss,
    Refresh,
    Result,
    Revoke,
    TokenCategory,
)
from tests.faults.rules import Rules


@dataclass(slots=True)
class SessionOperations:
    """The operations on one session; `refusals` are denied checks of tokens not rotated out."""

    creates: list[Create] = field(default_factory=list)
    revokes: list[Revoke] = field(default_factory=list)
    refreshes: list[Refresh] = field(default_factory=list)
    migrations: list[Migrate] = field(default_factory=list)
    lost_refreshes: list[Refresh] = field(default_factory=list)  # with a restored database
    lost_migrations: list[Migrate] = field(default_factory=list)  # the same
    refusals: list[tuple[float, float]] = field(default_factory=list)  # (start, end)
    uses: list[Check] = field(default_factory=list)  # checks that allowed a token, or may have

    def rotations(self, token: int) -> list[Refresh]:
        """Return the refreshes that may have rotated `token` out."""
        return [
            refresh
            for refresh in self.refreshes
            if refresh.token == token and refresh.result is not Result.FAIL
        ]

    def successors(self, token: int) -> set[int]:
        """Return the tokens that clients received for `token`."""
        return {
            refresh.successor
            for refresh in (*self.refreshes, *self.lost_refreshes)
            if refresh.token == token and refresh.successor is not None
        }


class End(NamedTuple):
    """When a session or a token certainly ended, and how long it may still be allowed.

    An allow after that violates `invariant`.
    """

    at: float
    bound: float
    cause: str = "its session had ended"
    invariant: str = "I1"

    @property
    def denied_from(self) -> float:
        """From when on it must be denied."""
        return self.at + self.bound


_NEVER: Final = End(inf, 0.0)


class Ledger:
    """The changes of one history, whose entries may be in any order.

    `restores` are restores of the database that came before, in their order.
    """

    def __init__(
        self, history: Iterable[Entry], rules: Rules, restores: Iterable[DatabaseRestore] = ()
    ) -> None:
        self.rules = rules
        self._restores = tuple(restores)
        latest_first = self._restores[::-1]  # the first restore that lost it counts
        self._lost_sessions = {
            session: restore for restore in latest_first for session in restore.sessions
        }
        self._lost_tokens = {token: restore for restore in latest_first for token in restore.tokens}
        self.sessions: defaultdict[str, SessionOperations] = defaultdict(SessionOperations)
        self.faults: list[FaultPeriod] = []
        self._data_losses: list[float] = []
        self._logins_at_limit: defaultdict[str, list[Create]] = defaultdict(list)
        for entry in history:
            self._add(entry)

    def end_of(self, session: str) -> End:
        """Return when the session certainly ended.

        A revocation without an answer counts as done once a check was denied after it.
        """
        operations = self.sessions.get(session)
        if operations is None:
            return _NEVER
        ends = [self._survive(session, at) for at in self._certain_ends(operations)]
        uncertain = [
            revoke.start
            for revoke in operations.revokes
            if revoke.result is not Result.FAIL and not self.is_durable(revoke)
        ]
        if uncertain and not operations.migrations:
            started_at = min(uncertain)
            ends += [
                self._end(refused_at)
                for start, refused_at in operations.refusals
                if start >= started_at
            ]
        if session in self._lost_sessions:
            ends.append(_end_by(self._lost_sessions[session]))
        return min(ends, key=lambda end: end.denied_from, default=_NEVER)

    def ended_at(self, session: str) -> float:
        """Return from when on the session had certainly ended, or inf."""
        return self.end_of(session).at

    def _certain_ends(self, operations: SessionOperations) -> Iterator[float]:
        yield from (revoke.end for revoke in operations.revokes if self.is_durable(revoke))
        yield from (
            refresh.end for refresh in operations.refreshes if self._is_reuse(operations, refresh)
        )

    def _survive(self, session: str, ended_at: float) -> End:
        """Return when a session that ended at that time has ended in the restored database."""
        for restore in self._restores:
            if ended_at < restore.end:
                if session in restore.ends:
                    return _NEVER
                if session in restore.tombstones:
                    ended_at = restore.settled_at
        return self._end(ended_at)

    def _end(self, at: float) -> End:
        return End(at, self.bound(at))

    def is_durable(self, revoke: Revoke) -> bool:
        """Return whether a revocation was acknowledged and not lost.

        It may be lost with Redis, if it was answered with 202, or with a restored database.
        """
        lost_with_redis = revoke.status == HTTPStatus.ACCEPTED and any(
            0 <= lost - revoke.start < self.rules.persist_within for lost in self._data_losses
        )
        lost_with_database = any(
            revoke.end < restore.end and revoke.session in restore.ends
            for restore in self._restores
        )
        return revoke.result is Result.OK and not (lost_with_redis or lost_with_database)

    def may_have_ended_at(self, session: str) -> float:
        """Return the earliest time at which the session may have ended, or inf."""
        operations = self.sessions.get(session)
        if operations is None:
            return inf
        ends = [revoke.start for revoke in operations.revokes if revoke.result is not Result.FAIL]
        ends += [self._may_be_reuse_at(operations, refresh) for refresh in operations.refreshes]
        if session in self._lost_sessions:
            ends.append(self._lost_sessions[session].start)
        return min(ends, default=inf)

    def token_end_of(self, session: str, token: int) -> End:
        """Return when a token certainly became invalid, though not necessarily its session."""
        operations = self.sessions.get(session)
        if operations is None:
            return _NEVER
        ends = [self._grace_end(session, token), *self._replacements(operations, token)]
        return min(ends, key=lambda end: end.denied_from)

    def refresh_ended_at(self, session: str, token: int) -> float:
        """Return from when on a token certainly gets no successor any more, or inf.

        After its grace period it gets the same one until that is known to be in use.
        """
        operations = self.sessions.get(session)
        if operations is None:
            return inf
        until = max(self._grace_end(session, token).at, self._seen_by(operations, token))
        return min([until, *(end.at for end in self._replacements(operations, token))])

    def _grace_end(self, session: str, token: int) -> End:
        """Return when the grace period of a rotated-out token certainly ended."""
        rotations = self.sessions[session].rotations(token)
        rotated_at = min(
            (refresh.end for refresh in rotations if refresh.result is Result.OK), default=inf
        )
        grace_end = rotated_at + self.grace(session)
        return End(grace_end, self.bound(rotated_at), "its grace period", "I6")

    def _replacements(self, operations: SessionOperations, token: int) -> Iterator[End]:
        """Yield when the token became invalid in another way than by a rotation."""
        for migrate in operations.migrations:
            if migrate.result is Result.OK and _may_replace(operations, migrate, token):
                yield End(migrate.end, self.bound(migrate.end), "its session was migrated")
        if token in self._lost_tokens:
            yield _end_by(self._lost_tokens[token])

    def _seen_by(self, operations: SessionOperations, token: int) -> float:
        """Return by when the use of a token's successor is certainly known everywhere, or inf.

        While a store is unavailable, that an instance has allowed it may be unknown to others.
        """
        successors = operations.successors(token)
        known = [
            refresh.end
            for refresh in operations.refreshes
            if refresh.token in successors and refresh.result is Result.OK
        ]
        known += [
            check.end + self.rules.touch_interval + self.rules.normal_bound
            for check in operations.uses
            if check.token in successors
            and check.result is Result.OK
            and self.bound(check.end) <= self.rules.normal_bound
            and all(check.start > restore.end for restore in self._restores)
        ]
        return min(known, default=inf)

    def _may_be_seen_at(self, operations: SessionOperations, token: int) -> float:
        """Return the earliest time at which a successor of the token may have been used, or inf."""
        successors = operations.successors(token)
        uses: tuple[Check | Refresh, ...] = (*operations.uses, *operations.refreshes)
        return min((use.start for use in uses if use.token in successors), default=inf)

    def grace(self, session: str) -> float:
        """Return the grace period of a session."""
        operations = self.sessions.get(session)
        stated = operations.creates[0].grace if operations and operations.creates else None
        return self.rules.grace if stated is None else stated

    def grace_may_have_ended_at(self, session: str, token: int) -> float:
        """Return the earliest time at which a token may have become invalid, or inf.

        A token rotated out before the last rotation has no grace period left.
        """
        operations = self.sessions.get(session)
        if operations is None:
            return inf
        ends = [self.may_be_replaced_at(session, token)]
        rotations = operations.rotations(token)
        if rotations:
            started_at = min(refresh.start for refresh in rotations)
            later = [
                refresh.start
                for refresh in operations.refreshes
                if refresh.token != token and refresh.start > started_at
            ]
            grace_ends = min([started_at + self.grace(session), *later])
            ends.append(grace_ends - self.rules.clock_tolerance)
        return min(ends)

    def may_be_replaced_at(self, session: str, token: int) -> float:
        """Return the earliest time at which a migration or a restore may have ended the token."""
        operations = self.sessions.get(session)
        if operations is None:
            return inf
        ends = [
            migrate.start
            for migrate in operations.migrations
            if migrate.result is not Result.FAIL and _may_replace(operations, migrate, token)
        ]
        if token in self._lost_tokens:
            ends.append(self._lost_tokens[token].start)
        return min(ends, default=inf)

    def may_be_stale(self, session: str, at: float) -> bool:
        """Return whether a cache may still hold a token's end that a restored database has lost."""
        operations = self.sessions.get(session)
        return (
            operations is not None
            and bool(operations.lost_refreshes or operations.lost_migrations)
            and any(restore.end <= at < restore.settled_at for restore in self._restores)
        )

    def is_revoked_again(self, session: str) -> bool:
        """Return whether a tombstone may have ended the session again after a restore.

        It has the version that the tombstone had, if the restored one was lower.
        """
        return any(session in restore.tombstones | restore.ends for restore in self._restores)

    def is_lost(self, session: str) -> bool:
        """Return whether the session is unknown to a restored database."""
        return session in self._lost_sessions

    def may_be_evicted(self, session: str, by: float) -> bool:
        """Return whether later logins of the user may have ended the session by the limit."""
        operations = self.sessions.get(session)
        if operations is None or not operations.creates or operations.creates[0].limit is None:
            return False
        own, logins = operations.creates[0], self._logins_at_limit[operations.creates[0].user]
        # The attempt that created it may have had no response.
        started_at = min(create.start for create in logins if create.key == own.key)
        others = {
            create.key
            for create in logins
            if create.key != own.key
            and _may_take_effect_until(create) >= started_at
            and create.start <= by
        }
        return own.limit is not None and len(others) >= own.limit

    def bound(self, at: float) -> float:
        """Return how long a revocation acknowledged at that time may take."""
        meanwhile = [
            fault.bound
            for fault in self.faults
            if fault.start <= at + self.rules.normal_bound
            and at <= fault.end + self.rules.settle_time
        ]
        return max(meanwhile, default=self.rules.normal_bound)

    def _add(self, entry: Entry) -> None:
        match entry:
            case Create(session=str(session)):
                self.sessions[session].creates.append(entry)
                self._add_login(entry)
            case Create():
                self._add_login(entry)
            case Revoke(session=session):
                self.sessions[session].revokes.append(entry)
            case Refresh(session=session) if self._is_lost(entry):
                self.sessions[session].lost_refreshes.append(entry)
            case Migrate(session=session) if self._is_lost(entry):
                self.sessions[session].lost_migrations.append(entry)
            case Migrate(session=session):
                self.sessions[session].migrations.append(entry)
            case Refresh(session=session):
                insort(self.sessions[session].refreshes, entry, key=lambda refresh: refresh.start)
            case Check(
                category=TokenCategory.ENDED,
                result=Result.FAIL,
                session=str(session),
                token=int(token),
            ):
                if not self.sessions[session].rotations(token) and self._is_settled(entry):
                    self.sessions[session].refusals.append((entry.start, entry.end))
            case Check(session=str(session)) if entry.may_be_use:
                self.sessions[session].uses.append(entry)
            case FaultPeriod():
                self.faults.append(entry)
            case RedisDataLoss(start=lost_at):
                self._data_losses.append(lost_at)
            case _:
                pass

    def _add_login(self, create: Create) -> None:
        if create.limit is not None:
            self._logins_at_limit[create.user].append(create)

    def _is_lost(self, change: Refresh | Migrate) -> bool:
        return change.successor in self._lost_tokens and any(
            change.end < restore.end and change.successor in restore.tokens
            for restore in self._restores
        )

    def _is_settled(self, check: Check) -> bool:
        """Return whether every cache followed the last restore when the check started."""
        return all(check.start >= restore.settled_at for restore in self._restores)

    def _is_reuse(self, operations: SessionOperations, refresh: Refresh) -> bool:
        """Return whether a refused refresh came after the grace period and ended the session."""
        if refresh.result is not Result.FAIL:
            return False
        done = [
            before.end
            for before in operations.rotations(refresh.token)
            if before.result is Result.OK and before is not refresh
        ]
        return (
            refresh.start
            > min(done, default=inf) + self.grace(refresh.session) + self.rules.clock_tolerance
        )

    def _may_be_reuse_at(self, operations: SessionOperations, refresh: Refresh) -> float:
        """Return the earliest time at which a refresh may have ended the session, or inf.

        It ends it after the grace period, once the successor was used. Without a response it may
        have been executed later.
        """
        started_at = [
            before.start
            for before in (*operations.rotations(refresh.token), *operations.lost_refreshes)
            if before is not refresh and before.token == refresh.token
        ]
        grace = self.grace(refresh.session)
        ended_at = max(
            min(started_at, default=inf) + grace - self.rules.clock_tolerance,
            self._may_be_seen_at(operations, refresh.token),
        )
        answered = refresh.status != 0
        return inf if answered and refresh.end < ended_at else max(ended_at, refresh.start)


def _end_by(restore: DatabaseRestore) -> End:
    return End(restore.end, restore.bound, "the restore of a database that does not know it")


def _may_replace(operations: SessionOperations, migrate: Migrate, token: int) -> bool:
    """Return whether a migration may have ended a token: not one that was issued after it.

    Without an answer it may have been done later.
    """
    issued: tuple[Refresh | Migrate, ...] = (
        *operations.refreshes,
        *operations.migrations,
        *operations.lost_refreshes,
        *operations.lost_migrations,
    )
    is_later = migrate.result is Result.OK and any(
        later.successor == token and later.start >= migrate.end for later in issued
    )
    return migrate.successor != token and not is_later


def _may_take_effect_until(create: Create) -> float:
    """Return until when a login may take effect; inf without an acknowledgement."""
    return create.end if create.result is Result.OK else inf
