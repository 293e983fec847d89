"""The sources of session changes: Redis pub/sub, NOTIFY in Postgres, and the change poller."""

from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from sidegate.core.clock import Clock
from sidegate.core.session import Session
from sidegate.observability.metrics import Metrics
from sidegate.services.change_poller import ChangePoller
from sidegate.services.pending_revocations import PendingRevocations, Persist
from sidegate.services.publisher import put_copies
from sidegate.services.redelivery import REDELIVERY_DELAY
from sidegate.settings import Settings
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.memory import MemoryStore

if TYPE_CHECKING:  # imported only if configured: a driver takes megabytes
    from sidegate.stores.postgres.notify import NotifySubscription
    from sidegate.stores.redis.pubsub import RedisPubSub
    from sidegate.stores.redis.store import RedisStore


@dataclass(frozen=True)
class ChangeSubscriptions:
    """Applies the changes made by other instances to the memory of this process.

    `persist` writes the pending revocations to the database, every `interval` seconds.
    """

    change_poller: ChangePoller
    redis_trust: RedisTrust
    pending: PendingRevocations
    persist: Persist
    interval: float
    feed: "RedisPubSub | None"
    notify: "NotifySubscription | None"
    memory: MemoryStore
    metrics: Metrics

    def background_tasks(self) -> Iterator[Coroutine[Any, Any, NoReturn]]:
        """Yield the coroutines that run as long as the process."""
        up = self.metrics.set_feed_up
        yield self.change_poller.run(partial(up, "change_poller"))
        if self.feed is not None:
            yield self.pending.watch(self.interval)
            yield self.pending.run_persisting(self.interval, self.persist)
            yield self.feed.listen(
                on_change=self._on_change,
                on_gap=self._on_resubscribed,
                on_status=partial(up, "redis"),
                on_lost=self._distrust_redis,
                on_pending=self.pending.wake,
            )
        if self.notify is not None:
            yield self.notify.listen(
                on_notify=self.change_poller.wake, on_status=partial(up, "postgres")
            )

    def _on_change(self, session: Session) -> None:
        for copy in session.copies():
            self.memory.put_nowait(copy)

    def _on_resubscribed(self) -> None:
        """Expire all copies: a change may have been missed while there was no subscription.

        Redis is not trusted either: an instance that could not publish a change to it has begun a
        new generation.
        """
        self.metrics.count_feed_gap("redis")
        self.memory.expire_all()
        self._distrust_redis()
        self.pending.wake()

    def _distrust_redis(self) -> None:
        """Distrust Redis until its generation, which the change poller now reads, is confirmed."""
        self.redis_trust.distrust()
        self.change_poller.wake()


class MemorySubscriber:
    """Applies the changes that the change poller reads to the memory of this process."""

    def __init__(self, memory: MemoryStore, metrics: Metrics) -> None:
        self._memory = memory
        self._metrics = metrics

    async def apply(self, changed: Sequence[Session]) -> None:
        await put_copies(changed, [self._memory])

    def on_position_lost(self) -> None:
        """Clear the memory: the database has lost changes that memory may hold."""
        self._metrics.count_feed_gap("change_poller")
        self._memory.clear()


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
    retention = settings.memory.max_age.total_seconds() + REDELIVERY_DELAY
    pending = PendingRevocations(
        store, clock=clock, count=metrics.count_deferred_revocation, retention=retention
    )
    metrics.watch_pending(lambda: len(pending))
    return pending


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
