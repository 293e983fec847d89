"""What brings a process its news: Redis' feed, Postgres' bell, the catch-up that loses nothing."""

from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from sidegate.core.clock import Clock
from sidegate.core.session import Session
from sidegate.observability.metrics import Metrics
from sidegate.services.change_poller import LATE, ChangePoller
from sidegate.services.pending_revocations import PendingRevocations, Persist
from sidegate.settings import Settings
from sidegate.stores.memory import MemoryStore

if TYPE_CHECKING:  # each is brought in where it is wanted: a driver takes megabytes
    from sidegate.stores.postgres.notify import NotifySubscription
    from sidegate.stores.redis.pubsub import RedisPubSub
    from sidegate.stores.redis.store import RedisStore


@dataclass(frozen=True)
class ChangeSubscriptions:
    """Everybody who brings news, and to whom: what they tell goes into our own memory.

    `write_down` tells the truth what is pending, each `every` seconds.
    """

    catch_up: ChangePoller
    pending: PendingRevocations
    write_down: Persist
    every: float
    feed: "RedisPubSub | None"
    bell: "NotifySubscription | None"
    local: MemoryStore
    metrics: Metrics

    def listening(self) -> Iterator[Coroutine[Any, Any, NoReturn]]:
        """Yield what is to run as long as the process does."""
        up = self.metrics.feed_up
        yield self.catch_up.run(partial(up, "catch_up"))
        if self.feed is not None:
            yield self.pending.watch(self.every)
            yield self.pending.run_persisting(self.every, self.write_down)
            yield self.feed.listen(
                heard=self._hear,
                gap=self._resubscribed,
                up=partial(up, "redis"),
                lost=self.catch_up.distrust_redis,
                pended=self.pending.wake,
            )
        if self.bell is not None:
            yield self.bell.listen(rung=self.catch_up.wake, up=partial(up, "postgres"))

    def _hear(self, session: Session) -> None:
        for copy in session.copies():
            self.local.put_nowait(copy)

    def _resubscribed(self) -> None:
        """Believe no copy of before: what has changed since was perhaps not heard.

        Nor what Redis has kept: whoever could not tell it of a change has ended its generation.
        """
        self.metrics.feed_gap("redis")
        self.local.expire_all()
        self.catch_up.distrust_redis()
        self.pending.wake()


def forget_all(local: MemoryStore, metrics: Metrics) -> None:
    """Forget what is known: the truth does not know it any more."""
    metrics.feed_gap("change_poller")
    local.clear()


def build_feed(redis: "RedisStore | None", clock: Clock, metrics: Metrics) -> "RedisPubSub | None":
    """Return the feed through Redis, where there is one."""
    if redis is None:
        return None
    from sidegate.stores.redis.pubsub import RedisPubSub

    lag = partial(metrics.feed_lag, "redis")
    return RedisPubSub(redis.server, clock=clock, lag=lag, on_unreadable=metrics.unreadable_record)


def build_pending(
    settings: Settings, redis: "RedisStore | None", clock: Clock, metrics: Metrics
) -> PendingRevocations:
    """Return what is pending: nothing ever, where there is no Redis to share it."""
    shelf = None
    if redis is not None:
        from sidegate.stores.redis.pending_revocations import RedisPendingRevocations

        shelf = RedisPendingRevocations(redis.server, on_unreadable=metrics.unreadable_record)
    linger = settings.memory.max_age.total_seconds() + LATE
    pending = PendingRevocations(shelf, clock=clock, counted=metrics.pended, linger=linger)
    metrics.watch_pending(lambda: len(pending))
    return pending


def build_notify(settings: Settings, clock: Clock, metrics: Metrics) -> "NotifySubscription | None":
    """Return the bell in Postgres, where there is one and it is wanted."""
    url = settings.postgres.listen_url or settings.database_url
    if settings.database_url is None or url is None or not settings.postgres.listen:
        return None
    from sidegate.stores.postgres.notify import NotifySubscription

    lag = partial(metrics.feed_lag, "postgres")
    return NotifySubscription(url.get_secret_value(), clock=clock, lag=lag)
