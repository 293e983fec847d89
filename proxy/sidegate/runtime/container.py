"""Build the services of one process from its settings, and connect them to the stores."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uuid_utils import uuid7

from sidegate.core.clock import Clock, SharedClock
from sidegate.core.protocols import DurableStore, SessionCache
from sidegate.core.session import SessionId
from sidegate.observability.metrics import Metrics
from sidegate.runtime.database import Database
from sidegate.runtime.invalidation import (
    ChangeSubscriptions,
    MemorySubscriber,
    build_feed,
    build_notify,
)
from sidegate.runtime.lookup import (
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
from sidegate.services.publisher import ChangePublisher, NullFeed
from sidegate.services.redelivery import Redelivery
from sidegate.services.rotation import Rotation
from sidegate.services.rules import RulesInForce
from sidegate.services.session_reader import SessionReader
from sidegate.services.sessions import Sessions
from sidegate.services.validator import Validator
from sidegate.settings import Settings
from sidegate.stores.client.batching import BatchedCache
from sidegate.stores.client.redis_trust import RedisTrust
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
    clock: Clock
    rules: RulesInForce
    redis_trust: RedisTrust
    redelivery: Redelivery
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
    caches = (memory,) if redis is None else (memory, redis)
    wakeup = asyncio.Event()
    redelivery = _build_redelivery(resources, redis, wakeup=wakeup)
    change_poller = _build_change_poller(resources, redelivery, wakeup=wakeup)
    feed = build_feed(resources.redis, clock, metrics)
    publisher = ChangePublisher(
        caches,
        feed=feed or NullFeed(),
        events=metrics,
        redeliver_later=redelivery.retry,
    )
    reader = SessionReader(database.sessions, pending=resources.pending)
    sessions = _build_sessions(resources, reader, publisher=publisher)
    activity = _build_activity(resources, caches)
    background_revoker = BackgroundRevoker(sessions, events=metrics)
    return Container(
        metrics=metrics,
        database=database,
        memory=memory,
        caches=caches,
        redis=resources.redis,
        lookup=lookup,
        clock=clock,
        rules=resources.rules,
        redis_trust=resources.redis_trust,
        redelivery=redelivery,
        change_poller=change_poller,
        subscriptions=ChangeSubscriptions(
            change_poller=change_poller,
            redis_trust=resources.redis_trust,
            pending=resources.pending,
            persist=sessions.persist,
            interval=seconds(settings.change_poller.interval),
            feed=feed,
            notify=build_notify(settings, clock, metrics),
            memory=memory,
            metrics=metrics,
        ),
        sessions=sessions,
        rotation=_build_rotation(resources, reader, publisher=publisher),
        locks=Locks(database.locks, get=reader.get, clock=clock, count=metrics.count_lock),
        backchannel_logout=BackchannelLogout(database.logout_tokens, sessions, clock=clock),
        audit=_build_audit_sealer(resources),
        analytics=_build_analytics(resources),
        validator=_build_validator(resources, lookup),
        activity=activity,
        cleanup=_build_cleanup(resources),
        binding=ClientBinding(resources.rules, events=metrics, revoke=background_revoker.revoke),
        background_revoker=background_revoker,
        pings=_build_pings(resources),
        clock_sync=_build_clock_sync(clock, database),
    )


def _build_sessions(
    resources: Resources, reader: SessionReader, *, publisher: ChangePublisher
) -> Sessions:
    return Sessions(
        resources.database.sessions,
        activity=resources.database.sessions,
        reader=reader,
        publisher=publisher,
        rules=resources.rules,
        clock=resources.clock,
        new_id=lambda: SessionId(str(uuid7())),
        pending=resources.pending,
    )


def _build_rotation(
    resources: Resources, reader: SessionReader, *, publisher: ChangePublisher
) -> Rotation:
    return Rotation(
        resources.database.sessions,
        reader=reader,
        publisher=publisher,
        rules=resources.rules,
        clock=resources.clock,
    )


def _build_validator(resources: Resources, lookup: SessionLookup) -> Validator:
    return Validator(
        lookup,
        rules=resources.rules,
        clock=resources.clock,
        deadline=seconds(resources.settings.gate.deadline),
    )


def _build_redelivery(
    resources: Resources, redis: BatchedCache | None, *, wakeup: asyncio.Event
) -> Redelivery:
    return Redelivery(
        resources.database.sessions,
        () if redis is None else (redis,),
        trust=resources.redis_trust,
        clock=resources.clock,
        wakeup=wakeup,
    )


def _build_change_poller(
    resources: Resources, redelivery: Redelivery, *, wakeup: asyncio.Event
) -> ChangePoller:
    return ChangePoller(
        resources.database.sessions,
        memory=MemorySubscriber(resources.memory, resources.metrics),
        redelivery=redelivery,
        clock=resources.clock,
        interval=seconds(resources.settings.change_poller.interval),
        wakeup=wakeup,
    )


def _build_activity(resources: Resources, caches: Sequence[SessionCache]) -> ActivityRecorder:
    return ActivityRecorder(
        resources.database.sessions,
        caches=caches,
        rules=resources.rules,
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
