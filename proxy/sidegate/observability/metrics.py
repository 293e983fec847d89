"""Everything Sidegate counts, kept as plain numbers and told to Prometheus when it asks.

Counting is on the way of every check, so it is a dictionary and an integer; the names, labels and
buckets that prometheus-client wants are made when a scrape comes. No label ever holds a token, a
user, a path or an address.
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
from sidegate.observability.analytics_gauges import GAUGES, readings

# From a hit in memory (tens of microseconds) to a store that is as good as gone.
BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip


_Tally = dict[tuple[str, ...], int]


class Histogram:
    """One series of a histogram: how many values fell into each bucket, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def and_at_once(self, count: int) -> "Histogram":
        """Return the series with so many more values that nobody has measured: they are tiny."""
        more = Histogram()
        more.counts = [self.counts[0] + count, *self.counts[1:]]
        more.total = self.total
        return more

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, how many at most that) as the exposition format wants them."""
        bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class Memory(Protocol):
    """This process's own memory of sessions, which counts for itself."""

    hits: int
    misses: int

    @property
    def size(self) -> int: ...

    def __len__(self) -> int: ...


class Metrics:
    """The tallies. Whoever has something to count calls the method named after it."""

    def __init__(self, *, version: str, revocation_bound: float) -> None:
        """`revocation_bound`: seconds a revocation may take, whether a store is lost or not."""
        self._version = version
        self._revocation_bound = revocation_bound
        self._checks: _Tally = defaultdict(int)
        self._checks_at_once: dict[str, dict[tuple[str, str], int]] = defaultdict(
            lambda: defaultdict(int)
        )
        self._check_seconds: dict[tuple[str, ...], Histogram] = defaultdict(Histogram)
        self._lookup_seconds: dict[tuple[str, ...], Histogram] = defaultdict(Histogram)
        self._created: _Tally = defaultdict(int)
        self._ended: _Tally = defaultdict(int)
        self._touches: _Tally = defaultdict(int)
        self._cleanups: _Tally = defaultdict(int)
        self._audit_events: _Tally = defaultdict(int)
        self._samples: _Tally = defaultdict(int)
        self._report: Report | None = None
        self._locks: _Tally = defaultdict(int)
        self._mismatches: _Tally = defaultdict(int)
        self._binding_revocations: _Tally = defaultdict(int)
        self._pended: _Tally = defaultdict(int)
        self._unreadable: _Tally = defaultdict(int)
        self._bad_requests: _Tally = defaultdict(int)
        self._admin_requests: _Tally = defaultdict(int)
        self._logouts: _Tally = defaultdict(int)
        self._feed_up: dict[tuple[str, ...], float] = {}
        self._feed_gaps: _Tally = defaultdict(int)
        self._feed_lag: dict[tuple[str, ...], float] = {}
        self._untrusted_peers = 0
        self._breakers: dict[str, Callable[[], str]] = {}
        self._round_trips: dict[str, Callable[[], int]] = {}
        self._local: Memory | None = None
        self._lanes: Callable[[], Mapping[str, int]] = dict
        self._connections_refused = 0
        self._draining: Callable[[], bool] = lambda: False
        self._reload_successful = False
        self._reloaded_at = 0.0
        self._pending: Callable[[], int] = lambda: 0

    # What is counted

    def check(self, gateway: str, result: str, reason: str, seconds: float) -> None:
        """A check was answered. The three labels come from short fixed lists."""
        self._checks[gateway, result, reason] += 1
        self._check_seconds[(gateway,)].observe(seconds)

    def immediate_checks(self, gateway: str) -> dict[tuple[str, str], int]:
        """Return where to count, by result and reason, checks that took no time to speak of."""
        return self._checks_at_once[gateway]

    def lookup(self, store: str, outcome: str, seconds: float) -> None:
        """A store was asked: hit, miss or error."""
        self._lookup_seconds[store, outcome].observe(seconds)

    def created(self, session: Session) -> None:
        self._created[(session.type,)] += 1

    def ended(self, session: Session, cause: str) -> None:
        """`cause` must come from a short fixed list: it is a label."""
        self._ended[session.type, cause] += 1

    def touches(self, outcome: str, count: int) -> None:
        """So many notes of sessions seen were written, failed or dropped."""
        self._touches[(outcome,)] += count

    def cleanups(self, outcome: str, count: int) -> None:
        """So many sessions were purged, or that many attempts failed."""
        self._cleanups[(outcome,)] += count

    def audit_events(self, outcome: str, count: int) -> None:
        """So many audit events were sealed or forgotten, or that many rounds of it failed."""
        self._audit_events[(outcome,)] += count

    def samples(self, outcome: str) -> None:
        """A sample of all sessions was taken, or an attempt failed."""
        self._samples[(outcome,)] += 1

    def analytics(self, report: Report) -> None:
        """What the last sample says, whichever instance has taken it."""
        self._report = report

    def lock(self, outcome: str) -> None:
        """A lock was acquired, contended, renewed or released, or was lost before that."""
        self._locks[(outcome,)] += 1

    def binding_mismatch(self, signal: str, policy: str) -> None:
        """A session was presented by another client than it is bound to, and what followed."""
        self._mismatches[signal, policy] += 1

    def binding_revocation(self, outcome: str) -> None:
        """A session that was to end for it was revoked, will be, failed to be, or was dropped."""
        self._binding_revocations[(outcome,)] += 1

    def pended(self, outcome: str) -> None:
        """A revocation was accepted without the durable store, written down, or dropped."""
        self._pended[(outcome,)] += 1

    def unreadable_record(self, store: str) -> None:
        self._unreadable[(store,)] += 1

    def bad_request(self, listener: str) -> None:
        """Bytes that are no HTTP request arrived at a listener."""
        self._bad_requests[(listener,)] += 1

    def admin_request(self, route: str, method: str, status: int) -> None:
        """`route` is the template, never the path that was asked for."""
        self._admin_requests[route, method, str(status)] += 1

    def logout(self, provider: str, outcome: str) -> None:
        """A configured provider's logout was received, and how that ended."""
        self._logouts[provider, outcome] += 1

    def untrusted_peer(self) -> None:
        self._untrusted_peers += 1

    def connection_refused(self) -> None:
        """There was no room for one more connection to the gate."""
        self._connections_refused += 1

    def feed_up(self, feed: str, up: bool) -> None:
        self._feed_up[(feed,)] = float(up)

    def feed_gap(self, feed: str) -> None:
        self._feed_gaps[(feed,)] += 1

    def feed_lag(self, feed: str, seconds: float) -> None:
        """What was said on a feed was heard so many seconds later."""
        self._feed_lag[(feed,)] = seconds

    def settings_read(self, at: datetime, *, successful: bool) -> None:
        """The settings were read, and are lived by; or they were wrong, and are not."""
        self._reload_successful = successful
        if successful:
            self._reloaded_at = at.timestamp()

    # What is read when a scrape comes

    def watch_breaker(self, store: str, state: Callable[[], str]) -> None:
        self._breakers[store] = state

    def watch_round_trips(self, store: str, trips: Callable[[], int]) -> None:
        """`trips` tells how many round trips for look-ups a store has had so far."""
        self._round_trips[store] = trips

    def watch_local(self, memory: Memory) -> None:
        self._local = memory

    def watch_connections(self, lanes: Callable[[], Mapping[str, int]]) -> None:
        """`lanes` tells how many connections to the gate there are in each lane."""
        self._lanes = lanes

    def watch_pending(self, revocations: Callable[[], int]) -> None:
        self._pending = revocations

    def watch_draining(self, draining: Callable[[], bool]) -> None:
        self._draining = draining

    def families(self) -> Iterator[Metric]:
        """Yield everything as prometheus-client's families."""
        yield InfoMetricFamily("sidegate_build", "The running version.", {"version": self._version})
        yield from self._families_of_checks()
        yield from self._families_of_stores()
        yield from self._families_of_sessions()
        yield from self._families_of_analytics()
        yield from self._families_of_doors()

    def _families_of_checks(self) -> Iterator[Metric]:
        yield _counter(
            "sidegate_checks",
            "Checks answered, by gateway protocol, result and reason.",
            ("gateway", "result", "reason"),
            self._all_checks(),
        )
        yield _histogram(
            "sidegate_check_duration_seconds",
            "Time from a parsed request to its answer (from memory: counted, not measured).",
            ("gateway",),
            self._all_check_seconds(),
        )

    def _all_checks(self) -> Mapping[tuple[str, ...], int]:
        checks = Counter(self._checks)
        for gateway, tally in self._checks_at_once.items():
            checks.update({(gateway, *labels): count for labels, count in tally.items()})
        return checks

    def _all_check_seconds(self) -> Mapping[tuple[str, ...], Histogram]:
        """What memory answers takes microseconds: the first bucket, and nothing to speak of."""
        gateways = {*self._check_seconds, *((gateway,) for gateway in self._checks_at_once)}
        return {
            gateway: self._check_seconds[gateway].and_at_once(
                sum(self._checks_at_once[gateway[0]].values())
            )
            for gateway in gateways
        }

    def _families_of_stores(self) -> Iterator[Metric]:
        yield _histogram(
            "sidegate_lookup_duration_seconds",
            "Look-ups of a session, by store and outcome (in memory: counted, not measured).",
            ("store", "outcome"),
            self._lookup_seconds | self._local_lookups(),
        )
        yield _counter(
            "sidegate_lookup_round_trips",
            "Round trips to a store, each for all look-ups that had gathered.",
            ("store",),
            {(store,): trips() for store, trips in self._round_trips.items()},
        )
        states = {store: state() for store, state in self._breakers.items()}
        yield _gauge(
            "sidegate_store_up",
            "1 while the store's breaker is closed.",
            ("store",),
            {(store,): float(state == "closed") for store, state in states.items()},
        )
        yield _gauge(
            "sidegate_circuit_breaker_state",
            "1 for the state the store's breaker is in.",
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
            "Copies of sessions in this process's memory.",
            (),
            {(): float(0 if self._local is None else len(self._local))},
        )
        yield _gauge(
            "sidegate_memory_bytes",
            "What these copies take, by estimate.",
            (),
            {(): float(0 if self._local is None else self._local.size)},
        )

    def _local_lookups(self) -> dict[tuple[str, ...], Histogram]:
        if self._local is None:
            return {}
        return {
            ("memory", "hit"): Histogram().and_at_once(self._local.hits),
            ("memory", "miss"): Histogram().and_at_once(self._local.misses),
        }

    def _families_of_sessions(self) -> Iterator[Metric]:
        yield _counter(
            "sidegate_sessions_created", "Sessions begun, by type.", ("type",), self._created
        )
        yield _counter(
            "sidegate_sessions_ended",
            "Sessions ended on purpose, by type and cause.",
            ("type", "cause"),
            self._ended,
        )
        yield _counter(
            "sidegate_touches",
            "Sessions whose last_seen was written, failed (and is tried again), or was dropped.",
            ("outcome",),
            self._touches,
        )
        yield _counter(
            "sidegate_cleanups",
            "Sessions purged long after their end, and attempts to clean up that failed.",
            ("outcome",),
            self._cleanups,
        )
        yield _counter(
            "sidegate_audit_events",
            "Audit events sealed, or forgotten after their retention, and rounds that failed.",
            ("outcome",),
            self._audit_events,
        )
        yield _counter(
            "sidegate_locks",
            "Locks of sessions: acquired, contended (somebody else has it), renewed, released, or"
            " lost before one of these.",
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
            "Sessions to be ended for a mismatch: revoked, pending, failed or dropped.",
            ("outcome",),
            self._binding_revocations,
        )
        yield _counter(
            "sidegate_deferred_revocations",
            "Revocations accepted without the durable store, written down later, or dropped.",
            ("outcome",),
            self._pended,
        )
        yield _gauge(
            "sidegate_pending_revocations",
            "Revocations that hold and are not written down yet, as far as this process knows.",
            (),
            {(): float(self._pending())},
        )
        yield _gauge(
            "sidegate_feed_up",
            "1 while changes made by other instances are heard through the feed.",
            ("feed",),
            self._feed_up,
        )
        yield _counter(
            "sidegate_feed_gaps",
            "Times that something may have been missed, after which no copy of before is believed.",
            ("feed",),
            self._feed_gaps,
        )
        yield _gauge(
            "sidegate_feed_lag_seconds",
            "How long the last heartbeat took from this process through the feed to itself.",
            ("feed",),
            self._feed_lag,
        )
        yield _gauge(
            "sidegate_revocation_bound_seconds",
            "A revocation is everywhere within this time, a store or the feed lost or not.",
            (),
            {(): self._revocation_bound},
        )

    def _families_of_analytics(self) -> Iterator[Metric]:
        yield _counter(
            "sidegate_analytics_samples",
            "Samples of all sessions that this instance took, and attempts that failed.",
            ("outcome",),
            self._samples,
        )
        for name, shown in readings(self._report).items():
            meaning, labels = GAUGES[name]
            yield _gauge(f"sidegate_analytics_{name}", meaning, labels, shown)

    def _families_of_doors(self) -> Iterator[Metric]:
        yield _counter(
            "sidegate_untrusted_peers",
            "Requests to the gate, and connections too many, from outside gate.trusted_peers.",
            (),
            {(): self._untrusted_peers},
        )
        yield _gauge(
            "sidegate_gate_connections",
            "Open connections to the gate, by lane: express, or aiohttp's for what is not plain.",
            ("lane",),
            {(lane,): float(count) for lane, count in self._lanes().items()},
        )
        yield _counter(
            "sidegate_gate_connections_refused",
            "Connections to the gate beyond gate.max_connections.",
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
            "Back-channel logouts: ended, nobody, invalid, replayed, unasked or unavailable.",
            ("provider", "outcome"),
            self._logouts,
        )
        yield _gauge(
            "sidegate_config_last_reload_successful",
            "1 unless the settings were wrong when they were read last.",
            (),
            {(): float(self._reload_successful)},
        )
        yield _gauge(
            "sidegate_config_last_reload_success_timestamp_seconds",
            "When the settings in force were read.",
            (),
            {(): self._reloaded_at},
        )
        yield _gauge(
            "sidegate_draining", "1 while shutting down.", (), {(): float(self._draining())}
        )


class _Told(Collector):
    """The tallies of one Metrics, told at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families()


def registry(metrics: Metrics) -> CollectorRegistry:
    """Return what a scrape asks: our tallies, and prometheus-client's of process and platform."""
    told = CollectorRegistry(auto_describe=False)
    told.register(_Told(metrics))
    ProcessCollector(registry=told)
    PlatformCollector(registry=told)
    GCCollector(registry=told)
    return told


def _counter(
    name: str, meaning: str, labels: tuple[str, ...], tally: Mapping[tuple[str, ...], int]
) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for values, count in tally.items():
        family.add_metric(values, count)
    return family


def _gauge(
    name: str, meaning: str, labels: tuple[str, ...], readings: Mapping[tuple[str, ...], float]
) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for values, reading in readings.items():
        family.add_metric(values, reading)
    return family


def _histogram(
    name: str, meaning: str, labels: tuple[str, ...], tally: Mapping[tuple[str, ...], Histogram]
) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=labels)
    for values, series in tally.items():
        family.add_metric(values, series.buckets(), series.total)
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
"""Every series name Sidegate itself exports, as a query spells it."""
