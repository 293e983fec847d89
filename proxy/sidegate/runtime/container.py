"""Build the services of one process from its settings, and connect them to the stores."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from uuid_utils import uuid7

from sidegate.core.clock import Clock, SharedClock
from sidegate.core.protocols import DurableStore, Feed, SessionCache
from sidegate.core.session import SessionId
from sidegate.observability.metrics import Metrics
from sidegate.runtime.database import Database
from sidegate.runtime.invalidation import (
    ChangeSubscriptions,
    build_feed,
    build_notify,
    clear_memory,
)
from sidegate.runtime.lookup import (
    RedisCache,
    build_lookup,
    build_redis_cache,
)
from sidegate.runtime.resources import Resources, open_resources, seconds
from sidegate.services.activity import ActivityRecorder
from sidegate.services.analytics import Analytics
from sidegate.services.audit_seal import AuditSealer
from sidegate.services.backchannel_logout import BackchannelLogout
from sidegate.services.binding import BackgroundRevoker, ClientBinding
from sidegate.services.change_poller import ChangePoller
from sidegate.services.cleanup import CleanupJob
from sidegate.services.clock_sync import ClockSync
from sidegate.services.locks import Locks
from sidegate.services.publisher import NullFeed
from sidegate.services.rotation import Rotation
from sidegate.services.session_context import SessionContext
from sidegate.services.sessions import Sessions
from sidegate.services.validator import Validator
from sidegate.settings import Settings
from sidegate.stores.lookup import SessionLookup
from sidegate.stores.memory import MemoryStore
from sidegate.web.ops.app import Ping

if TYPE_CHECKING:
    from sidegate.stores.redis.store import RedisStore


@dataclass(frozen=True)
class Container:
    """The stores and services of one process. server.py opens listeners and runs tasks on them."""

    metrics: Metrics
    database: Database
    memory: MemoryStore
    caches: tuple[SessionCache, ...]
    redis: "RedisStore | None"
    lookup: SessionLookup
    context: SessionContext
    change_poller: ChangePoller
    subscriptions: ChangeSubscriptions
    sessions: Sessions
    rotation: Rotation
    locks: Locks
    backchannel_logout: BackchannelLogout
    audit: AuditSealer
    analytics: Analytics
    validator: Validator
    activity: ActivityRecorder
    cleanup: CleanupJob
    binding: ClientBinding
    background_revoker: BackgroundRevoker
    pings: Mapping[str, Ping]
    clock_sync: ClockSync | None

    @property
    def durable(self) -> DurableStore:
        return self.database.sessions


@asynccontextmanager
async def build_services(settings: Settings) -> AsyncIterator[Container]:
    """Open the stores, build the services, and close the stores in the end.

    Raise SettingsError or SchemaMismatch if the settings or the tables do not fit this program. A
    store that does not answer yet is no error.
    """
    async with open_resources(settings) as resources:
        yield _build_container(resources)


def _build_container(resources: Resources) -> Container:
    settings, clock, metrics = resources.settings, resources.clock, resources.metrics
    database, memory = resources.database, resources.memory
    redis = build_redis_cache(resources)
    lookup = build_lookup(resources, redis)
    caches = (memory,) if redis is None else (memory, redis.cache)
    change_poller = _build_change_poller(resources, caches, redis)
    feed = build_feed(resources.redis, clock, metrics)
    context = _build_context(resources, caches, feed or NullFeed(), change_poller)
    sessions = build_sessions(settings, context)
    activity = _build_activity(resources, caches)
    background_revoker = BackgroundRevoker(sessions, events=metrics)
    return Container(
        metrics=metrics,
        database=database,
        memory=memory,
        caches=caches,
        redis=resources.redis,
        lookup=lookup,
        context=context,
        change_poller=change_poller,
        subscriptions=ChangeSubscriptions(
            change_poller=change_poller,
            pending=resources.pending,
            persist=sessions.persist,
            interval=seconds(settings.change_poller.interval),
            feed=feed,
            notify=build_notify(settings, clock, metrics),
            memory=memory,
            metrics=metrics,
        ),
        sessions=sessions,
        rotation=Rotation(context),
        locks=Locks(database.locks, get=sessions.get, clock=clock, count=metrics.count_lock),
        backchannel_logout=BackchannelLogout(database.logout_tokens, sessions, clock=clock),
        audit=_build_audit_sealer(resources),
        analytics=_build_analytics(resources),
        validator=build_validator(settings, context, lookup, activity),
        activity=activity,
        cleanup=_build_cleanup(resources),
        binding=build_binding(settings, metrics, background_revoker),
        background_revoker=background_revoker,
        pings=_build_pings(resources),
        clock_sync=_build_clock_sync(clock, database),
    )


def build_sessions(settings: Settings, context: SessionContext) -> Sessions:
    """Return the session operations under the rules of the settings."""
    return Sessions(
        context,
        new_id=lambda: SessionId(str(uuid7())),
        prefix_lengths=settings.binding.prefix_lengths(),
    )


def build_validator(
    settings: Settings,
    context: SessionContext,
    lookup: SessionLookup,
    activity: ActivityRecorder,
) -> Validator:
    """Return the validator of tokens under the rules of the settings."""
    return Validator(
        lookup,
        ring=context.ring,
        clock=context.clock,
        deadline=seconds(settings.gate.deadline),
        on_allowed=activity.on_allowed,
    )


def build_binding(
    settings: Settings, metrics: Metrics, background_revoker: BackgroundRevoker
) -> ClientBinding:
    """Return the check of a session's binding to its client, under the rules of the settings."""
    return ClientBinding(
        settings.binding.policies(),
        prefix_lengths=settings.binding.prefix_lengths(),
        events=metrics,
        revoke=background_revoker.revoke,
    )


def _build_change_poller(
    resources: Resources, caches: Sequence[SessionCache], redis: RedisCache | None
) -> ChangePoller:
    return ChangePoller(
        resources.database.sessions,
        caches=caches,
        on_generation=_ignore if redis is None else redis.store.use_generation,
        on_redis_trust=_ignore if redis is None else redis.set_trusted,
        on_gap=partial(clear_memory, resources.memory, resources.metrics),
        clock=resources.clock,
        interval=seconds(resources.settings.change_poller.interval),
    )


def _ignore(_: int) -> None:
    """Do nothing: without Redis there is no generation."""


def _build_context(
    resources: Resources, caches: Sequence[SessionCache], feed: Feed, change_poller: ChangePoller
) -> SessionContext:
    return SessionContext(
        durable=resources.database.sessions,
        caches=caches,
        feed=feed,
        ring=resources.ring,
        lifetimes=resources.settings.sessions.lifetimes_by_type(),
        clock=resources.clock,
        events=resources.metrics,
        limits=resources.settings.sessions.limits_by_type(),
        redeliver_later=change_poller.redeliver_later,
        pending=resources.pending,
    )


def _build_activity(resources: Resources, caches: Sequence[SessionCache]) -> ActivityRecorder:
    return ActivityRecorder(
        resources.database.sessions,
        caches=caches,
        lifetimes=resources.settings.sessions.lifetimes_by_type(),
        clock=resources.clock,
        touch_memory=resources.memory.touch,
        count=resources.metrics.count_touches,
        max_buffered=resources.settings.touch.max_sessions,
    )


def _build_audit_sealer(resources: Resources) -> AuditSealer:
    return AuditSealer(
        resources.database.audit,
        retention=resources.settings.audit.retention,
        clock=resources.clock,
        count=resources.metrics.count_audit_events,
    )


def _build_analytics(resources: Resources) -> Analytics:
    return Analytics(
        resources.database.analytics,
        interval=resources.settings.analytics.interval,
        clock=resources.clock,
        count=resources.metrics.count_sample,
        on_report=resources.metrics.set_report,
    )


def _build_cleanup(resources: Resources) -> CleanupJob:
    section = resources.settings.cleanup
    return CleanupJob(
        resources.database.sessions,
        retention=section.retention,
        batch=section.batch,
        clock=resources.clock,
        count=resources.metrics.count_cleanups,
    )


def _build_pings(resources: Resources) -> Mapping[str, Ping]:
    pings: dict[str, Ping] = {resources.database.name: resources.database.sessions.ping}
    if resources.redis is not None:
        pings["redis"] = resources.redis.ping
    return pings


def _build_clock_sync(clock: Clock, database: Database) -> ClockSync | None:
    if isinstance(clock, SharedClock) and database.now is not None:
        return ClockSync(clock, database.now)
    return None
