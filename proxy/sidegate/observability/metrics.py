"""The metrics of one process, kept as plain numbers and exported to Prometheus at a scrape.

Every check is counted, so counting is one dictionary and one integer. The names, labels and buckets
of prometheus-client are built at a scrape. No label ever holds a token, a user, a path or an
address.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import accumulate
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sidegate.core.analytics import Report
from sidegate.core.session import Session
from sidegate.observability.analytics_gauges import GAUGES, read_gauges

# Seconds. From a hit in memory (tens of microseconds) to a store that hardly responds.
BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip


_Counter = dict[tuple[str, ...], int]


class Histogram:
    """One series of a histogram: the number of values in each bucket, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def with_immediate(self, count: int) -> "Histogram":
        """Return a copy with `count` more values in the first bucket, of no duration."""
        copy = Histogram()
        copy.counts = [self.counts[0] + count, *self.counts[1:]]
        copy.total = self.total
        return copy

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, cumulative count) pairs, as in the exposition format."""
        bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class MemoryStats(Protocol):
    """The memory cache, which counts its own hits and misses."""

    hits: int
    misses: int

    @property
    def size_bytes(self) -> int: ...

    def __len__(self) -> int: ...


class Metrics:
    """The counters and gauges of one process."""

    def __init__(self, *, version: str, revocation_bound: float) -> None:
        """`revocation_bound` is the maximum delay of a revocation in seconds, even in an outage."""
        self._version = version
        self._revocation_bound = revocation_bound
        self._checks: _Counter = defaultdict(int)
        self._fast_checks: dict[str, dict[tuple[str, str], int]] = defaultdict(
            lambda: defaultdict(int)
        )
        self._check_seconds: dict[tuple[str, ...], Histogram] = defaultdict(Histogram)
        self._lookup_seconds: dict[tuple[str, ...], Histogram] = defaultdict(Histogram)
        self._created: _Counter = defaultdict(int)
        self._ended: _Counter = defaultdict(int)
        self._touches: _Counter = defaultdict(int)
        self._cleanups: _Counter = defaultdict(int)
        self._audit_events: _Counter = defaultdict(int)
        self._samples: _Counter = defaultdict(int)
        self._report: Report | None = None
        self._locks: _Counter = defaultdict(int)
        self._mismatches: _Counter = defaultdict(int)
        self._binding_revocations: _Counter = defaultdict(int)
        self._deferred_revocations: _Counter = defaultdict(int)
        self._unreadable: _Counter = defaultdict(int)
        self._bad_requests: _Counter = defaultdict(int)
        self._admin_requests: _Counter = defaultdict(int)
        self._logouts: _Counter = defaultdict(int)
        self._feed_up: dict[tuple[str, ...], float] = {}
        self._feed_gaps: _Counter = defaultdict(int)
        self._feed_lag: dict[tuple[str, ...], float] = {}
        self._untrusted_peers = 0
        self._breakers: dict[str, Callable[[], str]] = {}
        self._round_trips: dict[str, Callable[[], int]] = {}
        self._memory: MemoryStats | None = None
        self._connections: Callable[[], Mapping[str, int]] = dict
        self._connections_refused = 0
        self._draining: Callable[[], bool] = lambda: False
        self._reload_successful = False
        self._reloaded_at = 0.0
        self._pending: Callable[[], int] = lambda: 0

    # Counters and gauges that are set as things happen

    def record_check(self, gateway: str, result: str, reason: str, seconds: float) -> None:
        """Count a check and its duration. The three labels come from short fixed lists."""
        self._checks[gateway, result, reason] += 1
        self._check_seconds[(gateway,)].observe(seconds)

    def fast_check_counts(self, gateway: str) -> dict[tuple[str, str], int]:
        """Return the counters, by result and reason, of checks too fast to be measured."""
        return self._fast_checks[gateway]

    def record_lookup(self, store: str, outcome: str, seconds: float) -> None:
        """Record a lookup in a store. `outcome` is hit, miss or error."""
        self._lookup_seconds[store, outcome].observe(seconds)

    def created(self, session: Session) -> None:
        self._created[(session.type,)] += 1

    def ended(self, session: Session, cause: str) -> None:
        """Count the end of a session. `cause` is a label and must come from a short fixed list."""
        self._ended[session.type, cause] += 1

    def count_touches(self, outcome: str, count: int) -> None:
        """Count updates of last_seen: written, failed or dropped."""
        self._touches[(outcome,)] += count

    def count_cleanups(self, outcome: str, count: int) -> None:
        """Count purged sessions, or failed attempts."""
        self._cleanups[(outcome,)] += count

    def count_audit_events(self, outcome: str, count: int) -> None:
        """Count audit events that were sealed or deleted, or failed rounds."""
        self._audit_events[(outcome,)] += count

    def count_sample(self, outcome: str) -> None:
        """Count a sample of all sessions: taken or failed."""
        self._samples[(outcome,)] += 1

    def set_report(self, report: Report) -> None:
        """Set the analytics of the last sample, of whichever instance."""
        self._report = report

    def count_lock(self, outcome: str) -> None:
        """Count an operation on a lock: acquired, contended, renewed, released or lost."""
        self._locks[(outcome,)] += 1

    def binding_mismatch(self, signal: str, policy: str) -> None:
        """Count a session presented by another client than it is bound to."""
        self._mismatches[signal, policy] += 1

    def binding_revocation(self, outcome: str) -> None:
        """Count a revocation for a mismatch: revoked, pending, failed or dropped."""
        self._binding_revocations[(outcome,)] += 1

    def count_deferred_revocation(self, outcome: str) -> None:
        """Count a revocation without the database: accepted, written later, or dropped."""
        self._deferred_revocations[(outcome,)] += 1

    def count_unreadable_record(self, store: str) -> None:
        self._unreadable[(store,)] += 1

    def count_bad_request(self, listener: str) -> None:
        """Count a request that was not HTTP."""
        self._bad_requests[(listener,)] += 1

    def count_admin_request(self, route: str, method: str, status: int) -> None:
        """Count a request to the admin API. `route` is the template, never the requested path."""
        self._admin_requests[route, method, str(status)] += 1

    def count_logout(self, provider: str, outcome: str) -> None:
        """Count a back-channel logout of a configured provider."""
        self._logouts[provider, outcome] += 1

    def count_untrusted_peer(self) -> None:
        self._untrusted_peers += 1

    def count_refused_connection(self) -> None:
        """Count a connection to the gate above gate.max_connections."""
        self._connections_refused += 1

    def set_feed_up(self, feed: str, up: bool) -> None:
        self._feed_up[(feed,)] = float(up)

    def count_feed_gap(self, feed: str) -> None:
        self._feed_gaps[(feed,)] += 1

    def set_feed_lag(self, feed: str, seconds: float) -> None:
        """Set the seconds from publishing on a feed to receiving it."""
        self._feed_lag[(feed,)] = seconds

    def record_reload(self, at: datetime, *, successful: bool) -> None:
        """Record whether the settings read last were applied."""
        self._reload_successful = successful
        if successful:
            self._reloaded_at = at.timestamp()

    # Sources that are read at a scrape

    def watch_breaker(self, store: str, state: Callable[[], str]) -> None:
        self._breakers[store] = state

    def watch_round_trips(self, store: str, trips: Callable[[], int]) -> None:
        """`trips` returns the number of round trips for lookups to a store so far."""
        self._round_trips[store] = trips

    def watch_memory(self, memory: MemoryStats) -> None:
        self._memory = memory

    def watch_connections(self, connections: Callable[[], Mapping[str, int]]) -> None:
        """`connections` returns the number of open connections to the gate by HTTP path."""
        self._connections = connections

    def watch_pending(self, revocations: Callable[[], int]) -> None:
        self._pending = revocations

    def watch_draining(self, draining: Callable[[], bool]) -> None:
        self._draining = draining

    def families(self) -> Iterator[Metric]:
        """Yield all metrics as families of prometheus-client."""
        yield InfoMetricFamily("sidegate_build", "The running version.", {"version": self._version})
        yield from self._check_families()
        yield from self._store_families()
        yield from self._session_families()
        yield from self._analytics_families()
        yield from self._listener_families()

    def _check_families(self) -> Iterator[Metric]:
        yield _counter(
            "sidegate_checks",
            "Checks answered, by gateway protocol, result and reason.",
            ("gateway", "result", "reason"),
            self._all_checks(),
        )
        yield _histogram(
            "sidegate_check_duration_seconds",
            "Duration of a check (hits in memory are counted as 0 seconds).",
            ("gateway",),
            self._all_check_seconds(),
        )

    def _all_checks(self) -> Mapping[tuple[str, ...], int]:
        checks = Counter(self._checks)
        for gateway, counts in self._fast_checks.items():
            checks.update({(gateway, *labels): count for labels, count in counts.items()})
        return checks

    def _all_check_seconds(self) -> Mapping[tuple[str, ...], Histogram]:
        # A hit in memory takes microseconds: it counts in the first bucket, with 0 seconds.
        gateways = {*self._check_seconds, *((gateway,) for gateway in self._fast_checks)}
        return {
            gateway: self._check_seconds[gateway].with_immediate(
                sum(self._fast_checks[gateway[0]].values())
            )
            for gateway in gateways
        }

    def _store_families(self) -> Iterator[Metric]:
        yield _histogram(
            "sidegate_lookup_duration_seconds",
            "Duration of a session lookup, by store and outcome (in memory counted as 0 seconds).",
            ("store", "outcome"),
            self._lookup_seconds | self._memory_lookups(),
        )
        yield _counter(
            "sidegate_lookup_round_trips",
            "Round trips to a store. Each serves a batch of lookups.",
            ("store",),
            {(store,): trips() for store, trips in self._round_trips.items()},
        )
        states = {store: state() for store, state in self._breakers.items()}
        yield _gauge(
            "sidegate_store_up",
            "1 while the circuit breaker of the store is closed.",
            ("store",),
            {(store,): float(state == "closed") for store, state in states.items()},
        )
        yield _gauge(
            "sidegate_circuit_breaker_state",
            "1 for the present state of the circuit breaker.",
            ("store", "state"),
            {
                (store, each): float(state == each)
                for store, state in states.items()
                for each in ("closed", "half_open", "open")
            },
        )
        yield _counter(
            "sidegate_unreadable_records",
            "Stored records that could not be read.",
            ("store",),
            self._unreadable,
        )
        yield _gauge(
            "sidegate_memory_sessions",
            "Cached sessions in the memory of this process.",
            (),
            {(): float(0 if self._memory is None else len(self._memory))},
        )
        yield _gauge(
            "sidegate_memory_bytes",
            "Estimated size of the cached sessions.",
            (),
            {(): float(0 if self._memory is None else self._memory.size_bytes)},
        )

    def _memory_lookups(self) -> dict[tuple[str, ...], Histogram]:
        if self._memory is None:
            return {}
        return {
            ("memory", "hit"): Histogram().with_immediate(self._memory.hits),
            ("memory", "miss"): Histogram().with_immediate(self._memory.misses),
        }

    def _session_families(self) -> Iterator[Metric]:
        yield _counter(
            "sidegate_sessions_created", "Sessions created, by type.", ("type",), self._created
        )
        yield _counter(
            "sidegate_sessions_ended",
            "Sessions ended explicitly, by type and cause; not those that expired.",
            ("type", "cause"),
            self._ended,
        )
        yield _counter(
            "sidegate_touches",
            "Updates of last_seen: written, failed (and retried) or dropped.",
            ("outcome",),
            self._touches,
        )
        yield _counter(
            "sidegate_cleanups",
            "Sessions purged after cleanup.retention, and failed attempts.",
            ("outcome",),
            self._cleanups,
        )
        yield _counter(
            "sidegate_audit_events",
            "Audit events sealed, or deleted after audit.retention, and failed rounds.",
            ("outcome",),
            self._audit_events,
        )
        yield _counter(
            "sidegate_locks",
            "Operations on session locks: acquired, contended, renewed, released or lost.",
            ("outcome",),
            self._locks,
        )
        yield _counter(
            "sidegate_binding_mismatches",
            "Sessions presented by another client than they are bound to, by signal and policy.",
            ("signal", "policy"),
            self._mismatches,
        )
        yield _counter(
            "sidegate_binding_revocations",
            "Revocations for a binding mismatch: revoked, pending, failed or dropped.",
            ("outcome",),
            self._binding_revocations,
        )
        yield _counter(
            "sidegate_deferred_revocations",
            "Revocations without the database: accepted, written later, or dropped.",
            ("outcome",),
            self._deferred_revocations,
        )
        yield _gauge(
            "sidegate_pending_revocations",
            "Revocations in force and not yet in the database, as far as this process knows.",
            (),
            {(): float(self._pending())},
        )
        yield _gauge(
            "sidegate_feed_up",
            "1 while changes of other instances arrive through the feed.",
            ("feed",),
            self._feed_up,
        )
        yield _counter(
            "sidegate_feed_gaps",
            "Interruptions of the feed. After each, cached sessions are stale.",
            ("feed",),
            self._feed_gaps,
        )
        yield _gauge(
            "sidegate_feed_lag_seconds",
            "Seconds that the last heartbeat of this process took through the feed.",
            ("feed",),
            self._feed_lag,
        )
        yield _gauge(
            "sidegate_revocation_bound_seconds",
            "Maximum seconds until a revocation is in force on every instance, even in an outage.",
            (),
            {(): self._revocation_bound},
        )

    def _analytics_families(self) -> Iterator[Metric]:
        yield _counter(
            "sidegate_analytics_samples",
            "Samples of all sessions taken by this instance, and failed attempts.",
            ("outcome",),
            self._samples,
        )
        for name, values in read_gauges(self._report).items():
            description, labels = GAUGES[name]
            yield _gauge(f"sidegate_analytics_{name}", description, labels, values)

    def _listener_families(self) -> Iterator[Metric]:
        yield _counter(
            "sidegate_untrusted_peers",
            "Requests and refused connections to the gate from outside gate.trusted_peers.",
            (),
            {(): self._untrusted_peers},
        )
        yield _gauge(
            "sidegate_gate_connections",
            "Open connections to the gate, by HTTP path: fast, or aiohttp for other requests.",
            ("path",),
            {(path,): float(count) for path, count in self._connections().items()},
        )
        yield _counter(
            "sidegate_gate_connections_refused",
            "Connections to the gate above gate.max_connections, answered 503.",
            (),
            {(): self._connections_refused},
        )
        yield _counter(
            "sidegate_bad_requests",
            "Requests that were not HTTP, by listener.",
            ("listener",),
            self._bad_requests,
        )
        yield _counter(
            "sidegate_admin_requests",
            "Requests to the admin API.",
            ("route", "method", "status"),
            self._admin_requests,
        )
        yield _counter(
            "sidegate_logouts",
            "Back-channel logouts, by outcome: ended, no_session, invalid, replayed, rate_limited,"
            " unavailable.",
            ("provider", "outcome"),
            self._logouts,
        )
        yield _gauge(
            "sidegate_config_last_reload_successful",
            "1 if the settings read last were applied, 0 if they were wrong.",
            (),
            {(): float(self._reload_successful)},
        )
        yield _gauge(
            "sidegate_config_last_reload_success_timestamp_seconds",
            "Time at which the settings in force were read.",
            (),
            {(): self._reloaded_at},
        )
        yield _gauge(
            "sidegate_draining", "1 while shutting down.", (), {(): float(self._draining())}
        )


class _MetricsCollector(Collector):
    """Exports one Metrics at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families()


def build_registry(metrics: Metrics) -> CollectorRegistry:
    """Return a registry of these metrics, and of those of the process and the platform."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MetricsCollector(metrics))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _counter(
    name: str, description: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], int]
) -> Metric:
    family = CounterMetricFamily(name, description, labels=labels)
    for label_values, count in values.items():
        family.add_metric(label_values, count)
    return family


def _gauge(
    name: str, description: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> Metric:
    family = GaugeMetricFamily(name, description, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _histogram(
    name: str,
    description: str,
    labels: tuple[str, ...],
    values: Mapping[tuple[str, ...], Histogram],
) -> Metric:
    family = HistogramMetricFamily(name, description, labels=labels)
    for label_values, series in values.items():
        family.add_metric(label_values, series.buckets(), series.total)
    return family


def _names() -> frozenset[str]:
    families = Metrics(version="", revocation_bound=0).families()
    suffix = {
        "counter": ("_total",),
        "histogram": ("_bucket", "_count", "_sum"),
        "info": ("_info",),
    }
    return frozenset(
        family.name + ending for family in families for ending in suffix.get(family.type, ("",))
    )


METRIC_NAMES: Final = _names()
"""The name of every series that Sidegate itself exports, as in a query."""
