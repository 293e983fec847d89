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
    HotStore,
    SessionFinder,
)
from sidegate.core.session import SessionId
from sidegate.core.token import KeyRing
from sidegate.observability.metrics import Metrics
from sidegate.runtime.database import Truth, opened
from sidegate.runtime.invalidation import News, bell_of, feed_of, pending_of, went_back
from sidegate.services.activity import Toucher
from sidegate.services.analytics import Analytics
from sidegate.services.audit_seal import Audit
from sidegate.services.backchannel_logout import Logouts
from sidegate.services.binding import ClientBinding, RevokeBehind
from sidegate.services.change_poller import CatchUp
from sidegate.services.cleanup import Janitor
from sidegate.services.clock_sync import SharedTime
from sidegate.services.locks import Locks
from sidegate.services.pending_revocations import Pending
from sidegate.services.publisher import Nobody
from sidegate.services.rotation import Rotation
from sidegate.services.session_context import Means
from sidegate.services.sessions import Sessions
from sidegate.services.validator import Fetch, Validator
from sidegate.settings import Settings, token_keys
from sidegate.settings.sections import StoreSection
from sidegate.stores.client.batched import Batched, BatchedHot
from sidegate.stores.client.circuit_breaker import Breaker
from sidegate.stores.client.guard import Guard, Guarded, GuardedHot
from sidegate.stores.client.metrics import Metered, MeteredLeaf
from sidegate.stores.client.redis_trust import Confirmed
from sidegate.stores.memory import LocalStore
from sidegate.stores.negative_cache import Misses, RememberMisses
from sidegate.stores.prefetch import Fetcher
from sidegate.stores.read_through import Beyond, ReadThrough
from sidegate.stores.single_flight import Coalesce, UnderWay
from sidegate.web.ops.app import Ping

if TYPE_CHECKING:
    from sidegate.stores.redis.store import RedisStore


@dataclass(frozen=True)
class Roads:
    """The ways from a digest to its session, as the validator takes them."""

    whole: SessionFinder
    onward: SessionFinder  # for those whom `fetch` has told nothing
    fetch: Fetch | None  # None: there is no hot store but memory


@dataclass(frozen=True)
class House:
    """Everybody, introduced to each other. The doors and the comings and goings are app.py's."""

    metrics: Metrics
    truth: Truth
    local: LocalStore
    hot: tuple[HotStore, ...]
    redis: "RedisStore | None"
    roads: Roads
    means: Means
    catch_up: CatchUp
    news: News
    sessions: Sessions
    rotation: Rotation
    locks: Locks
    logouts: Logouts
    audit: Audit
    analytics: Analytics
    validator: Validator
    toucher: Toucher
    janitor: Janitor
    binding: ClientBinding
    revoke_behind: RevokeBehind
    pings: Mapping[str, Ping]
    shared_time: SharedTime | None

    @property
    def durable(self) -> DurableStore:
        return self.truth.sessions


@asynccontextmanager
async def built(settings: Settings) -> AsyncIterator[House]:
    """Build the house, and take it down in the end.

    SettingsError, SchemaMismatch: it cannot be built like this. A store that does not answer yet
    is no reason not to build.
    """
    async with AsyncExitStack() as cellar:
        clock = _clock(settings)
        ring = KeyRing(token_keys(settings))
        metrics = Metrics(
            version=version("sidegate"), revocation_bound=_seconds(settings.local.max_age)
        )
        metrics.settings_read(clock.now(), successful=True)
        truth = await opened(settings)
        cellar.push_async_callback(truth.sessions.close)
        redis = _redis(settings, metrics)
        if redis is not None:
            cellar.push_async_callback(redis.close)
        pending = pending_of(settings, redis, clock, metrics)
        local = LocalStore(
            max_sessions=settings.local.max_sessions,
            max_bytes=settings.local.max_bytes,
            max_age=_seconds(settings.local.max_age),
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
    truth: Truth,
    local: LocalStore,
    redis: "RedisStore | None",
    pending: Pending,
) -> House:
    durable = truth.sessions
    hot: list[HotStore] = [local]  # which counts for itself
    finder = onward = _guarded_durable(settings, clock, metrics, truth)
    misses, under_way = _misses(settings, clock), UnderWay()
    fetch: Fetch | None = None
    pings: dict[str, Ping] = {truth.name: durable.ping}
    told: Callable[[int], None] = _nothing_beyond
    believe: Callable[[bool], None] = _nothing_beyond
    if redis is not None:
        confirmed = _confirmed_redis(settings, clock, metrics, redis)
        told, believe = redis.believe, partial(_believe, confirmed)
        near = BatchedHot(MeteredLeaf(confirmed, store="redis", observe=metrics.lookup))
        metrics.watch_round_trips("redis", near.round_trips)
        hot.append(near)
        finder, onward = ReadThrough(near, finder, clock=clock), Beyond(near, onward)
        fetch = Fetcher(
            near,
            local,
            deadline=_seconds(settings.redis.deadline) + near.LATE,
            useless=lambda digest: digest in misses or digest in under_way,
        ).fetch
        pings["redis"] = redis.ping
    roads = Roads(
        ReadThrough(local, _beyond_memory(settings, finder, misses, under_way), clock=clock),
        Beyond(local, _beyond_memory(settings, onward, misses, under_way)),
        fetch,
    )
    feed = feed_of(redis, clock, metrics)
    lifetimes = settings.sessions.by_type()
    toucher = Toucher(
        durable,
        hot=hot,
        lifetimes=lifetimes,
        clock=clock,
        keep_near=local.touch,
        counted=metrics.touches,
        max_notes=settings.touch.max_sessions,
    )
    catch_up = CatchUp(
        durable,
        hot=hot,
        told=told,
        believe=believe,
        gap=partial(went_back, local, metrics),
        clock=clock,
        every=_seconds(settings.catch_up.interval),
    )
    means = Means(
        durable,
        hot,
        feed or Nobody(),
        ring,
        lifetimes,
        clock,
        metrics,
        settings.sessions.limits(),
        catch_up.owe,
        pending,
    )
    sessions = sessions_of(settings, means)
    revoke_behind = RevokeBehind(sessions, events=metrics)
    return House(
        metrics=metrics,
        truth=truth,
        local=local,
        hot=tuple(hot),
        redis=redis,
        roads=roads,
        means=means,
        catch_up=catch_up,
        news=News(
            catch_up=catch_up,
            pending=pending,
            write_down=sessions.write_down,
            every=_seconds(settings.catch_up.interval),
            feed=feed,
            bell=bell_of(settings, clock, metrics),
            local=local,
            metrics=metrics,
        ),
        sessions=sessions,
        rotation=Rotation(means),
        locks=Locks(truth.locks, get=sessions.get, clock=clock, counted=metrics.lock),
        logouts=Logouts(truth.logouts, sessions, clock=clock),
        audit=Audit(
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
        validator=validator_of(settings, means, roads, local, toucher),
        toucher=toucher,
        janitor=Janitor(
            durable,
            retention=settings.cleanup.retention,
            batch=settings.cleanup.batch,
            clock=clock,
            counted=metrics.cleanups,
        ),
        binding=binding_of(settings, metrics, revoke_behind),
        revoke_behind=revoke_behind,
        pings=pings,
        shared_time=_shared_time(clock, truth),
    )


def sessions_of(settings: Settings, means: Means) -> Sessions:
    """Return the verbs under the rules of the settings."""
    return Sessions(means, new_id=lambda: SessionId(str(uuid7())), widths=settings.binding.widths())


def validator_of(
    settings: Settings, means: Means, roads: Roads, local: LocalStore, toucher: Toucher
) -> Validator:
    """Return who answers for tokens."""
    return Validator(
        roads.whole,
        ring=means.ring,
        clock=means.clock,
        deadline=_seconds(settings.gate.deadline),
        memory=local.peek,
        fetch=roads.fetch,
        onward=roads.onward,
        seen=toucher.seen,
    )


def binding_of(settings: Settings, metrics: Metrics, revoke_behind: RevokeBehind) -> ClientBinding:
    """Return who holds sessions to their clients."""
    return ClientBinding(
        settings.binding.policies(),
        widths=settings.binding.widths(),
        events=metrics,
        revoke=revoke_behind.revoke,
    )


def _beyond_memory(
    settings: Settings, far: SessionFinder, misses: Misses, under_way: UnderWay
) -> SessionFinder:
    patience = _seconds(settings.gate.deadline)
    return RememberMisses(Coalesce(far, patience=patience, under_way=under_way), misses=misses)


def _misses(settings: Settings, clock: Clock) -> Misses:
    return Misses(
        max_digests=settings.unknown.max_digests,
        max_age=_seconds(settings.unknown.max_age),
        clock=clock,
    )


def _guard(name: str, limits: StoreSection, clock: Clock, metrics: Metrics) -> Guard:
    breaker = Breaker(
        failures=limits.breaker_failures, probe_every=_seconds(limits.breaker_probe), clock=clock
    )
    metrics.watch_breaker(name, lambda: breaker.state)
    return Guard(name, seconds=_seconds(limits.deadline), breaker=breaker)


def _guarded_durable(
    settings: Settings, clock: Clock, metrics: Metrics, truth: Truth
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
) -> Confirmed:
    """Return Redis in doubt: nobody has told the generation yet."""
    guard = _guard("redis", settings.redis, clock, metrics)
    confirmed = Confirmed(GuardedHot(redis, guard=guard), store="redis")
    confirmed.doubt()
    return confirmed


def _nothing_beyond(_: int) -> None:
    """Where there is no hot store but memory, nothing has generations."""


def _believe(confirmed: Confirmed, certain: bool) -> None:
    if certain:
        confirmed.confirm()
    else:
        confirmed.doubt()


def _clock(settings: Settings) -> Clock:
    """Return the machine's clock; where there may be other machines, one they share."""
    own = SystemClock()
    return own if settings.database_url is None else SharedClock(own)


def _shared_time(clock: Clock, truth: Truth) -> SharedTime | None:
    if isinstance(clock, SharedClock) and truth.now is not None:
        return SharedTime(clock, truth.now)
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
