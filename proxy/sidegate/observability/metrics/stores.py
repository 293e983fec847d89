"""The metrics of the stores, and of the change notifications between instances."""

from collections.abc import Mapping
from typing import Final

from sidegate.observability.metrics.histogram import Histogram
from sidegate.observability.metrics.recorder import Labels, Metrics
from sidegate.observability.metrics.spec import MetricSpec, scalar

_BREAKER_STATES: Final = ("closed", "half_open", "open")


def _measure_lookups(metrics: Metrics) -> Mapping[Labels, Histogram]:
    """Return the durations of lookups in the stores, and the counts of those in memory."""
    if metrics.memory is None:
        return metrics.lookup_seconds
    return metrics.lookup_seconds | {
        ("memory", "hit"): Histogram().with_immediate(metrics.memory.hits),
        ("memory", "miss"): Histogram().with_immediate(metrics.memory.misses),
    }


def _read_stores_up(metrics: Metrics) -> Mapping[Labels, float]:
    return {(store,): float(state() == "closed") for store, state in metrics.breakers.items()}


def _read_breakers(metrics: Metrics) -> Mapping[Labels, float]:
    """Return 1 for the present state of each breaker, and 0 for its other states."""
    present = {store: state() for store, state in metrics.breakers.items()}
    return {
        (store, each): float(state == each)
        for store, state in present.items()
        for each in _BREAKER_STATES
    }


def _read_redis_trusted(metrics: Metrics) -> Mapping[Labels, float]:
    return {} if metrics.redis_trusted is None else scalar(metrics.redis_trusted())


STORES: Final = (
    MetricSpec(
        "sidegate_lookup_duration_seconds",
        "histogram",
        "Round trip of the batch that contained the lookup, without the wait before it; one outcome"
        " for each lookup. The same for redis, postgres and sqlite. Lookups in memory are counted,"
        " not timed (0 seconds).",
        ("store", "outcome"),
        _measure_lookups,
    ),
    MetricSpec(
        "sidegate_lookup_round_trips",
        "counter",
        "Round trips to a store. Each serves a batch of lookups.",
        ("store",),
        lambda metrics: {(store,): trips() for store, trips in metrics.round_trips.items()},
    ),
    MetricSpec(
        "sidegate_store_up",
        "gauge",
        "1 while the circuit breaker of the store is closed.",
        ("store",),
        _read_stores_up,
    ),
    MetricSpec(
        "sidegate_circuit_breaker_state",
        "gauge",
        "1 for the present state of the circuit breaker.",
        ("store", "state"),
        _read_breakers,
    ),
    MetricSpec(
        "sidegate_redis_trusted",
        "gauge",
        "1 while sessions in Redis may be used; 0 while changes may be missing there, until the"
        " database has confirmed the generation. Absent without Redis.",
        (),
        _read_redis_trusted,
    ),
    MetricSpec(
        "sidegate_unreadable_records",
        "counter",
        "Stored records that could not be read.",
        ("store",),
        lambda metrics: metrics.unreadable_records,
    ),
    MetricSpec(
        "sidegate_memory_sessions",
        "gauge",
        "Cached sessions in the memory of this process.",
        (),
        lambda metrics: scalar(0 if metrics.memory is None else len(metrics.memory)),
    ),
    MetricSpec(
        "sidegate_memory_bytes",
        "gauge",
        "Estimated size of the cached sessions.",
        (),
        lambda metrics: scalar(0 if metrics.memory is None else metrics.memory.size_bytes),
    ),
)

FEEDS: Final = (
    MetricSpec(
        "sidegate_feed_up",
        "gauge",
        "1 while changes of other instances arrive through the feed.",
        ("feed",),
        lambda metrics: metrics.feed_up,
    ),
    MetricSpec(
        "sidegate_feed_gaps",
        "counter",
        "Interruptions of the feed. After each, cached sessions are stale.",
        ("feed",),
        lambda metrics: metrics.feed_gaps,
    ),
    MetricSpec(
        "sidegate_feed_lag_seconds",
        "gauge",
        "Seconds that the last heartbeat of this process took through the feed.",
        ("feed",),
        lambda metrics: metrics.feed_lag,
    ),
    MetricSpec(
        "sidegate_revocation_bound_seconds",
        "gauge",
        "Maximum seconds until a revocation is in force on every instance, even in an outage.",
        (),
        lambda metrics: scalar(metrics.revocation_bound),
    ),
)
