"""The sources of session changes: Redis pub/sub, NOTIFY in Postgres, and the change poller."""

from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sidegate.core.change_log import ChangedSession, list_copies
from sidegate.core.clock import Clock
from sidegate.core.errors import PositionLost
from sidegate.core.protocols import ReferenceClock
from sidegate.core.session import Session
from sidegate.observability.metrics import Metrics
from sidegate.runtime.background_tasks import BackgroundTask
from sidegate.services.cache_follower import CacheFollower
from sidegate.services.change_poller import ChangePoller
from sidegate.services.database_restore import DatabaseRestore
from sidegate.services.idleness import Idleness
from sidegate.services.pending_revocations import PendingRevocations, Persist
from sidegate.settings import Settings
from sidegate.stores.memory import MemoryStore

# Seconds in which a persisted revocation reaches Redis and memory from the change log: two rounds.
_FOLLOW_MARGIN: Final = 1.0

if TYPE_CHECKING:  # imported only if configured: a driver takes megabytes
    from sidegate.stores.postgres.notify import NotifySubscription
    from sidegate.stores.redis.pubsub import RedisPubSub
    from sidegate.stores.redis.store import RedisStore


@dataclass(frozen=True)
class ChangeSubscriptions:
    """Applies the changes made by other instances to the caches of this process.

    `persist` writes the pending revocations to the database, every `interval` seconds.
    """

    change_poller: ChangePoller
    cache_follower: CacheFollower | None
    restore: DatabaseRestore
    pending: PendingRevocations
    persist: Persist
    interval: float
    feed: "RedisPubSub | None"
    notify: "NotifySubscription | None"
    memory: MemoryStore
    idleness: Idleness
    metrics: Metrics

    def background_tasks(self) -> Iterator[BackgroundTask]:
        """Yield the tasks that run as long as the process."""
        up = self.metrics.set_feed_up
        yield _build_feed_task("change_poller", self.change_poller.run, up=self._on_polled)
        yield BackgroundTask("database_restore", self.restore.run)
        if self.cache_follower is not None:
            yield _build_feed_task("cache_follower", self.cache_follower.run, up=up)
        if self.feed is not None:
            watch = partial(self.pending.watch, self.interval)
            yield BackgroundTask("pending_revocations", watch)
            persist = partial(self.pending.run_persisting, self.interval, self.persist)
            yield BackgroundTask("pending_persistence", persist)
            listen = partial(
                self.feed.listen,
                on_change=self._on_change,
                on_gap=self._on_resubscribed,
                on_status=partial(up, "redis"),
                on_pending=self.pending.wake,
            )
            yield BackgroundTask("pubsub", listen, on_failed=partial(up, "redis", False))
        if self.notify is not None:
            receive = partial(
                self.notify.listen,
                on_notify=self.change_poller.wake,
                on_status=partial(up, "postgres"),
            )
            yield BackgroundTask("notify", receive, on_failed=partial(up, "postgres", False))

    def _on_polled(self, feed: str, succeeded: bool) -> None:
        self.metrics.set_feed_up(feed, succeeded)
        self.idleness.record_round(succeeded)

    def _on_change(self, session: Session) -> None:
        for copy in session.copies():
            self.memory.put_nowait(copy)

    def _on_resubscribed(self) -> None:
        """Expire all copies in memory: a change may have been missed without a subscription."""
        self.metrics.count_feed_gap("redis")
        self.memory.expire_all()
        self.pending.wake()


class MemorySubscriber:
    """Applies the changes that the change poller reads to the memory of this process."""

    def __init__(self, memory: MemoryStore, metrics: Metrics, *, restore: DatabaseRestore) -> None:
        self._memory = memory
        self._metrics = metrics
        self._restore = restore

    async def apply(self, changes: Sequence[ChangedSession], *, age: float) -> None:
        for copy in list_copies(changes):
            self._memory.put_entry(copy, age=age)

    def on_overflow(self) -> None:
        self._metrics.count_feed_gap("change_poller")
        self._memory.expire_all()

    def on_position_lost(self, lost: PositionLost, namespaces: Collection[str] = ()) -> None:
        """Clear the memory: the database has lost changes that memory may hold.

        `namespaces` of Redis were left for the same reason. If only they were of another database,
        or too old, that does not concern memory.
        """
        if namespaces and lost.restored_since is None:
            self._restore.report(lost)
            return
        self._metrics.count_feed_gap("change_poller")
        self._restore.report(lost, tombstones=self._memory.tombstones(), namespaces=namespaces)
        self._memory.clear()


def _build_feed_task(
    name: str,
    run: Callable[[Callable[[bool], None]], Coroutine[Any, Any, NoReturn]],
    *,
    up: Callable[[str, bool], None],
) -> BackgroundTask:
    """Return the task of a feed that reports each round, and is down after an error."""
    report = partial(up, name)
    return BackgroundTask(name, partial(run, report), on_failed=partial(report, False))


def build_feed(
    redis: "RedisStore | None", clock: Clock, *, metrics: Metrics
) -> "RedisPubSub | None":
    """Return the pub/sub feed, or None without Redis."""
    if redis is None:
        return None
    from sidegate.stores.redis.pubsub import RedisPubSub

    lag = partial(metrics.set_feed_lag, "redis")
    return RedisPubSub(
        redis.client, clock=clock, on_lag=lag, on_unreadable=metrics.count_unreadable_record
    )


def build_pending_revocations(
    settings: Settings, redis: "RedisStore | None", *, clock: Clock, metrics: Metrics
) -> PendingRevocations:
    """Return the pending revocations. Without Redis there is no store and none is accepted."""
    store = None
    if redis is not None:
        from sidegate.stores.redis.pending_revocations import RedisPendingRevocations

        store = RedisPendingRevocations(redis.client, on_unreadable=metrics.count_unreadable_record)
    retention = settings.memory.max_age.total_seconds() + _FOLLOW_MARGIN
    pending = PendingRevocations(
        store, clock=clock, count=metrics.count_deferred_revocation, retention=retention
    )
    metrics.watch_pending(lambda: len(pending))
    return pending


def build_reference_clock(redis: "RedisStore | None") -> ReferenceClock | None:
    """Return the clock beside the database's, or None without Redis."""
    if redis is None:
        return None
    from sidegate.stores.redis.clock import RedisClock

    return RedisClock(redis.client)


def build_notify(
    settings: Settings, clock: Clock, *, metrics: Metrics
) -> "NotifySubscription | None":
    """Return the subscription to NOTIFY, or None without Postgres or `postgres.listen`."""
    url = settings.postgres.listen_url or settings.database_url
    if settings.database_url is None or url is None or not settings.postgres.listen:
        return None
    from sidegate.stores.postgres.notify import NotifySubscription

    lag = partial(metrics.set_feed_lag, "postgres")
    return NotifySubscription(url.get_secret_value(), clock=clock, on_lag=lag)
