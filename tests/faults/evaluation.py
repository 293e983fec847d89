"""Evaluate the recorded operations of a fault: its row of the table."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tests.faults import history
from tests.faults.checker import find_violations
from tests.faults.consistency import find_wrong_lists
from tests.faults.context import FaultContext
from tests.faults.faults import Fault
from tests.faults.gateway import Upstream
from tests.faults.history import now
from tests.faults.plan import Row
from tests.faults.rules import Violation
from tests.faults.stats import FaultStats, compute_stats, count_revocations

# Seconds before a fault whose violations are reported with it.
_LEAD_TIME: Final = 5.0


def evaluate(fault: Fault, periods: Sequence[history.FaultPeriod], context: FaultContext) -> Row:
    """Return the row of a fault, whose episodes were in `periods`."""
    entries = context.recorder.entries
    stats = compute_stats(
        entries, periods, only_instance="other" if fault.only_other_instance else None
    )
    for period in periods:  # five a second, and the shortest period lasts two seconds
        where = period.episode or "the fault"
        context.expect(f"no revocation during {where}", observed=count_revocations(period, entries))
    found = {
        *find_violations(entries),
        *find_wrong_lists(entries),
        *_check_expectations(fault, stats),
    }
    found |= {*_find_exits(context.load.gateway.upstreams), *context.violations}
    since = periods[0].start - _LEAD_TIME
    relevant = (violation for violation in found if violation.time >= since)
    return Row(
        fault=fault,
        stats=stats,
        violations=tuple(sorted(relevant, key=lambda violation: violation.time)),
        missing_effects=tuple(dict.fromkeys(context.missing_effects)),
    )


def _find_exits(upstreams: Iterable[Upstream]) -> Iterator[Violation]:
    """Yield a violation for each instance that exited, with the end of its log."""
    for upstream in upstreams:
        server = upstream.sidegate.server
        exit_code = server.process.poll()
        if exit_code is not None:
            last = server.log[-600:].strip()
            yield Violation("I12", f"{upstream.name} exited with {exit_code}: {last}", now())


def _check_expectations(fault: Fault, stats: FaultStats) -> list[Violation]:
    """Return violations for a share or a recovery (I12) worse than expected."""
    found = []
    if fault.valid is not None and (stats.valid is None or stats.valid < fault.valid):
        share = "none" if stats.valid is None else f"{stats.valid:.3%}"
        message = f"{share} of valid checks were allowed, not {fault.valid:.1%}"
        found.append(Violation("valid", message, now()))
    if fault.recovery is not None and (stats.recovery or 0.0) > fault.recovery:
        message = f"full service after {stats.recovery} s, not {fault.recovery} s"
        found.append(Violation("I12", message, now()))
    return found
