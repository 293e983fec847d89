"""All changes of a history, by session: when each was surely over, and when perhaps."""

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
    Forgotten,
    Mark,
    Refresh,
    Result,
    Revoke,
    Road,
)
from tests.faults.rules import Rules


@dataclass(slots=True)
class Life:
    """What was asked for one session; the noes are those at the gate, to its latest tokens."""

    creates: list[Create] = field(default_factory=list)
    revokes: list[Revoke] = field(default_factory=list)
    refreshes: list[Refresh] = field(default_factory=list)
    noes: list[tuple[float, float]] = field(default_factory=list)  # (start, end)

    def rotations(self, token: int) -> list[Refresh]:
        """Return the refreshes that may have rotated `token` out."""
        return [
            refresh
            for refresh in self.refreshes
            if refresh.token == token and refresh.result is not Result.FAIL
        ]


class Ledger:
    """Answers for one history, whatever order its entries came in."""

    def __init__(self, history: Iterable[Entry], rules: Rules) -> None:
        self.rules = rules
        self.lives: defaultdict[str, Life] = defaultdict(Life)
        self.faults: list[Mark] = []
        self._forgotten: list[float] = []
        self._crowds: defaultdict[str, list[Create]] = defaultdict(list)
        for entry in history:
            self._take(entry)

    def over(self, session: str) -> float:
        """Return from when on the session surely was over; inf: it never was, as far as we know.

        A revocation that may have happened has happened once somebody was refused.
        """
        life = self.lives.get(session)
        if life is None:
            return inf
        ends = [revoke.end for revoke in life.revokes if self.is_sure(revoke)]
        ends += [refresh.end for refresh in life.refreshes if self._is_reuse(life, refresh)]
        doubtful = [
            revoke.start
            for revoke in life.revokes
            if revoke.result is not Result.FAIL and not self.is_sure(revoke)
        ]
        if doubtful:
            begun = min(doubtful)
            ends += [end for start, end in life.noes if start >= begun]
        return min(ends, default=inf)

    def is_sure(self, revoke: Revoke) -> bool:
        """Say whether a revocation was acknowledged, and not lost with the Redis it was left in."""
        return revoke.result is Result.OK and not (
            revoke.status == HTTPStatus.ACCEPTED
            and any(0 <= lost - revoke.start < self.rules.promised for lost in self._forgotten)
        )

    def may_be_over(self, session: str) -> float:
        """Return the first moment at which the session may have been over."""
        life = self.lives.get(session)
        if life is None:
            return inf
        ends = [revoke.start for revoke in life.revokes if revoke.result is not Result.FAIL]
        ends += [self._may_be_reuse(life, refresh) for refresh in life.refreshes]
        return min(ends, default=inf)

    def rotated_out(self, session: str, token: int) -> float:
        """Return from when on the token surely opens nothing; inf: it was never rotated out."""
        rotations = self.lives[session].rotations(token) if session in self.lives else []
        done = [refresh.end for refresh in rotations if refresh.result is Result.OK]
        return min(done, default=inf) + self.rules.grace

    def may_be_rotated_out(self, session: str, token: int) -> float:
        """Return the first moment at which the token may have been refused for a rotation.

        One that was rotated out before the last rotation has no grace left.
        """
        life = self.lives.get(session)
        rotations = [] if life is None else life.rotations(token)
        if life is None or not rotations:
            return inf
        begun = min(refresh.start for refresh in rotations)
        later = [
            refresh.start
            for refresh in life.refreshes
            if refresh.token != token and refresh.start > begun
        ]
        return min([begun + self.rules.grace, *later]) - self.rules.clocks

    def may_be_evicted(self, session: str, by: float) -> bool:
        """Say whether so many other log-ins of its user may have come after it that it ended."""
        life = self.lives.get(session)
        if life is None or not life.creates or life.creates[0].limit is None:
            return False
        own, crowd = life.creates[0], self._crowds[life.creates[0].user]
        # The attempt that began it may have had no answer.
        begun = min(create.start for create in crowd if create.key == own.key)
        others = {
            create.key
            for create in crowd
            if create.key != own.key and _may_end(create) >= begun and create.start <= by
        }
        return own.limit is not None and len(others) >= own.limit

    def bound(self, at: float) -> float:
        """Return how long a revocation that was acknowledged at that moment may take."""
        meanwhile = [
            fault.bound
            for fault in self.faults
            if fault.start <= at + self.rules.healthy and at <= fault.end + self.rules.settling
        ]
        return max(meanwhile, default=self.rules.healthy)

    def _take(self, entry: Entry) -> None:
        match entry:
            case Create(session=str(session)):
                self.lives[session].creates.append(entry)
                self._join(entry)
            case Create():
                self._join(entry)
            case Revoke(session=session):
                self.lives[session].revokes.append(entry)
            case Refresh(session=session):
                insort(self.lives[session].refreshes, entry, key=lambda refresh: refresh.start)
            case Check(road=Road.OVER, result=Result.FAIL, session=str(session), token=int(token)):
                if not self.lives[session].rotations(token):
                    self.lives[session].noes.append((entry.start, entry.end))
            case Mark():
                self.faults.append(entry)
            case Forgotten(start=moment):
                self._forgotten.append(moment)
            case _:
                pass

    def _join(self, create: Create) -> None:
        if create.limit is not None:
            self._crowds[create.user].append(create)

    def _is_reuse(self, life: Life, refresh: Refresh) -> bool:
        """Say whether a refused refresh surely came after the grace, and so ended the session."""
        if refresh.result is not Result.FAIL:
            return False
        done = [
            before.end
            for before in life.rotations(refresh.token)
            if before.result is Result.OK and before is not refresh
        ]
        return refresh.start > min(done, default=inf) + self.rules.grace + self.rules.clocks

    def _may_be_reuse(self, life: Life, refresh: Refresh) -> float:
        """Return the first moment at which this one may have ended the session; inf: it did not.

        One that was never answered may have waited somewhere until the grace was over.
        """
        begun = [before.start for before in life.rotations(refresh.token) if before is not refresh]
        over = min(begun, default=inf) + self.rules.grace - self.rules.clocks
        answered = refresh.status != 0
        return inf if answered and refresh.end < over else max(over, refresh.start)


def _may_end(create: Create) -> float:
    """Return until when a log-in may have taken effect: without a yes, whenever it got through."""
    return create.end if create.result is Result.OK else inf
