"""Statistics of one fault from a history: shares, percentiles, recovery time. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, inf

from tests.faults.history import (
    ALWAYS_VALID,
    POSTGRES,
    REDIS,
    RIG,
    Check,
    Create,
    Entry,
    FaultPeriod,
    Refresh,
    Result,
    Revoke,
    Stall,
    TokenCategory,
)
from tests.faults.ledger import Ledger
from tests.faults.ledgers import Ledgers
from tests.faults.rules import Rules

Write = Create | Revoke | Refresh

# Share of operations that may fail after a recovery: on a busy machine one check in two hundred.
_TOLERATED_CHECK_FAILURES = 0.005
_TOLERATED_WRITE_FAILURES = 0.05

# Failures in the last tenth of the observed time count as not recovered.
_OBSERVED_SHARE = 0.9

# Seconds: half of the Redis timeout, and the longest delay until a stall is recorded.
_LONG_STALL = 0.0125
_MAX_STALL_DELAY = 1.0


@dataclass(frozen=True, slots=True)
class FaultStats:
    """Of the requests with a valid token during a fault. Seconds; None without any request."""

    requests: int
    allowed: int
    excluded: int  # not counted: a process involved was waiting for the CPU
    p50: float | None
    p99: float | None
    baseline_p99: float | None  # before the fault
    recovery: float | None
    revocations: int  # requested during the fault
    acknowledged: int  # of those revocations
    last_allow: float  # the longest time after a revocation at which a check was allowed

    @property
    def valid(self) -> float | None:
        """The share that was allowed, or None."""
        return self.allowed / self.requests if self.requests else None


def compute_stats(
    history: Iterable[Entry],
    faults: Sequence[FaultPeriod],
    *,
    only_instance: str | None = None,
    rules: Rules | None = None,
) -> FaultStats:
    """Compute the statistics of the episodes of one fault.

    `only_instance`: count only the requests that went to this instance first.
    """
    entries = list(history)
    ledgers = Ledgers(entries, rules or Rules())
    requests = [
        entry
        for entry in entries
        if isinstance(entry, Check) and _must_be_allowed(entry, ledgers.of(entry))
    ]
    writes = [entry for entry in entries if isinstance(entry, Write)]
    evicted = _evicted_since(requests)
    relevant = [
        request
        for fault in faults
        for request in requests
        if fault.start <= request.requested_at <= fault.end
        and not (fault.exclude_cold and evicted.get(request.session, inf) <= request.requested_at)
        and (only_instance is None or (request.instance == only_instance and not request.is_retry))
    ]
    starved = _CpuStarvation(entries)
    during = [request for request in relevant if not starved.overlaps(request)]
    durations = sorted(request.end - request.requested_at for request in during if request.status)
    before = sorted(
        request.end - request.requested_at
        for request in requests
        if request.requested_at < faults[0].start and not starved.overlaps(request)
    )
    revocations = [
        write for write in writes if isinstance(write, Revoke) and _is_during(write, faults)
    ]
    return FaultStats(
        requests=len(during),
        allowed=sum(request.result is Result.OK for request in during),
        excluded=len(relevant) - len(during),
        p50=percentile(durations, 50),
        p99=percentile(durations, 99),
        baseline_p99=percentile(before, 99),
        recovery=max(
            _recovery_time(fault.end, then, requests, writes)
            for fault, then in zip(faults, _observed_until(faults), strict=True)
        ),
        revocations=len(revocations),
        acknowledged=sum(revoke.result is Result.OK for revoke in revocations),
        last_allow=_last_allow(entries, ledgers),
    )


def count_revocations(episode: FaultPeriod, history: Iterable[Entry]) -> int:
    """Return the number of revocations requested during one episode."""
    return sum(isinstance(entry, Revoke) and _is_during(entry, [episode]) for entry in history)


def _evicted_since(requests: Iterable[Check]) -> dict[str | None, float]:
    """Return since when each session may be in the memory of one instance but not in Redis."""
    since: dict[str | None, float] = {}
    for request in requests:
        if request.category is TokenCategory.COLD:
            since[request.session] = min(request.requested_at, since.get(request.session, inf))
    return since


def percentile(ascending: Sequence[float], percent: float) -> float | None:
    """Return the smallest value that `percent` of all do not exceed."""
    if not ascending:
        return None
    return ascending[max(0, ceil(len(ascending) * percent / 100) - 1)]


class _CpuStarvation:
    """Times at which a process involved in a check waited long for the CPU.

    Requests that overlap with such a time are excluded, whatever their result: they measure the
    machine, not Sidegate.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        entries = list(entries)
        excused = [
            entry for entry in entries if isinstance(entry, FaultPeriod) and entry.cpu_starved
        ]
        self._spans = sorted(
            (stall.start, stall.end, stall.process)
            for stall in entries
            if isinstance(stall, Stall)
            and stall.waited >= _LONG_STALL
            and not any(fault.start <= stall.start <= fault.end for fault in excused)
        )
        self._starts = [start for start, _, _ in self._spans]

    def overlaps(self, check: Check) -> bool:
        """Return whether the check was in progress at such a time."""
        first = bisect_left(self._starts, check.requested_at - _MAX_STALL_DELAY)
        last = bisect_right(self._starts, check.end)
        return any(
            end >= check.requested_at and process in (RIG, REDIS, POSTGRES, check.instance)
            for _, end, process in self._spans[first:last]
        )


def _must_be_allowed(check: Check, ledger: Ledger) -> bool:
    return (
        check.category in ALWAYS_VALID
        and not (check.retried or check.aborted or check.after_restart)
        and ledger.may_have_ended_at(check.session or "") > check.end
        and ledger.grace_may_have_ended_at(check.session or "", check.token or 0) > check.end
    )


def _is_during(write: Write, faults: Sequence[FaultPeriod]) -> bool:
    return any(fault.start <= write.start <= fault.end for fault in faults)


def _observed_until(faults: Sequence[FaultPeriod]) -> Iterable[float]:
    """Return for each period until when its recovery was observed."""
    next_starts = (*(fault.start for fault in faults[1:]), inf)
    return (
        start if fault.observed_until is None else min(start, fault.observed_until)
        for fault, start in zip(faults, next_starts, strict=True)
    )


def _recovery_time(
    repaired_at: float, until: float, requests: Sequence[Check], writes: Sequence[Write]
) -> float:
    """Return the seconds from the repair until checks and writes succeeded again.

    inf: they did not until the next episode started or the observation ended.
    """
    checked = [(check.requested_at, check.result is Result.OK) for check in requests]
    written = [(write.start, 0 < write.status < 500) for write in writes]
    observed_until = min(until, max((at for at, _ in (*checked, *written)), default=repaired_at))
    recovered_after = max(
        _last_failure(
            repaired_at, [each for each in checked if each[0] < until], _TOLERATED_CHECK_FAILURES
        ),
        _last_failure(
            repaired_at, [each for each in written if each[0] < until], _TOLERATED_WRITE_FAILURES
        ),
    )
    return (
        recovered_after
        if recovered_after <= _OBSERVED_SHARE * (observed_until - repaired_at)
        else inf
    )


def _last_failure(
    repaired_at: float, outcomes: Iterable[tuple[float, bool]], tolerated: float
) -> float:
    """Return the seconds from `repaired_at` to the last failure beyond the tolerated share."""
    recovered_after, failed = 0.0, 0
    for after, (at, succeeded) in enumerate(sorted(outcomes, reverse=True), 1):
        if at < repaired_at:
            break
        failed += not succeeded
        if not succeeded and failed > max(1, after * tolerated):
            recovered_after = max(recovered_after, at - repaired_at)
    return recovered_after


def _last_allow(entries: Iterable[Entry], ledgers: Ledgers) -> float:
    delays = [
        entry.start - ledgers.of(entry).ended_at(entry.session)
        for entry in entries
        if isinstance(entry, Check)
        and entry.category is TokenCategory.ENDED
        and entry.result is Result.OK
        and entry.session is not None
    ]
    return max((seconds for seconds in delays if seconds > 0), default=0.0)
