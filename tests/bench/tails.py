"""Latencies at rates below and above what a server can answer, in an open loop.

First the highest rate is measured in a closed loop; then a third and two thirds of it are sent;
then 1.5 and 3 times as much; then again a third, counted from a second after the overload. Each
cell is named by server, number of sessions and rate: `sidegate-2k-2/3`.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tests.bench import alternatives, references
from tests.bench.compilers import build_go
from tests.bench.connection import request_each_once
from tests.bench.cores import cpu_seconds
from tests.bench.effort import FULL, Effort
from tests.bench.environment import Environment
from tests.bench.errors import NotMeasurable, UnexpectedResponses
from tests.bench.goals import AtLeast, AtMost, AtMostTimes, Goal
from tests.bench.http_requests import build_subrequest
from tests.bench.open_loop import Generator, OpenLoopSample
from tests.bench.series import Series
from tests.bench.sessions import KnownSession
from tests.bench.sidegate_targets import ROUTE
from tests.support.processes import Server, ServerFailed

NAME: Final = "tails"

HIGHEST: Final = "highest"
RECOVERY: Final = "recovery"
_BELOW: Final = {"1/3": 1 / 3, "2/3": 2 / 3}
_ABOVE: Final = {"1.5x": 1.5, "3x": 3.0}

# Sidegate itself must work; a reference without which nothing can be said is skipped.
_REASONS_TO_SKIP: Final = (NotMeasurable, ServerFailed, UnexpectedResponses)

# As with wrk: with fewer good responses something else is measured.
_MIN_GOOD_SHARE: Final = 0.9

# Seconds before each measurement, in which connections are opened and caches are filled.
_WARM_UP: Final = 2.0
# From the end of the overload until everything has to be as before.
_RECOVERY_TIME: Final = 1.0


@dataclass(frozen=True, slots=True)
class Cell:
    """A sample at one rate. `cpu`: seconds of the server for an answer."""

    sample: OpenLoopSample
    cpu: float

    def series(self) -> dict[str, Series]:
        """Return the figures that goals are about, by name."""
        sample = self.sample
        figures = {
            "goodput": sample.goodput,
            "p99": sample.p99 * 1e3,
            "p99.9": sample.p999 * 1e3,
            "failed": sample.unavailable + sample.failed,
        }
        return {name: Series.of(value) for name, value in figures.items()}


def name_cell(system: str, sessions: int, rate: str) -> str:
    return f"{system}-{sessions // 1000}k-{rate}"


def _goals(sessions: int) -> Iterator[Goal]:
    def ours(rate: str, figure: str) -> str:
        return f"{name_cell('sidegate', sessions, rate)}:{figure}"

    reference = f"{name_cell('nginx-lua', sessions, '2/3')}:p99.9"
    yield AtMostTimes(ours("2/3", "p99.9"), 2.0, reference)
    yield AtMost(ours("2/3", "failed"), 0)
    for rate in _ABOVE:
        yield AtLeast(ours(rate, "goodput"), 0.9, ours(HIGHEST, "goodput"))
    yield AtMostTimes(ours(RECOVERY, "p99"), 2.0, ours("1/3", "p99"))
    yield AtMost(ours(RECOVERY, "failed"), 0)


def goals(sessions: tuple[int, ...] = FULL.tail_sessions) -> list[Goal]:
    """Return the goals with each of these numbers of sessions."""
    return [goal for each in sessions for goal in _goals(each)]


@dataclass(frozen=True, slots=True)
class System:
    """A server whose tails are measured. `requests` writes those for so many sessions."""

    server: Server
    requests: Callable[[int], Path]
    sessions: tuple[int, ...]
    status: int = 200


def measure_tails(
    environment: Environment, effort: Effort, skipped: dict[str, str]
) -> dict[str, Cell]:
    """Measure Sidegate and its references one after the other; what is missing is skipped."""
    cells: dict[str, Cell] = {}
    try:
        program = build_go("open-loop")
    except NotMeasurable as why:
        skipped[NAME] = str(why)
        return cells
    for name, start in _SYSTEMS.items():
        reasons = _REASONS_TO_SKIP if name != "sidegate" else (NotMeasurable,)
        try:
            system = start(environment, effort.tail_sessions)
            for cell_name, cell in _measure_system(name, system, program, effort.tail_seconds):
                cells[cell_name] = cell
                environment.progress(_format_progress(cell_name, cell.sample))
            system.server.stop()
        except reasons as why:
            skipped[f"{NAME} of {name}"] = str(why)
    return cells


def _measure_system(
    name: str, system: System, program: Path, seconds: float
) -> Iterator[tuple[str, Cell]]:
    def read_cpu() -> float:
        return cpu_seconds([system.server])

    try:
        for sessions in system.sessions:
            requests = system.requests(sessions)
            generator = Generator(program, system.server.port, requests, system.status)
            for rate, cell in measure_rates(generator, seconds, read_cpu=read_cpu):
                yield name_cell(name, sessions, rate), cell
    except UnexpectedResponses as why:
        raise UnexpectedResponses(f"{name}: {why}\n{system.server.log[-2000:]}") from None


class Load(Protocol):
    """What sends the requests: a Generator."""

    def closed_loop(self, *, seconds: float, warm_up: float) -> OpenLoopSample: ...

    def open_loop(self, rate: float, *, seconds: float, warm_up: float) -> OpenLoopSample: ...


def measure_rates(
    load: Load, seconds: float, *, read_cpu: Callable[[], float]
) -> Iterator[tuple[str, Cell]]:
    """Yield the cell of each rate by its name. `read_cpu` returns CPU seconds of the server so far.

    Raise UnexpectedResponses without answers, or if one in ten failed in the closed loop.
    """

    def measure(send: Callable[..., OpenLoopSample], *arguments: float, **times: float) -> Cell:
        before = read_cpu()
        sample = send(*arguments, **times)
        if not sample.answers:
            raise UnexpectedResponses(f"no answers: {sample}")
        return Cell(sample, (read_cpu() - before) / sample.answers)

    # A rate that is only exceeded or left shows within half the time.
    half = seconds / 2
    highest = measure(load.closed_loop, seconds=half, warm_up=_WARM_UP)
    if highest.sample.good < _MIN_GOOD_SHARE * highest.sample.offered * highest.sample.seconds:
        raise UnexpectedResponses(f"too few good responses: {highest.sample}")
    yield HIGHEST, highest
    rate = highest.sample.goodput
    for name, multiple in _BELOW.items():
        yield name, measure(load.open_loop, rate * multiple, seconds=seconds, warm_up=_WARM_UP)
    for name, multiple in _ABOVE.items():
        yield name, measure(load.open_loop, rate * multiple, seconds=half, warm_up=_WARM_UP)
    low = rate * _BELOW["1/3"]
    yield RECOVERY, measure(load.open_loop, low, seconds=half, warm_up=_RECOVERY_TIME)


def _format_progress(name: str, sample: OpenLoopSample) -> str:
    return (
        f"{name} {sample.offered:,.0f} /s: {sample.goodput:,.0f} /s good,"
        f" p99.9 {sample.p999 * 1e3:.1f} ms, {sample.unavailable} x 503, {sample.failed} failed"
    )


def _start_sidegate(environment: Environment, sessions: tuple[int, ...]) -> System:
    """Start an instance as deployed, with Redis and Postgres, and check each session once."""
    database = environment.hundred_thousand_database
    sidegate = environment.get_instance("tails", database)
    known = database.sessions[: max(sessions)]
    environment.progress(f"checking {len(known):,} sessions, so that Redis has them")
    checks = (build_subrequest(session, path=ROUTE) for session in known)
    asyncio.run(request_each_once(sidegate.server.port, checks))
    return System(sidegate.server, _writer(environment, known), sessions)


def _start_nginx_with_lua(environment: Environment, sessions: tuple[int, ...]) -> System:
    known = environment.hundred_thousand_database.sessions[: max(sessions)]
    references.store_tokens(environment, known)
    return System(references.run_nginx_with_lua(environment), _writer(environment, known), sessions)


def _start_oauth2_proxy(environment: Environment, sessions: tuple[int, ...]) -> System:
    """It has no cache: the number of sessions makes no difference. Those of `alternatives` do."""
    target = alternatives.start_oauth2_proxy(environment)
    [server] = target.under_test
    return System(server, lambda _: target.requests(), sessions[:1], target.status)


_SYSTEMS: Final[Mapping[str, Callable[[Environment, tuple[int, ...]], System]]] = {
    "sidegate": _start_sidegate,
    "nginx-lua": _start_nginx_with_lua,
    "oauth2-proxy": _start_oauth2_proxy,
}


def _writer(environment: Environment, known: list[KnownSession]) -> Callable[[int], Path]:
    def write(sessions: int) -> Path:
        requests = (build_subrequest(each, path=ROUTE) for each in known[:sessions])
        return environment.write_requests(requests)

    return write
