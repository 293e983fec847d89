"""Build the lookup paths: memory, negative cache, single flight, Redis, database."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidegate.core.clock import Clock
from sidegate.core.protocols import SessionFinder
from sidegate.observability.metrics import Metrics
from sidegate.runtime.resources import Resources, seconds
from sidegate.services.validator import Prefetch
from sidegate.settings import Settings
from sidegate.settings.sections import StoreSection
from sidegate.stores.client.batching import Batched, BatchedCache
from sidegate.stores.client.circuit_breaker import CircuitBreaker
from sidegate.stores.client.guard import Guard, Guarded, GuardedCache
from sidegate.stores.client.metrics import Metered, MeteredCache
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.negative_cache import NegativeCache, NegativeCaching
from sidegate.stores.prefetch import Prefetcher
from sidegate.stores.read_through import ReadThrough, SkipCache
from sidegate.stores.single_flight import InFlight, SingleFlight

if TYPE_CHECKING:
    from sidegate.stores.redis.store import RedisStore


@dataclass(frozen=True)
class RedisCache:
    """Redis as a cache. It is read only while it is trusted."""

    store: "RedisStore"
    trust: RedisTrust
    cache: BatchedCache

    def set_trusted(self, trusted: bool) -> None:
        """Start or stop to read from Redis."""
        if trusted:
            self.trust.trust()
        else:
            self.trust.distrust()


@dataclass(frozen=True)
class LookupPaths:
    """The ways from a digest to its session, as the validator takes them."""

    full: SessionFinder
    skip_redis: SessionFinder  # after a prefetch that found nothing
    prefetch: Prefetch | None  # None without Redis


def build_database_finder(resources: Resources) -> SessionFinder:
    """Return the database behind its circuit breaker, batching and metrics."""
    settings, database, metrics = resources.settings, resources.database, resources.metrics
    section = settings.sqlite if settings.database_url is None else settings.postgres
    guard = _build_guard(database.name, section, resources.clock, metrics)
    batched = Batched(
        Guarded(database.sessions, guard=guard),
        store=database.name,
        max_in_flight=database.max_lookup_batches,
        max_outstanding=section.max_lookups,
    )
    metrics.watch_round_trips(database.name, batched.round_trips)
    return Metered(batched, store=database.name, observe=metrics.record_lookup)


def build_redis_cache(resources: Resources) -> RedisCache | None:
    """Return Redis behind its circuit breaker, metrics and batching, or None without Redis.

    It is not trusted until the change poller has read its generation from the database.
    """
    redis, metrics = resources.redis, resources.metrics
    if redis is None:
        return None
    guard = _build_guard("redis", resources.settings.redis, resources.clock, metrics)
    trust = RedisTrust(GuardedCache(redis, guard=guard), store="redis")
    trust.distrust()
    cache = BatchedCache(MeteredCache(trust, store="redis", observe=metrics.record_lookup))
    metrics.watch_round_trips("redis", cache.round_trips)
    return RedisCache(redis, trust, cache)


def build_lookup_paths(
    resources: Resources, database: SessionFinder, redis: RedisCache | None
) -> LookupPaths:
    """Return the lookup paths. They share a negative cache and in-flight lookups."""
    settings, clock, memory = resources.settings, resources.clock, resources.memory
    misses, in_flight = _build_negative_cache(settings, clock), InFlight()
    full = skip_redis = database
    prefetch: Prefetch | None = None
    if redis is not None:
        full = ReadThrough(redis.cache, database, clock=clock)
        skip_redis = SkipCache(redis.cache, database)
        prefetch = _build_prefetcher(resources, redis, misses, in_flight).prefetch
    return LookupPaths(
        ReadThrough(memory, _coalesce(settings, full, misses, in_flight), clock=clock),
        SkipCache(memory, _coalesce(settings, skip_redis, misses, in_flight)),
        prefetch,
    )


def _build_prefetcher(
    resources: Resources, redis: RedisCache, misses: NegativeCache, in_flight: InFlight
) -> Prefetcher:
    return Prefetcher(
        redis.cache,
        resources.memory,
        deadline=seconds(resources.settings.redis.deadline) + redis.cache.SLOW_AFTER,
        should_skip=lambda digest: digest in misses or digest in in_flight,
    )


def _coalesce(
    settings: Settings, origin: SessionFinder, misses: NegativeCache, in_flight: InFlight
) -> SessionFinder:
    """Return a finder that queries `origin` once for concurrent lookups, and caches misses."""
    timeout = seconds(settings.gate.deadline)
    return NegativeCaching(
        SingleFlight(origin, timeout=timeout, in_flight=in_flight), negative_cache=misses
    )


def _build_negative_cache(settings: Settings, clock: Clock) -> NegativeCache:
    return NegativeCache(
        max_digests=settings.negative_cache.max_digests,
        max_age=seconds(settings.negative_cache.max_age),
        clock=clock,
    )


def _build_guard(store: str, section: StoreSection, clock: Clock, metrics: Metrics) -> Guard:
    breaker = CircuitBreaker(
        failure_threshold=section.breaker_failures,
        probe_interval=seconds(section.breaker_probe),
        clock=clock,
    )
    metrics.watch_breaker(store, lambda: breaker.state)
    return Guard(store, timeout=seconds(section.deadline), breaker=breaker)
