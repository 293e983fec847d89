"""From what was noted during a fault to its row of the table."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tests.faults import history
from tests.faults.checker import breaches
from tests.faults.faults import Fault
from tests.faults.figures import Figures, figures, revoked_during
from tests.faults.gateway import Upstream
from tests.faults.history import now
from tests.faults.plan import Row
from tests.faults.rules import Breach
from tests.faults.stage import Stage
from tests.faults.trail import wrong_lists

# What was seen so long before a fault is told with it, for nobody else would.
_BEFORE: Final = 5.0


def row_of(fault: Fault, marks: Sequence[history.Mark], stage: Stage) -> Row:
    """Judge what the stage's record holds of a fault, whose episodes were `marks`."""
    entries = stage.record.entries
    seen = figures(entries, marks, only_at="other" if fault.only_other else None)
    for mark in marks:  # five a second, and the shortest of them lasts two seconds
        where = mark.episode or "it"
        stage.expect(f"no revocation fell into {where}", seen=revoked_during(mark, entries))
    found = {*breaches(entries), *wrong_lists(entries), *_too_little(fault, seen)}
    found |= {*_deaths(stage.load.gateway.upstreams), *stage.breaches}
    since = marks[0].start - _BEFORE
    told = (breach for breach in found if breach.when >= since)
    return Row(
        fault=fault,
        figures=seen,
        breaches=tuple(sorted(told, key=lambda breach: breach.when)),
        absent=tuple(dict.fromkeys(stage.absent)),
    )


def _deaths(upstreams: Iterable[Upstream]) -> Iterator[Breach]:
    """An instance that has ended by itself tells why in the last lines of its log."""
    for upstream in upstreams:
        server = upstream.sidegate.server
        ended = server.process.poll()
        if ended is not None:
            last = server.log[-600:].strip()
            yield Breach("I12", f"{upstream.name} ended with {ended}: {last}", now())


def _too_little(fault: Fault, seen: Figures) -> list[Breach]:
    """Return where the figures are worse than the table says: the share, and the recovery (I12)."""
    found = []
    if fault.valid is not None and (seen.valid is None or seen.valid < fault.valid):
        share = "nothing" if seen.valid is None else f"{seen.valid:.3%}"
        why = f"{share} of valid checks were allowed, not {fault.valid:.1%}"
        found.append(Breach("valid", why, now()))
    if fault.recovery is not None and (seen.recovery or 0.0) > fault.recovery:
        why = f"full service after {seen.recovery} s, not {fault.recovery} s"
        found.append(Breach("I12", why, now()))
    return found
