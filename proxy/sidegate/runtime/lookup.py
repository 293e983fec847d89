"""Build the lookup of sessions, and the wrappers around the stores it looks in."""

from collections.abc import Callable
from functools import partial

from sidegate.core.clock import Clock
from sidegate.observability.metrics import Metrics
from sidegate.runtime.resources import Resources, seconds
from sidegate.settings import Settings
from sidegate.settings.sections import StoreSection
from sidegate.stores.client.batching import Batched, BatchedCache
from sidegate.stores.client.circuit_breaker import CircuitBreaker
from sidegate.stores.client.guard import Guard, Guarded, GuardedCache
from sidegate.stores.client.metrics import Metered, MeteredCache
from sidegate.stores.client.redis_trust import Trusted
from sidegate.stores.lookup import SessionLookup
from sidegate.stores.negative_cache import NegativeCache


def _build_database_finder(resources: Resources) -> Batched:
    """Return the database behind its circuit breaker, metrics and batching."""
    settings, database, metrics = resources.settings, resources.database, resources.metrics
    section = settings.sqlite if settings.database_url is None else settings.postgres
    guard = _build_guard(
        database.name,
        section,
        clock=resources.clock,
        metrics=metrics,
        on_outage=resources.idleness.record_failure,
    )
    guarded = Guarded(database.sessions, guard=guard)
    batched = Batched(
        Metered(guarded, store=database.name, observe=metrics.record_lookup),
        store=database.name,
        max_in_flight=database.max_lookup_batches,
        max_outstanding=section.max_lookups,
        on_rejected=partial(metrics.record_lookup, database.name, "error", 0.0),
    )
    metrics.watch_round_trips(database.name, batched.round_trips)
    return batched


def build_redis_cache(resources: Resources) -> BatchedCache | None:
    """Return Redis behind its circuit breaker, trust, metrics and batching, or None without it."""
    redis, metrics = resources.redis, resources.metrics
    if redis is None:
        return None
    guard = _build_guard("redis", resources.settings.redis, clock=resources.clock, metrics=metrics)
    trust = resources.redis_trust
    trusted = Trusted(GuardedCache(redis, guard=guard), trust)
    cache = BatchedCache(MeteredCache(trusted, store="redis", observe=metrics.record_lookup))
    metrics.watch_round_trips("redis", cache.round_trips)
    metrics.watch_redis_trust(is_trusted=lambda: trust.is_trusted, age=lambda: trust.age)
    return cache


def build_lookup(resources: Resources, redis: BatchedCache | None) -> SessionLookup:
    """Return the lookup of sessions in memory, Redis and the database."""
    settings, clock = resources.settings, resources.clock
    return SessionLookup(
        resources.memory,
        redis=redis,
        redis_trust=resources.redis_trust,
        redis_deadline=seconds(settings.redis.deadline) + BatchedCache.SLOW_AFTER,
        database=_build_database_finder(resources),
        negative_cache=_build_negative_cache(settings, clock),
        deadline=seconds(settings.gate.deadline),
        clock=clock,
    )


def _build_negative_cache(settings: Settings, clock: Clock) -> NegativeCache:
    return NegativeCache(
        max_digests=settings.negative_cache.max_digests,
        max_age=seconds(settings.negative_cache.max_age),
        clock=clock,
    )


def _build_guard(
    store: str,
    section: StoreSection,
    *,
    clock: Clock,
    metrics: Metrics,
    on_outage: Callable[[], None] = lambda: None,
) -> Guard:
    breaker = CircuitBreaker(
        failure_threshold=section.breaker_failures,
        probe_interval=seconds(section.breaker_probe),
        clock=clock,
    )
    metrics.watch_breaker(store, lambda: breaker.state)
    timeout = seconds(section.deadline)
    return Guard(store, timeout=timeout, breaker=breaker, on_outage=on_outage)
