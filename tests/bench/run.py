"""The order of the measurements: the probes on an idle machine, the tails, the benchmarks."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.bench.catalogue import BENCHMARKS, PROBES, TAILS
from tests.bench.cores import Cores, cpu_seconds
from tests.bench.effort import Effort
from tests.bench.environment import Environment
from tests.bench.errors import NotMeasurable, UnexpectedResponses
from tests.bench.load import Sample, find_wrk, load
from tests.bench.series import Series
from tests.bench.tails import Cell, measure_tails
from tests.bench.target import Target
from tests.support.processes import ServerFailed

Progress = Callable[[str], None]
"""Receives one line of progress."""

# Seconds before each round, in which Postgres finishes the writes of the last benchmark.
_SETTLE_TIME: Final = 5.0
# Seconds before each sample: connections are opened, and expired cache entries are looked up.
_WARM_UP_TIME: Final = 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """The values of a metric.
    Benchmarks also have the p99 in milliseconds, the share of its core that the server used, the
    share of failed requests, the number of hits per round trip to a store, and the CPU time of the
    server for an answer in microseconds.
    """

    series: Series
    p99: Series | None = None
    core_usage: Series | None = None
    failed: float = 0.0
    batch_size: Series | None = None
    cpu: Series | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """The measurements, the reasons of skipped ones, and the cells of the tails, by name."""

    measured: Mapping[str, Measurement]
    skipped: Mapping[str, str]
    tails: Mapping[str, Cell] = field(default_factory=dict)

    def series(self) -> dict[str, Series]:
        """Return what goals are about: the values of each metric, and its further figures."""
        found = {name: measured.series for name, measured in self.measured.items()}
        for name, measured in self.measured.items():
            if measured.cpu is not None:
                found[f"{name}:cpu"] = measured.cpu
        for name, cell in self.tails.items():
            found |= {f"{name}:{figure}": series for figure, series in cell.series().items()}
        return found


def run(selected: Collection[str], effort: Effort, progress: Progress) -> Results:
    """Measure the selected metrics in an environment of their own.

    Raise NotMeasurable if nothing can be measured on this machine, UnexpectedResponses or
    ServerFailed if a target does not work.
    """
    cores = Cores.detect()
    cores.avoid_server_core()
    with ExitStack() as stack:
        environment = Environment(stack, cores, progress)
        skipped: dict[str, str] = {}
        probed = _run_probes(environment, selected, effort, skipped)
        # Before the targets are started: even an idle instance would add to the latencies.
        tails = measure_tails(environment, effort, skipped) if TAILS in selected else {}
        targets = _start_targets(environment, selected, skipped)
        return Results(probed | _run_rounds(targets, effort, progress), skipped, tails)


def _run_probes(
    environment: Environment, selected: Collection[str], effort: Effort, skipped: dict[str, str]
) -> dict[str, Measurement]:
    measured: dict[str, Measurement] = {}
    for probe in PROBES:
        names = [metric.name for metric in probe.metrics]
        if not set(names).isdisjoint(selected):
            environment.progress("; ".join(metric.title for metric in probe.metrics))
            with _skip_on_error(names, skipped):
                found = probe.measure(environment, effort)
                measured |= {name: Measurement(series) for name, series in found.items()}
    return measured


def _start_targets(
    environment: Environment, selected: Collection[str], skipped: dict[str, str]
) -> dict[str, Target]:
    targets: dict[str, Target] = {}
    for benchmark in BENCHMARKS:
        name = benchmark.metric.name
        if name in selected:
            environment.progress(f"starting: {benchmark.metric.title}")
            skipped_errors = (ServerFailed, UnexpectedResponses) if benchmark.optional else ()
            with _skip_on_error([name], skipped, *skipped_errors):
                find_wrk()
                target = benchmark.open(environment)
                target.check()
                targets[name] = target
    return targets


def _run_rounds(
    targets: Mapping[str, Target], effort: Effort, progress: Progress
) -> dict[str, Measurement]:
    """Run all benchmarks in each round, so that a disturbance affects all of them alike."""
    samples: dict[str, list[_Sample]] = {name: [] for name in targets}
    for number in range(1, effort.rounds + 1):
        time.sleep(_SETTLE_TIME)
        for name, target in targets.items():
            samples[name].append(_take_sample(name, target, effort.seconds))
            progress(
                f"round {number} of {effort.rounds}: {name} {samples[name][-1].sample.rate:,.0f} /s"
            )
    return {name: _summarize(taken) for name, taken in samples.items()}


@dataclass(frozen=True, slots=True)
class _Sample:
    sample: Sample
    cpu: float
    core_usage: float
    batch_size: float | None


def _take_sample(name: str, target: Target, seconds: int) -> _Sample:
    """Take a sample. An error ends with the servers' logs."""
    try:
        _load(target, _WARM_UP_TIME)
        before = None if target.hit_counter is None else target.hit_counter.read()
        used_before = cpu_seconds(target.under_test)
        sample = _load(target, seconds)
        used = cpu_seconds(target.under_test) - used_before
        batch_size = None
        if target.hit_counter is not None and before is not None:
            after = target.hit_counter.read()
            after.verify(before, name)
            batch_size = after.batch_size(before)
    except UnexpectedResponses as why:
        raise UnexpectedResponses(f"{name}: {why}\n{target.log_tail()}") from None
    cpu = used / (sample.good + sample.failed)
    return _Sample(sample, cpu, used / sample.duration, batch_size)


def _load(target: Target, seconds: int) -> Sample:
    return load(target.port, target.requests(), seconds=seconds, script=target.script)


def _summarize(samples: list[_Sample]) -> Measurement:
    return Measurement(
        Series(tuple(each.sample.rate for each in samples)),
        cpu=Series(tuple(each.cpu * 1e6 for each in samples)),
        p99=Series(tuple(each.sample.p99 * 1000 for each in samples)),
        core_usage=Series(tuple(each.core_usage for each in samples)),
        failed=_failure_share([each.sample for each in samples]),
        batch_size=_series(each.batch_size for each in samples),
    )


def _series(values: Iterable[float | None]) -> Series | None:
    known = tuple(value for value in values if value is not None)
    return Series(known) if known else None


def _failure_share(samples: Sequence[Sample]) -> float:
    failed = sum(sample.failed for sample in samples)
    return failed / (failed + sum(sample.good for sample in samples))


@contextmanager
def _skip_on_error(
    names: Iterable[str], skipped: dict[str, str], *skipped_errors: type[Exception]
) -> Iterator[None]:
    reasons: tuple[type[Exception], ...] = (NotMeasurable, *skipped_errors)
    try:
        yield
    except reasons as why:
        skipped |= dict.fromkeys(names, str(why))
