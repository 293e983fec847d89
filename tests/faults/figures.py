"""What a history says of one fault in figures: shares, percentiles, recovery. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, inf

from tests.faults.history import (
    LIVE,
    POSTGRES,
    REDIS,
    RIG,
    Check,
    Create,
    Entry,
    Mark,
    Refresh,
    Result,
    Revoke,
    Road,
    Stall,
)
from tests.faults.ledger import Ledger
from tests.faults.rules import Rules

Write = Create | Revoke | Refresh

# After a recovery a single check may still be unlucky on a busy machine: one in two hundred.
_UNLUCKY_CHECKS = 0.005
_UNLUCKY_WRITES = 0.05

# Whoever still fails in the last part of the time that was looked at has not recovered.
_LOOKED = 0.9

# Half of the time Redis has for an answer. A stall is noted at the latest after so many seconds.
_LONG = 0.0125
_SPAN = 1.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the requests with a valid token during a fault. Seconds; None where nothing was asked."""

    requests: int
    allowed: int
    left_out: int  # not counted: somebody had to wait for the CPU meanwhile
    p50: float | None
    p99: float | None
    base_p99: float | None  # just before
    recovery: float | None
    revocations: int  # asked for during the fault
    acknowledged: int  # of those
    late_allow: float  # the longest that a check was allowed after its revocation

    @property
    def valid(self) -> float | None:
        """The share that was allowed."""
        return self.allowed / self.requests if self.requests else None


def figures(
    history: Iterable[Entry],
    faults: Sequence[Mark],
    *,
    only_at: str | None = None,
    rules: Rules | None = None,
) -> Figures:
    """Measure the episodes of one fault. `only_at`: count what this instance was asked first."""
    entries = list(history)
    ledger = Ledger(entries, rules or Rules())
    requests = [
        entry for entry in entries if isinstance(entry, Check) and _is_owed_an_allow(entry, ledger)
    ]
    writes = [entry for entry in entries if isinstance(entry, Write)]
    forgotten = _forgotten(requests)
    asked = [
        request
        for fault in faults
        for request in requests
        if fault.start <= request.asked <= fault.end
        and not (fault.without_cold and forgotten.get(request.session, inf) <= request.asked)
        and (only_at is None or (request.at == only_at and not request.again))
    ]
    starved = _Starved(entries)
    during = [request for request in asked if not starved.met(request)]
    took = sorted(request.end - request.asked for request in during if request.status)
    before = sorted(
        request.end - request.asked
        for request in requests
        if request.asked < faults[0].start and not starved.met(request)
    )
    revocations = [
        write for write in writes if isinstance(write, Revoke) and _within(write, faults)
    ]
    return Figures(
        requests=len(during),
        allowed=sum(request.result is Result.OK for request in during),
        left_out=len(asked) - len(during),
        p50=percentile(took, 50),
        p99=percentile(took, 99),
        base_p99=percentile(before, 99),
        recovery=max(
            _recovery(fault.end, then, requests, writes)
            for fault, then in zip(faults, _next_ones(faults), strict=True)
        ),
        revocations=len(revocations),
        acknowledged=sum(revoke.result is Result.OK for revoke in revocations),
        late_allow=_late_allow(entries, ledger),
    )


def revoked_during(episode: Mark, history: Iterable[Entry]) -> int:
    """Return how many revocations were asked for during one episode."""
    return sum(isinstance(entry, Revoke) and _within(entry, [episode]) for entry in history)


def _forgotten(requests: Iterable[Check]) -> dict[str | None, float]:
    """Return since when each session is perhaps in one instance's memory, and not in Redis."""
    since: dict[str | None, float] = {}
    for request in requests:
        if request.road is Road.COLD:
            since[request.session] = min(request.asked, since.get(request.session, inf))
    return since


def percentile(ascending: Sequence[float], percent: float) -> float | None:
    """Return the smallest value that `percent` of all do not exceed."""
    if not ascending:
        return None
    return ascending[max(0, ceil(len(ascending) * percent / 100) - 1)]


class _Starved:
    """When somebody who has a part in a check waited for the CPU for long.

    The figures are to tell of Sidegate, not of whatever else runs on the machine: such requests are
    left out, whatever came of them.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        entries = list(entries)
        excused = [entry for entry in entries if isinstance(entry, Mark) and entry.starving]
        self._spans = sorted(
            (stall.start, stall.end, stall.who)
            for stall in entries
            if isinstance(stall, Stall)
            and stall.waited >= _LONG
            and not any(fault.start <= stall.start <= fault.end for fault in excused)
        )
        self._starts = [start for start, _, _ in self._spans]

    def met(self, check: Check) -> bool:
        """Say whether the check was under way then."""
        first = bisect_left(self._starts, check.asked - _SPAN)
        last = bisect_right(self._starts, check.end)
        return any(
            end >= check.asked and who in (RIG, REDIS, POSTGRES, check.at)
            for _, end, who in self._spans[first:last]
        )


def _is_owed_an_allow(check: Check, ledger: Ledger) -> bool:
    return (
        check.road in LIVE
        and not (check.retried or check.left or check.last)
        and ledger.may_be_over(check.session or "") > check.end
        and ledger.may_be_rotated_out(check.session or "", check.token or 0) > check.end
    )


def _within(write: Write, faults: Sequence[Mark]) -> bool:
    return any(fault.start <= write.start <= fault.end for fault in faults)


def _next_ones(faults: Sequence[Mark]) -> Iterable[float]:
    """Return when each is followed by the next one."""
    return (*(fault.start for fault in faults[1:]), inf)


def _recovery(
    healed: float, until: float, requests: Sequence[Check], writes: Sequence[Write]
) -> float:
    """Return after how many seconds from the healing both checks and writes went well again.

    inf: when the next one began, or nobody looked any more, they did not yet.
    """
    asked = [(check.asked, check.result is Result.OK) for check in requests]
    written = [(write.start, 0 < write.status < 500) for write in writes]
    looked_until = min(until, max((moment for moment, _ in (*asked, *written)), default=healed))
    well = max(
        _well_from(healed, [each for each in asked if each[0] < until], _UNLUCKY_CHECKS),
        _well_from(healed, [each for each in written if each[0] < until], _UNLUCKY_WRITES),
    )
    return well if well <= _LOOKED * (looked_until - healed) else inf


def _well_from(healed: float, outcomes: Iterable[tuple[float, bool]], unlucky: float) -> float:
    """Return when, after `healed`, the last failure came that was more than bad luck."""
    well, failed = 0.0, 0
    for after, (asked, went_well) in enumerate(sorted(outcomes, reverse=True), 1):
        if asked < healed:
            break
        failed += not went_well
        if not went_well and failed > max(1, after * unlucky):
            well = max(well, asked - healed)
    return well


def _late_allow(entries: Iterable[Entry], ledger: Ledger) -> float:
    late = [
        entry.start - ledger.over(entry.session)
        for entry in entries
        if isinstance(entry, Check)
        and entry.road is Road.OVER
        and entry.result is Result.OK
        and entry.session is not None
    ]
    return max((seconds for seconds in late if seconds > 0), default=0.0)
