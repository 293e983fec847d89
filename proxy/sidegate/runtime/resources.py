"""What one process opens or allocates before its services: database, Redis, memory, metrics."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from sidegate.core.clock import Clock, SharedClock, SystemClock
from sidegate.observability.metrics import Metrics
from sidegate.runtime.database import Database, open_database
from sidegate.runtime.invalidation import build_pending_revocations
from sidegate.runtime.rules_in_force import build_rules
from sidegate.services.idleness import Idleness, compute_settle_time
from sidegate.services.pending_revocations import PendingRevocations
from sidegate.services.rules import RulesInForce
from sidegate.settings import Settings
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.memory import MemoryStore

if TYPE_CHECKING:
    from sidegate.stores.redis.store import RedisStore

# Seconds. Connecting may take longer than a lookup is allowed to (redis.deadline).
_MIN_REDIS_TIMEOUT: Final = 0.05


@dataclass(frozen=True)
class Resources:
    """What the builders of services share. `redis` is None where none is configured."""

    settings: Settings
    clock: Clock
    rules: RulesInForce
    metrics: Metrics
    database: Database
    redis: "RedisStore | None"
    redis_trust: RedisTrust
    idleness: Idleness
    pending: PendingRevocations
    memory: MemoryStore


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Open the stores of the settings, and close them in the end. They need not answer yet.

    Raise SettingsError or SchemaMismatch if the settings or the tables do not fit this program.
    """
    async with AsyncExitStack() as exit_stack:
        clock = _build_clock(settings)
        rules = RulesInForce(build_rules(settings))
        metrics = _build_metrics(settings)
        database = await open_database(settings)
        exit_stack.push_async_callback(database.sessions.close)
        redis_trust = RedisTrust(
            monotonic=clock.monotonic,
            trust_without_database=seconds(settings.redis.trust_without_database),
            on_invalidated=metrics.count_redis_invalidation,
        )
        redis = _open_redis(settings, metrics, trust=redis_trust)
        if redis is not None:
            exit_stack.push_async_callback(redis.close)
        pending = build_pending_revocations(settings, redis, clock=clock, metrics=metrics)
        memory = _build_memory(settings, clock, metrics=metrics, pending=pending)
        yield Resources(
            settings=settings,
            clock=clock,
            rules=rules,
            metrics=metrics,
            database=database,
            redis=redis,
            redis_trust=redis_trust,
            idleness=_build_idleness(settings, clock),
            pending=pending,
            memory=memory,
        )


def seconds(duration: timedelta) -> float:
    """Return a duration of the settings in seconds."""
    return duration.total_seconds()


def _build_clock(settings: Settings) -> Clock:
    """Return the machine's clock, or with Postgres one that is synchronized with the database."""
    machine_clock = SystemClock()
    return machine_clock if settings.database_url is None else SharedClock(machine_clock.monotonic)


def _build_metrics(settings: Settings) -> Metrics:
    revocation_bound = seconds(settings.memory.max_age)
    metrics = Metrics(version=version("sidegate"), revocation_bound=revocation_bound)
    metrics.record_reload(SystemClock().now(), successful=True)
    return metrics


def _build_idleness(settings: Settings, clock: Clock) -> Idleness:
    settle_time = compute_settle_time(seconds(settings.touch.interval))
    return Idleness(clock=clock, settle_time=settle_time)


def _open_redis(settings: Settings, metrics: Metrics, *, trust: RedisTrust) -> "RedisStore | None":
    if settings.redis_url is None:
        return None
    from sidegate.stores.redis.store import RedisStore  # its driver takes megabytes

    return RedisStore(
        settings.redis_url.get_secret_value(),
        trust=trust,
        on_unreadable=metrics.count_unreadable_record,
        timeout=max(_MIN_REDIS_TIMEOUT, seconds(settings.redis.deadline)),
    )


def _build_memory(
    settings: Settings, clock: Clock, *, metrics: Metrics, pending: PendingRevocations
) -> MemoryStore:
    memory = MemoryStore(
        max_sessions=settings.memory.max_sessions,
        max_bytes=settings.memory.max_bytes,
        max_age=seconds(settings.memory.max_age),
        clock=clock,
        apply_pending=pending.apply,
    )
    metrics.watch_memory(memory)
    return memory
