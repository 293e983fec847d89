"""The metrics of the stores, and of the change notifications between instances."""

from collections.abc import Mapping
from typing import Final

from sidegate.observability.metrics.histogram import Histogram
from sidegate.observability.metrics.recorder import Labels, Metrics
from sidegate.observability.metrics.spec import MetricSpec, scalar

_BREAKER_STATES: Final = ("closed", "half_open", "open")
# The feeds that say whether Redis can be used.
_REDIS_FEEDS: Final = ("redis", "cache_follower", "change_poller")


def _measure_lookups(metrics: Metrics) -> Mapping[Labels, Histogram]:
    """Return the durations of lookups in the stores, and the counts of those in memory."""
    if metrics.memory is None:
        return metrics.lookup_seconds
    return metrics.lookup_seconds | {
        ("memory", "hit"): Histogram().with_immediate(metrics.memory.hits),
        ("memory", "miss"): Histogram().with_immediate(metrics.memory.misses),
    }


def _read_stores_up(metrics: Metrics) -> Mapping[Labels, float]:
    """Return 1 for each store that nothing in this process finds at fault.

    The breaker knows lookups only, and there are none while Redis is not trusted.
    """
    return {
        (store,): float(
            state() == "closed"
            and metrics.pings.get(store, True)
            and (store != "redis" or _is_redis_usable(metrics))
        )
        for store, state in metrics.breakers.items()
    }


def _is_redis_usable(metrics: Metrics) -> bool:
    """Return whether pub/sub works, and whether rounds of the cache follower do, too.

    Rounds that fail together with those of the change poller fail for lack of the database.
    """
    is_up = {feed: metrics.feed_up.get((feed,), 1.0) == 1.0 for feed in _REDIS_FEEDS}
    return is_up["redis"] and (is_up["cache_follower"] or not is_up["change_poller"])


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


def _read_redis_verified_age(metrics: Metrics) -> Mapping[Labels, float]:
    return {} if metrics.redis_verified_age is None else scalar(metrics.redis_verified_age())


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
        "1 while the store is usable: its circuit breaker is closed, and it answers pings. Redis:"
        " and pub/sub and the rounds of the cache follower work, too.",
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
        "1 while sessions in Redis may be used; 0 while changes may be missing there. Absent"
        " without Redis.",
        (),
        _read_redis_trusted,
    ),
    MetricSpec(
        "sidegate_redis_verified_age_seconds",
        "gauge",
        "Seconds since the last round that verified that Redis has followed the database; infinite"
        " before the first one. Absent without Redis.",
        (),
        _read_redis_verified_age,
    ),
    MetricSpec(
        "sidegate_redis_invalidations",
        "counter",
        "Losses of trust in Redis: undelivered (it did not take a change made here), not followed"
        " (it could not be brought forward), position lost (the database does not know its mark),"
        " lapsed (this process was suspended, or its rounds took too long).",
        ("reason",),
        lambda metrics: metrics.redis_invalidations,
    ),
    MetricSpec(
        "sidegate_redis_seals",
        "counter",
        "Seals in Redis that this process has moved to the present of the database, or begun anew"
        " with an empty cache.",
        ("change",),
        lambda metrics: metrics.redis_seals,
    ),
    MetricSpec(
        "sidegate_database_restores",
        "counter",
        "Restores and failovers of the database that have lost commits, as noticed here.",
        (),
        lambda metrics: scalar(metrics.database_restores),
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
