"""Build the services of one process from its settings, and connect them to the stores."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from uuid_utils import uuid7

from sidegate.core.clock import Clock, SharedClock
from sidegate.core.protocols import DurableStore
from sidegate.core.session import SessionId
from sidegate.observability.metrics import Metrics
from sidegate.runtime.database import Database
from sidegate.runtime.invalidation import (
    ChangeSubscriptions,
    MemorySubscriber,
    build_feed,
    build_notify,
    build_reference_clock,
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
from sidegate.services.cache_filler import CacheFiller
from sidegate.services.cache_follower import CacheFollower
from sidegate.services.change_poller import ChangePoller
from sidegate.services.cleanup import CleanupJob
from sidegate.services.clock_sync import ClockSync
from sidegate.services.database_restore import DatabaseRestore
from sidegate.services.idleness import Idleness
from sidegate.services.locks import Locks
from sidegate.services.publisher import ChangePublisher, NullFeed
from sidegate.services.rotation import Rotation
from sidegate.services.rules import RulesInForce
from sidegate.services.session_reader import SessionReader
from sidegate.services.sessions import Sessions
from sidegate.services.store_monitor import Ping, StoreMonitor
from sidegate.services.tenants import Tenants
from sidegate.services.validator import Validator
from sidegate.settings import Settings
from sidegate.stores.client.batching import BatchedCache
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.lookup import SessionLookup
from sidegate.stores.memory import MemoryStore

if TYPE_CHECKING:
    from sidegate.stores.redis.pubsub import RedisPubSub


class Container:
    """The stores and services of one process, each built when it is first asked for.

    server.py opens listeners and runs background tasks on them.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._settings = resources.settings
        self.metrics: Metrics = resources.metrics
        self.database: Database = resources.database
        self.durable: DurableStore = resources.database.sessions
        self.redis = resources.redis
        self.redis_trust: RedisTrust = resources.redis_trust
        self.memory: MemoryStore = resources.memory
        self.clock: Clock = resources.clock
        self.rules: RulesInForce = resources.rules
        self.idleness: Idleness = resources.idleness

    # Lookup

    @cached_property
    def lookup(self) -> SessionLookup:
        return build_lookup(self._resources, self._redis_cache)

    @cached_property
    def validator(self) -> Validator:
        deadline = seconds(self._settings.gate.deadline)
        return Validator(
            self.lookup,
            rules=self.rules,
            clock=self.clock,
            deadline=deadline,
            require_idle_known=self.idleness.require_known,
        )

    @cached_property
    def tenants(self) -> Tenants:
        timeout = seconds(self._settings.gate.deadline)
        max_sessions = self._settings.memory.max_sessions
        return Tenants(self._reader.get, timeout=timeout, max_sessions=max_sessions)

    @cached_property
    def binding(self) -> ClientBinding:
        revoke = self.background_revoker.revoke
        return ClientBinding(self.rules, events=self.metrics, revoke=revoke)

    @cached_property
    def _redis_cache(self) -> BatchedCache | None:
        return build_redis_cache(self._resources)

    # Changes

    @cached_property
    def change_poller(self) -> ChangePoller:
        return ChangePoller(
            self.durable,
            memory=self._memory_subscriber,
            clock=self.clock,
            interval=seconds(self._settings.change_poller.interval),
        )

    @cached_property
    def cache_follower(self) -> CacheFollower | None:
        """None without Redis."""
        if self.redis is None:
            return None
        wakeup = asyncio.Event()
        self.redis_trust.request_round = wakeup.set
        return CacheFollower(
            self.durable,
            self.redis,
            trust=self.redis_trust,
            clock=self.clock,
            wakeup=wakeup,
            on_position_lost=self._memory_subscriber.on_position_lost,
            count_move=self.metrics.count_seal,
        )

    @cached_property
    def database_restore(self) -> DatabaseRestore:
        count = self.metrics.count_database_restore
        return DatabaseRestore(self.durable, cache=self.redis, clock=self.clock, count=count)

    @cached_property
    def _memory_subscriber(self) -> MemorySubscriber:
        return MemorySubscriber(self.memory, self.metrics, restore=self.database_restore)

    @cached_property
    def subscriptions(self) -> ChangeSubscriptions:
        return ChangeSubscriptions(
            change_poller=self.change_poller,
            cache_follower=self.cache_follower,
            restore=self.database_restore,
            pending=self._resources.pending,
            persist=self.sessions.persist,
            interval=seconds(self._settings.change_poller.interval),
            feed=self._feed,
            notify=build_notify(self._settings, self.clock, metrics=self.metrics),
            memory=self.memory,
            idleness=self.idleness,
            metrics=self.metrics,
        )

    @cached_property
    def _publisher(self) -> ChangePublisher:
        return ChangePublisher(
            self.memory,
            remote=self._redis_cache,
            trust=self.redis_trust,
            feed=self._feed or NullFeed(),
            events=self.metrics,
        )

    @cached_property
    def _filler(self) -> CacheFiller:
        return CacheFiller(
            self.memory, remote=self._redis_cache, trust=self.redis_trust, clock=self.clock
        )

    @cached_property
    def _feed(self) -> "RedisPubSub | None":
        return build_feed(self.redis, self.clock, metrics=self.metrics)

    # Operations

    @cached_property
    def sessions(self) -> Sessions:
        return Sessions(
            self.durable,
            activity=self.durable,
            reader=self._reader,
            publisher=self._publisher,
            filler=self._filler,
            rules=self.rules,
            clock=self.clock,
            new_id=lambda: SessionId(str(uuid7())),
            pending=self._resources.pending,
        )

    @cached_property
    def rotation(self) -> Rotation:
        return Rotation(
            self.durable,
            reader=self._reader,
            publisher=self._publisher,
            rules=self.rules,
            clock=self.clock,
            count=self.metrics.count_refresh,
        )

    @cached_property
    def locks(self) -> Locks:
        count = self.metrics.count_lock
        return Locks(
            self.database.locks,
            get=self._reader.get,
            clock=self.clock,
            count=count,
            has_ended=self._reader.has_ended,
        )

    @cached_property
    def backchannel_logout(self) -> BackchannelLogout:
        tokens = self.database.logout_tokens
        return BackchannelLogout(tokens, self.sessions, clock=self.clock)

    @cached_property
    def _reader(self) -> SessionReader:
        return SessionReader(
            self.durable,
            pending=self._resources.pending,
            require_idle_known=self.idleness.require_known,
        )

    # Background jobs

    @cached_property
    def activity(self) -> ActivityRecorder:
        return ActivityRecorder(
            self.durable,
            filler=self._filler,
            rules=self.rules,
            clock=self.clock,
            touch_memory=self.memory.touch,
            count=self.metrics.count_touches,
            on_unavailable=self.idleness.record_failure,
            max_buffered=self._settings.touch.max_sessions,
        )

    @cached_property
    def background_revoker(self) -> BackgroundRevoker:
        return BackgroundRevoker(self.sessions, events=self.metrics)

    @cached_property
    def audit(self) -> AuditSealer:
        return AuditSealer(
            self.database.audit,
            retention=self._settings.audit.retention,
            clock=self.clock,
            count=self.metrics.count_audit_events,
        )

    @cached_property
    def analytics(self) -> Analytics:
        return Analytics(
            self.database.analytics,
            interval=self._settings.analytics.interval,
            clock=self.clock,
            count=self.metrics.count_sample,
            on_report=self.metrics.set_report,
        )

    @cached_property
    def cleanup(self) -> CleanupJob:
        return CleanupJob(
            self.durable,
            retention=self._settings.cleanup.retention,
            batch=self._settings.cleanup.batch,
            clock=self.clock,
            count=self.metrics.count_cleanups,
        )

    @cached_property
    def clock_sync(self) -> ClockSync | None:
        """None if the machine's own clock is used."""
        if not isinstance(self.clock, SharedClock) or self.database.now is None:
            return None
        reference = build_reference_clock(self.redis)
        return ClockSync(self.clock, self.database.now, reference=reference)

    @cached_property
    def store_monitor(self) -> StoreMonitor:
        return StoreMonitor(self.pings, report=self.metrics.record_ping)

    @property
    def pings(self) -> Mapping[str, Ping]:
        """The readiness check of each store."""
        pings: dict[str, Ping] = {self.database.name: self.durable.ping}
        return pings if self.redis is None else pings | {"redis": self.redis.ping}


@asynccontextmanager
async def build_services(settings: Settings) -> AsyncIterator[Container]:
    """Open the stores, build the services, and close the stores in the end.

    Raise SettingsError or SchemaMismatch if the settings or the tables do not fit this program. A
    store that does not answer yet is no error.
    """
    async with open_resources(settings) as resources:
        yield Container(resources)
