"""The order in which things are measured: first what wants quiet, then all roads in turn."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from tests.bench.catalogue import PROBES, ROADS
from tests.bench.cores import Cores, cpu_seconds
from tests.bench.effort import Effort
from tests.bench.errors import NotMeasurable, WrongAnswers
from tests.bench.load import Sample, load, wrk
from tests.bench.series import Series
from tests.bench.stage import Stage
from tests.bench.target import Target
from tests.support.processes import ServerDied

Say = Callable[[str], None]
"""Told of progress, a line each."""

# Before each round: what the last road has changed, Postgres is still busy with, beside wrk.
_SETTLING: Final = 5.0
# Before each sample: connections are opened, caches filled, copies fetched that have grown old.
_WARM_UP: Final = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """Of a road also: the p99 in milliseconds, what part of its core the server used, what part of
    the requests failed, and how many hits came with one round trip to a store.
    """

    series: Series
    p99: Series | None = None
    busy: Series | None = None
    failed: float = 0.0
    batch_size: Series | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What was measured, and what was left out, each by its name; the latter with the reason."""

    measured: Mapping[str, Measured]
    left_out: Mapping[str, str]

    def series(self) -> dict[str, Series]:
        return {name: measured.series for name, measured in self.measured.items()}


def run(wanted: Collection[str], effort: Effort, say: Say) -> Findings:
    """Measure what is wanted, on a stage of its own.

    NotMeasurable: nothing can be measured here. WrongAnswers, ServerDied: no figure would be true.
    """
    cores = Cores.of_this_machine()
    cores.leave_the_server_alone()
    with ExitStack() as stack:
        stage = Stage(stack, cores, say)
        left_out: dict[str, str] = {}
        probed = _probed(stage, wanted, effort, left_out)
        targets = _opened(stage, wanted, left_out)
        return Findings(probed | _in_turn(targets, effort, say), left_out)


def _probed(
    stage: Stage, wanted: Collection[str], effort: Effort, left_out: dict[str, str]
) -> dict[str, Measured]:
    measured: dict[str, Measured] = {}
    for probe in PROBES:
        names = [thing.name for thing in probe.things]
        if not set(names).isdisjoint(wanted):
            stage.say("; ".join(thing.title for thing in probe.things))
            with _or_left_out(names, left_out):
                found = probe.measure(stage, effort)
                measured |= {name: Measured(series) for name, series in found.items()}
    return measured


def _opened(stage: Stage, wanted: Collection[str], left_out: dict[str, str]) -> dict[str, Target]:
    targets: dict[str, Target] = {}
    for road in ROADS:
        name = road.thing.name
        if name in wanted:
            stage.say(f"starting: {road.thing.title}")
            excuses = (ServerDied, WrongAnswers) if road.optional else ()
            with _or_left_out([name], left_out, *excuses):
                wrk()
                target = road.open(stage)
                target.check()
                targets[name] = target
    return targets


def _in_turn(targets: Mapping[str, Target], effort: Effort, say: Say) -> dict[str, Measured]:
    """Every road has its turn in every round: what disturbs the machine disturbs all of them."""
    taken: dict[str, list[_Taken]] = {name: [] for name in targets}
    for number in range(1, effort.rounds + 1):
        time.sleep(_SETTLING)
        for name, target in targets.items():
            taken[name].append(_sample(name, target, effort.seconds))
            say(f"round {number} of {effort.rounds}: {name} {taken[name][-1].sample.rate:,.0f} /s")
    return {name: _measured(samples) for name, samples in taken.items()}


@dataclass(frozen=True, slots=True)
class _Taken:
    sample: Sample
    busy: float
    batch_size: float | None


def _sample(name: str, target: Target, seconds: int) -> _Taken:
    _load(name, target, _WARM_UP)
    seen = None if target.witness is None else target.witness.seen()
    used = cpu_seconds(target.under_test)
    sample = _load(name, target, seconds)
    busy = (cpu_seconds(target.under_test) - used) / sample.duration
    batch_size = None
    if target.witness is not None and seen is not None:
        after = target.witness.seen()
        after.confirm(seen, name)
        batch_size = after.batch_size(seen)
    return _Taken(sample, busy, batch_size)


def _load(name: str, target: Target, seconds: int) -> Sample:
    try:
        return load(target.port, target.requests(), seconds=seconds, script=target.script)
    except WrongAnswers as why:
        raise WrongAnswers(f"{name}: {why}") from None


def _measured(taken: list[_Taken]) -> Measured:
    return Measured(
        Series(tuple(each.sample.rate for each in taken)),
        p99=Series(tuple(each.sample.p99 * 1000 for each in taken)),
        busy=Series(tuple(each.busy for each in taken)),
        failed=_share_failed([each.sample for each in taken]),
        batch_size=_series(each.batch_size for each in taken),
    )


def _series(values: Iterable[float | None]) -> Series | None:
    known = tuple(value for value in values if value is not None)
    return Series(known) if known else None


def _share_failed(samples: Sequence[Sample]) -> float:
    failed = sum(sample.failed for sample in samples)
    return failed / (failed + sum(sample.good for sample in samples))


@contextmanager
def _or_left_out(
    names: Iterable[str], left_out: dict[str, str], *excuses: type[Exception]
) -> Iterator[None]:
    reasons: tuple[type[Exception], ...] = (NotMeasurable, *excuses)
    try:
        yield
    except reasons as why:
        left_out |= dict.fromkeys(names, str(why))
