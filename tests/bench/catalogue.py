"""All metrics by name, and the goals."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.bench import alternatives, footprint, references, revocation, sidegate_targets, tails
from tests.bench.effort import FULL, Effort
from tests.bench.environment import Environment
from tests.bench.goals import AtLeast, AtMost, AtMostTimes, Goal, compared_metrics, measured_metric
from tests.bench.series import Series
from tests.bench.target import Target


class Unit(StrEnum):
    """The unit of a metric."""

    RATE = "/s"
    MEGABYTES = "MB"
    SECONDS = "s"
    MILLISECONDS = "ms"
    NUMBER = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric with a value per round. `is_reference`: not of Sidegate."""

    name: str
    title: str
    unit: Unit = Unit.RATE
    is_reference: bool = False


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A metric that is measured with wrk, in turn with the other benchmarks.

    An `optional` one is also skipped if its server does not start or sends unexpected responses.
    """

    metric: Metric
    open: Callable[[Environment], Target]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """Metrics that are measured together, once, before the benchmarks."""

    metrics: tuple[Metric, ...]
    measure: Callable[[Environment, Effort], Mapping[str, Series]]


PROBES: Final = (
    Probe((Metric("ready", "start until ready", Unit.SECONDS),), footprint.measure_startup),
    Probe(
        (
            Metric("memory-idle", "resident memory, idle", Unit.MEGABYTES),
            Metric("memory-100k", "100,000 sessions in memory add", Unit.MEGABYTES),
            Metric("slowest-100k", "slowest response while they are cached", Unit.MILLISECONDS),
        ),
        footprint.measure_memory,
    ),
    Probe(
        (
            Metric("revoked-p50", "revocation until denied elsewhere, median", Unit.MILLISECONDS),
            Metric("revoked-p99", "revocation until denied elsewhere, p99", Unit.MILLISECONDS),
        ),
        revocation.measure_delay,
    ),
)

BENCHMARKS: Final = (
    Benchmark(Metric("local", "hit in memory, all features on"), sidegate_targets.start_local),
    Benchmark(
        Metric("local-million", "hit in memory, 1,000,000 stored"),
        sidegate_targets.start_local_million,
    ),
    Benchmark(Metric("redis", "hit in Redis"), sidegate_targets.start_redis_only),
    Benchmark(Metric("postgres", "hit in Postgres"), sidegate_targets.start_postgres_only),
    Benchmark(
        Metric("postgres-million", "hit in Postgres, 1,000,000 stored"),
        sidegate_targets.start_postgres_million,
    ),
    Benchmark(
        Metric("nginx", "nginx, return 200", is_reference=True), references.start_plain_nginx
    ),
    Benchmark(
        Metric("nginx-lua", "nginx + Lua + Redis GET", is_reference=True),
        references.start_nginx_with_lua,
    ),
    Benchmark(
        Metric("aiohttp", "plain aiohttp + redis-py GET", is_reference=True),
        references.start_plain_aiohttp,
    ),
    Benchmark(
        Metric("go", "Go + go-redis GET", is_reference=True),
        references.start_go,
        optional=True,
    ),
    Benchmark(
        Metric("rust", "Rust, axum + redis-rs GET", is_reference=True),
        references.start_rust,
        optional=True,
    ),
    Benchmark(
        Metric("nginx-file", "nginx, a small file", is_reference=True),
        references.start_nginx_with_file,
    ),
    Benchmark(
        Metric("auth-request", "nginx, that file, auth_request to Sidegate"),
        sidegate_targets.start_behind_nginx,
    ),
    Benchmark(Metric("create", "admin API: create"), sidegate_targets.start_create),
    Benchmark(Metric("refresh", "admin API: refresh"), sidegate_targets.start_refresh),
    Benchmark(
        Metric("oauth2-proxy", "oauth2-proxy, Redis", is_reference=True),
        alternatives.start_oauth2_proxy,
        optional=True,
    ),
    Benchmark(
        Metric("oathkeeper", "Oathkeeper, introspection", is_reference=True),
        alternatives.start_oathkeeper,
        optional=True,
    ),
)

GOALS: Final[tuple[Goal, ...]] = (
    AtLeast("local", 0.48, "nginx"),
    AtLeast("local", 6.0, "oauth2-proxy"),
    AtLeast("redis", 0.50, "nginx-lua"),
    AtLeast("redis", 2.0, "oauth2-proxy"),
    AtLeast("redis", 0.80, "go"),
    AtLeast("postgres", 0.137, "nginx-lua"),
    AtLeast("auth-request", 0.33, "nginx-file"),
    AtMostTimes("create:cpu", 4.5, "aiohttp:cpu"),
    AtMostTimes("refresh:cpu", 6.0, "aiohttp:cpu"),
    AtLeast("local-million", 0.90, "local"),
    AtMost("memory-idle", 60.0),
    AtMost("memory-100k", 110.0),
    AtMost("ready", 1.0),
    AtMost("revoked-p99", 50.0),
)


TAILS: Final = tails.NAME


def all_names() -> list[str]:
    """Return the names that can be selected."""
    return [*(metric.name for metric in all_metrics()), TAILS]


def all_metrics() -> Iterator[Metric]:
    """Yield all metrics, in the order of the report."""
    for benchmark in BENCHMARKS:
        yield benchmark.metric
    for probe in PROBES:
        yield from probe.metrics


def with_references(names: Collection[str]) -> set[str]:
    """Return the names and those of their references. Raise ValueError for unknown names."""
    known = all_names()
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"unknown metric {', '.join(unknown)}; available: {', '.join(known)}")
    compared = (compared_metrics(goal) for goal in GOALS if measured_metric(goal) in names)
    return set(names).union(*compared)


def goals_about(
    names: Collection[str], tail_sessions: tuple[int, ...] = FULL.tail_sessions
) -> list[Goal]:
    """Return the goals whose metrics are all in `names`, and those about tails."""
    about = [goal for goal in GOALS if compared_metrics(goal) <= set(names)]
    return about + (tails.goals(tail_sessions) if TAILS in names else [])
