"""All changes of a history by session: when each one ended, and when it may have ended."""

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from math import inf

from tests.faults.history import (
    Check,
    Create,
    Entry,
    FaultPeriod,
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
    refusals: list[tuple[float, float]] = field(default_factory=list)  # (start, end)

    def rotations(self, token: int) -> list[Refresh]:
        """Return the refreshes that may have rotated `token` out."""
        return [
            refresh
            for refresh in self.refreshes
            if refresh.token == token and refresh.result is not Result.FAIL
        ]


class Ledger:
    """The changes of one history, whose entries may be in any order."""

    def __init__(self, history: Iterable[Entry], rules: Rules) -> None:
        self.rules = rules
        self.sessions: defaultdict[str, SessionOperations] = defaultdict(SessionOperations)
        self.faults: list[FaultPeriod] = []
        self._data_losses: list[float] = []
        self._logins_at_limit: defaultdict[str, list[Create]] = defaultdict(list)
        for entry in history:
            self._add(entry)

    def ended_at(self, session: str) -> float:
        """Return from when on the session had certainly ended, or inf.

        A revocation without an answer counts as done once a check was denied after it.
        """
        operations = self.sessions.get(session)
        if operations is None:
            return inf
        ends = [revoke.end for revoke in operations.revokes if self.is_durable(revoke)]
        ends += [
            refresh.end for refresh in operations.refreshes if self._is_reuse(operations, refresh)
        ]
        uncertain = [
            revoke.start
            for revoke in operations.revokes
            if revoke.result is not Result.FAIL and not self.is_durable(revoke)
        ]
        if uncertain:
            started_at = min(uncertain)
            ends += [end for start, end in operations.refusals if start >= started_at]
        return min(ends, default=inf)

    def is_durable(self, revoke: Revoke) -> bool:
        """Return whether a revocation was acknowledged, and not lost with Redis (202)."""
        return revoke.result is Result.OK and not (
            revoke.status == HTTPStatus.ACCEPTED
            and any(
                0 <= lost - revoke.start < self.rules.persist_within for lost in self._data_losses
            )
        )

    def may_have_ended_at(self, session: str) -> float:
        """Return the earliest time at which the session may have ended, or inf."""
        operations = self.sessions.get(session)
        if operations is None:
            return inf
        ends = [revoke.start for revoke in operations.revokes if revoke.result is not Result.FAIL]
        ends += [self._may_be_reuse_at(operations, refresh) for refresh in operations.refreshes]
        return min(ends, default=inf)

    def grace_ended_at(self, session: str, token: int) -> float:
        """Return when the grace period of a rotated-out token certainly ended, or inf."""
        rotations = self.sessions[session].rotations(token) if session in self.sessions else []
        done = [refresh.end for refresh in rotations if refresh.result is Result.OK]
        return min(done, default=inf) + self.rules.grace

    def grace_may_have_ended_at(self, session: str, token: int) -> float:
        """Return the earliest time at which a rotation may have made the token invalid, or inf.

        A token rotated out before the last rotation has no grace period left.
        """
        operations = self.sessions.get(session)
        rotations = [] if operations is None else operations.rotations(token)
        if operations is None or not rotations:
            return inf
        started_at = min(refresh.start for refresh in rotations)
        later = [
            refresh.start
            for refresh in operations.refreshes
            if refresh.token != token and refresh.start > started_at
        ]
        return min([started_at + self.rules.grace, *later]) - self.rules.clock_tolerance

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
            case Refresh(session=session):
                insort(self.sessions[session].refreshes, entry, key=lambda refresh: refresh.start)
            case Check(
                category=TokenCategory.ENDED,
                result=Result.FAIL,
                session=str(session),
                token=int(token),
            ):
                if not self.sessions[session].rotations(token):
                    self.sessions[session].refusals.append((entry.start, entry.end))
            case FaultPeriod():
                self.faults.append(entry)
            case RedisDataLoss(start=lost_at):
                self._data_losses.append(lost_at)
            case _:
                pass

    def _add_login(self, create: Create) -> None:
        if create.limit is not None:
            self._logins_at_limit[create.user].append(create)

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
            refresh.start > min(done, default=inf) + self.rules.grace + self.rules.clock_tolerance
        )

    def _may_be_reuse_at(self, operations: SessionOperations, refresh: Refresh) -> float:
        """Return the earliest time at which a refresh may have ended the session, or inf.

        A refresh without a response may have been executed after the grace period.
        """
        started_at = [
            before.start for before in operations.rotations(refresh.token) if before is not refresh
        ]
        ended_at = min(started_at, default=inf) + self.rules.grace - self.rules.clock_tolerance
        answered = refresh.status != 0
        return inf if answered and refresh.end < ended_at else max(ended_at, refresh.start)


def _may_take_effect_until(create: Create) -> float:
    """Return until when a login may take effect; inf without an acknowledgement."""
    return create.end if create.result is Result.OK else inf
