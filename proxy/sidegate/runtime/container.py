"""What one process consists of, built from the settings: stores, their wrappers, the services."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from uuid_utils import uuid7

from sidegate.core.clock import Clock, SharedClock, SystemClock
from sidegate.core.protocols import (
    DurableStore,
    SessionCache,
    SessionFinder,
)
from sidegate.core.session import SessionId
from sidegate.core.token import KeyRing
from sidegate.observability.metrics import Metrics
from sidegate.runtime.database import Database, open_database
from sidegate.runtime.invalidation import (
    ChangeSubscriptions,
    build_feed,
    build_notify,
    build_pending,
    forget_all,
)
from sidegate.services.activity import ActivityRecorder
from sidegate.services.analytics import Analytics
from sidegate.services.audit_seal import AuditSealer
from sidegate.services.backchannel_logout import BackchannelLogout
from sidegate.services.binding import BackgroundRevoker, ClientBinding
from sidegate.services.change_poller import ChangePoller
from sidegate.services.cleanup import CleanupJob
from sidegate.services.clock_sync import ClockSync
from sidegate.services.locks import Locks
from sidegate.services.pending_revocations import PendingRevocations
from sidegate.services.publisher import NullFeed
from sidegate.services.rotation import Rotation
from sidegate.services.session_context import SessionContext
from sidegate.services.sessions import Sessions
from sidegate.services.validator import Prefetch, Validator
from sidegate.settings import Settings, token_keys
from sidegate.settings.sections import StoreSection
from sidegate.stores.client.batched import Batched, BatchedCache
from sidegate.stores.client.circuit_breaker import CircuitBreaker
from sidegate.stores.client.guard import Guard, Guarded, GuardedCache
from sidegate.stores.client.metrics import Metered, MeteredCache
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.memory import MemoryStore
from sidegate.stores.negative_cache import NegativeCache, NegativeCaching
from sidegate.stores.prefetch import Prefetcher
from sidegate.stores.read_through import ReadThrough, SkipCache
from sidegate.stores.single_flight import InFlight, SingleFlight
from sidegate.web.ops.app import Ping

if TYPE_CHECKING:
    from sidegate.stores.redis.store import RedisStore


@dataclass(frozen=True)
class LookupPaths:
    """The ways from a digest to its session, as the validator takes them."""

    whole: SessionFinder
    onward: SessionFinder  # for those whom `fetch` has told nothing
    fetch: Prefetch | None  # None: there is no hot store but memory


@dataclass(frozen=True)
class Container:
    """Everybody, introduced to each other. The doors and the comings and goings are app.py's."""

    metrics: Metrics
    truth: Database
    local: MemoryStore
    hot: tuple[SessionCache, ...]
    redis: "RedisStore | None"
    roads: LookupPaths
    means: SessionContext
    catch_up: ChangePoller
    news: ChangeSubscriptions
    sessions: Sessions
    rotation: Rotation
    locks: Locks
    logouts: BackchannelLogout
    audit: AuditSealer
    analytics: Analytics
    validator: Validator
    toucher: ActivityRecorder
    janitor: CleanupJob
    binding: ClientBinding
    revoke_behind: BackgroundRevoker
    pings: Mapping[str, Ping]
    shared_time: ClockSync | None

    @property
    def durable(self) -> DurableStore:
        return self.truth.sessions


@asynccontextmanager
async def build_services(settings: Settings) -> AsyncIterator[Container]:
    """Build the house, and take it down in the end.

    SettingsError, SchemaMismatch: it cannot be built like this. A store that does not answer yet
    is no reason not to build.
    """
    async with AsyncExitStack() as cellar:
        clock = _clock(settings)
        ring = KeyRing(token_keys(settings))
        metrics = Metrics(
            version=version("sidegate"), revocation_bound=_seconds(settings.memory.max_age)
        )
        metrics.settings_read(clock.now(), successful=True)
        truth = await open_database(settings)
        cellar.push_async_callback(truth.sessions.close)
        redis = _redis(settings, metrics)
        if redis is not None:
            cellar.push_async_callback(redis.close)
        pending = build_pending(settings, redis, clock, metrics)
        local = MemoryStore(
            max_sessions=settings.memory.max_sessions,
            max_bytes=settings.memory.max_bytes,
            max_age=_seconds(settings.memory.max_age),
            clock=clock,
            applied=pending.applied,
        )
        metrics.watch_local(local)
        yield _introduced(settings, clock, ring, metrics, truth, local, redis, pending)


def _introduced(
    settings: Settings,
    clock: Clock,
    ring: KeyRing,
    metrics: Metrics,
    truth: Database,
    local: MemoryStore,
    redis: "RedisStore | None",
    pending: PendingRevocations,
) -> Container:
    durable = truth.sessions
    hot: list[SessionCache] = [local]  # which counts for itself
    finder = onward = _guarded_durable(settings, clock, metrics, truth)
    misses, under_way = _misses(settings, clock), InFlight()
    fetch: Prefetch | None = None
    pings: dict[str, Ping] = {truth.name: durable.ping}
    told: Callable[[int], None] = _nothing_beyond
    believe: Callable[[bool], None] = _nothing_beyond
    if redis is not None:
        confirmed = _confirmed_redis(settings, clock, metrics, redis)
        told, believe = redis.use_generation, partial(_believe, confirmed)
        near = BatchedCache(MeteredCache(confirmed, store="redis", observe=metrics.lookup))
        metrics.watch_round_trips("redis", near.round_trips)
        hot.append(near)
        finder, onward = ReadThrough(near, finder, clock=clock), SkipCache(near, onward)
        fetch = Prefetcher(
            near,
            local,
            deadline=_seconds(settings.redis.deadline) + near.LATE,
            useless=lambda digest: digest in misses or digest in under_way,
        ).prefetch
        pings["redis"] = redis.ping
    roads = LookupPaths(
        ReadThrough(local, _beyond_memory(settings, finder, misses, under_way), clock=clock),
        SkipCache(local, _beyond_memory(settings, onward, misses, under_way)),
        fetch,
    )
    feed = build_feed(redis, clock, metrics)
    lifetimes = settings.sessions.by_type()
    toucher = ActivityRecorder(
        durable,
        hot=hot,
        lifetimes=lifetimes,
        clock=clock,
        keep_near=local.touch,
        counted=metrics.touches,
        max_notes=settings.touch.max_sessions,
    )
    catch_up = ChangePoller(
        durable,
        hot=hot,
        told=told,
        believe=believe,
        gap=partial(forget_all, local, metrics),
        clock=clock,
        every=_seconds(settings.change_poller.interval),
    )
    means = SessionContext(
        durable,
        hot,
        feed or NullFeed(),
        ring,
        lifetimes,
        clock,
        metrics,
        settings.sessions.limits(),
        catch_up.redeliver_later,
        pending,
    )
    sessions = build_sessions(settings, means)
    revoke_behind = BackgroundRevoker(sessions, events=metrics)
    return Container(
        metrics=metrics,
        truth=truth,
        local=local,
        hot=tuple(hot),
        redis=redis,
        roads=roads,
        means=means,
        catch_up=catch_up,
        news=ChangeSubscriptions(
            catch_up=catch_up,
            pending=pending,
            write_down=sessions.persist,
            every=_seconds(settings.change_poller.interval),
            feed=feed,
            bell=build_notify(settings, clock, metrics),
            local=local,
            metrics=metrics,
        ),
        sessions=sessions,
        rotation=Rotation(means),
        locks=Locks(truth.locks, get=sessions.get, clock=clock, counted=metrics.lock),
        logouts=BackchannelLogout(truth.logouts, sessions, clock=clock),
        audit=AuditSealer(
            truth.audit,
            retention=settings.audit.retention,
            clock=clock,
            counted=metrics.audit_events,
        ),
        analytics=Analytics(
            truth.analytics,
            every=settings.analytics.interval,
            clock=clock,
            counted=metrics.samples,
            told=metrics.analytics,
        ),
        validator=build_validator(settings, means, roads, local, toucher),
        toucher=toucher,
        janitor=CleanupJob(
            durable,
            retention=settings.cleanup.retention,
            batch=settings.cleanup.batch,
            clock=clock,
            counted=metrics.cleanups,
        ),
        binding=build_binding(settings, metrics, revoke_behind),
        revoke_behind=revoke_behind,
        pings=pings,
        shared_time=_shared_time(clock, truth),
    )


def build_sessions(settings: Settings, means: SessionContext) -> Sessions:
    """Return the verbs under the rules of the settings."""
    return Sessions(means, new_id=lambda: SessionId(str(uuid7())), widths=settings.binding.widths())


def build_validator(
    settings: Settings,
    means: SessionContext,
    roads: LookupPaths,
    local: MemoryStore,
    toucher: ActivityRecorder,
) -> Validator:
    """Return who answers for tokens."""
    return Validator(
        roads.whole,
        ring=means.ring,
        clock=means.clock,
        deadline=_seconds(settings.gate.deadline),
        memory=local.get_nowait,
        fetch=roads.fetch,
        onward=roads.onward,
        seen=toucher.on_allowed,
    )


def build_binding(
    settings: Settings, metrics: Metrics, revoke_behind: BackgroundRevoker
) -> ClientBinding:
    """Return who holds sessions to their clients."""
    return ClientBinding(
        settings.binding.policies(),
        widths=settings.binding.widths(),
        events=metrics,
        revoke=revoke_behind.revoke,
    )


def _beyond_memory(
    settings: Settings, far: SessionFinder, misses: NegativeCache, under_way: InFlight
) -> SessionFinder:
    patience = _seconds(settings.gate.deadline)
    return NegativeCaching(SingleFlight(far, patience=patience, under_way=under_way), misses=misses)


def _misses(settings: Settings, clock: Clock) -> NegativeCache:
    return NegativeCache(
        max_digests=settings.negative_cache.max_digests,
        max_age=_seconds(settings.negative_cache.max_age),
        clock=clock,
    )


def _guard(name: str, limits: StoreSection, clock: Clock, metrics: Metrics) -> Guard:
    breaker = CircuitBreaker(
        failures=limits.breaker_failures, probe_every=_seconds(limits.breaker_probe), clock=clock
    )
    metrics.watch_breaker(name, lambda: breaker.state)
    return Guard(name, seconds=_seconds(limits.deadline), breaker=breaker)


def _guarded_durable(
    settings: Settings, clock: Clock, metrics: Metrics, truth: Database
) -> SessionFinder:
    limits = settings.sqlite if settings.database_url is None else settings.postgres
    batched = Batched(
        Guarded(truth.sessions, guard=_guard(truth.name, limits, clock, metrics)),
        store=truth.name,
        max_flights=truth.lookups_at_once,
        max_waiting=limits.max_lookups,
    )
    metrics.watch_round_trips(truth.name, batched.round_trips)
    return Metered(batched, store=truth.name, observe=metrics.lookup)


def _confirmed_redis(
    settings: Settings, clock: Clock, metrics: Metrics, redis: "RedisStore"
) -> RedisTrust:
    """Return Redis in doubt: nobody has told the generation yet."""
    guard = _guard("redis", settings.redis, clock, metrics)
    confirmed = RedisTrust(GuardedCache(redis, guard=guard), store="redis")
    confirmed.distrust()
    return confirmed


def _nothing_beyond(_: int) -> None:
    """Where there is no hot store but memory, nothing has generations."""


def _believe(confirmed: RedisTrust, certain: bool) -> None:
    if certain:
        confirmed.trust()
    else:
        confirmed.distrust()


def _clock(settings: Settings) -> Clock:
    """Return the machine's clock; where there may be other machines, one they share."""
    own = SystemClock()
    return own if settings.database_url is None else SharedClock(own)


def _shared_time(clock: Clock, truth: Database) -> ClockSync | None:
    if isinstance(clock, SharedClock) and truth.now is not None:
        return ClockSync(clock, truth.now)
    return None


def _redis(settings: Settings, metrics: Metrics) -> "RedisStore | None":
    if settings.redis_url is None:
        return None
    from sidegate.stores.redis.store import RedisStore  # megabytes, for those who have one

    return RedisStore(
        settings.redis_url.get_secret_value(),
        on_unreadable=metrics.unreadable_record,
        timeout=max(0.05, _seconds(settings.redis.deadline)),
        generation=None,  # the durable store says which
    )


def _seconds(duration: timedelta) -> float:
    return duration.total_seconds()
