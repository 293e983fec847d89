"""What one instance announces another hears, and it knows when it may have missed something."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final

import pytest

from sidegate.core.clock import SystemClock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session
from sidegate.stores.codec import encode
from sidegate.stores.redis.pubsub import CHANNEL, RedisPubSub
from sidegate.stores.redis.store import RedisStore
from tests.contracts.rigs import ignore
from tests.contracts.values import a_digest, a_rotated_session, a_session, a_tombstone
from tests.stores.conftest import Raw, counting
from tests.stores.sql.wire import Wire
from tests.stores.waiting import nothing_is_left, until, until_answered
from tests.support.processes import Server

NOW: Final = datetime.now(UTC)


class Listener:
    """Writes down what it is told, in order."""

    def __init__(self) -> None:
        self.heard: list[Session] = []
        self.news: list[str] = []

    def hear(self, session: Session) -> None:
        self.heard.append(session)

    def miss(self) -> None:
        self.news.append("gap")

    def up(self, up: bool) -> None:
        word = "up" if up else "down"
        if self.news[-1:] != [word]:  # it is told again and again
            self.news.append(word)

    async def hears(self, *sessions: Session) -> None:
        """Return when it has heard these, in this order and nothing else."""
        await until(lambda: len(self.heard) >= len(sessions))
        assert self.heard == list(sessions)

    async def is_told(self, *news: str) -> None:
        await until(lambda: len(self.news) >= len(news))
        assert self.news == list(news)


def feed_of(
    store: RedisStore, unreadable: Counter[str], lag: Callable[[float], None] = ignore
) -> RedisPubSub:
    def count(name: str) -> None:
        unreadable[name] += 1

    return RedisPubSub(store.server, clock=SystemClock(), lag=lag, on_unreadable=count)


@asynccontextmanager
async def listening(feed: RedisPubSub) -> AsyncIterator[Listener]:
    """A listener that is subscribed when the block begins."""
    listener = Listener()
    async with asyncio.TaskGroup() as tasks:
        listen = feed.listen(heard=listener.hear, gap=listener.miss, up=listener.up)
        task = tasks.create_task(listen)
        await until(lambda: "up" in listener.news or task.done())
        try:
            yield listener
        finally:
            task.cancel()


@pytest.fixture
async def another(redis_url: str, unreadable: Counter[str]) -> AsyncIterator[RedisPubSub]:
    """The feed of another instance, at the same Redis."""
    store = counting(redis_url, unreadable)
    yield feed_of(store, unreadable)
    await store.close()


async def subscribers(raw: Raw) -> int:
    [(_, count)] = await raw.pubsub_numsub(CHANNEL)
    return int(count)


# --- What is heard


async def test_what_is_announced_is_heard_by_everybody_who_listens(
    store: RedisStore, another: RedisPubSub, unreadable: Counter[str]
) -> None:
    feed = feed_of(store, unreadable)
    sessions = [a_tombstone(at=NOW), a_rotated_session(at=NOW), a_session(at=NOW, user_id="Zoë")]
    async with listening(feed) as one, listening(another) as other:
        await another.publish(sessions)
        await one.hears(*sessions)
        await other.hears(*sessions)
    assert unreadable == {}


async def test_many_announcements_are_heard_in_order(
    store: RedisStore, another: RedisPubSub, unreadable: Counter[str]
) -> None:
    sessions = [a_session(at=NOW) for _ in range(300)]
    async with listening(feed_of(store, unreadable)) as listener:
        for start in range(0, 300, 100):
            await another.publish(sessions[start : start + 100])
        await listener.hears(*sessions)


async def test_announcing_nothing_asks_for_nothing(unreadable: Counter[str]) -> None:
    nowhere = counting("redis://127.0.0.1:1/0", unreadable)
    await feed_of(nowhere, unreadable).publish([])
    await nowhere.close()


async def test_announcing_to_nobody_is_no_error(another: RedisPubSub) -> None:
    await another.publish([a_session(at=NOW)])


async def test_announcing_to_a_redis_that_is_not_there_is_an_outage(
    unreadable: Counter[str],
) -> None:
    nowhere = counting("redis://127.0.0.1:1/0", unreadable)
    with pytest.raises(StoreUnavailable):
        await feed_of(nowhere, unreadable).publish([a_session(at=NOW)])
    await nowhere.close()


async def test_the_store_still_answers_while_its_feed_listens(
    store: RedisStore, unreadable: Counter[str]
) -> None:
    session = a_session(at=NOW)
    async with listening(feed_of(store, unreadable)):
        await store.put(session)
        assert await store.find(session.digest) == session
        assert await store.find(a_digest()) is None


async def test_junk_on_the_channel_is_counted_and_passed_over(
    store: RedisStore, another: RedisPubSub, raw: Raw, unreadable: Counter[str]
) -> None:
    session = a_session(at=NOW)
    junk = [b"", b"\x80", b"{}", b"1" * 500, encode(session)[:-1], bytes(100_000)]
    async with listening(feed_of(store, unreadable)) as listener:
        for message in junk:
            await raw.publish(CHANNEL, message)
        await another.publish([session])
        await listener.hears(session)
        assert listener.news == ["gap", "up"]
    assert unreadable == {"redis": len(junk)}


# --- What may have been missed


async def test_at_each_subscription_something_may_have_been_missed(
    store: RedisStore, another: RedisPubSub, raw: Raw, unreadable: Counter[str]
) -> None:
    session = a_session(at=NOW)
    async with listening(feed_of(store, unreadable)) as listener:
        await listener.is_told("gap", "up")
        await raw.execute_command("CLIENT KILL TYPE pubsub")
        await listener.is_told("gap", "up", "down", "gap", "up")
        await another.publish([session])
        await listener.hears(session)


async def test_that_a_subscription_ends_is_told_before_there_is_another(
    store: RedisStore, raw: Raw, unreadable: Counter[str]
) -> None:
    listener = Listener()
    feed = feed_of(store, unreadable)
    async with asyncio.TaskGroup() as tasks:
        listen = feed.listen(
            heard=ignore, gap=listener.miss, up=ignore, lost=lambda: listener.news.append("lost")
        )
        task = tasks.create_task(listen)
        await listener.is_told("gap")
        await raw.execute_command("CLIENT KILL TYPE pubsub")
        await listener.is_told("gap", "lost", "gap")
        task.cancel()


async def test_while_there_is_no_subscription_it_is_told_again_and_again(
    mortal: RedisStore, own_redis: Server, unreadable: Counter[str]
) -> None:
    """Whoever began to believe Redis again meanwhile has not heard what others told it."""
    listener = Listener()
    async with asyncio.TaskGroup() as tasks:
        await asyncio.to_thread(own_redis.kill)
        listen = feed_of(mortal, unreadable).listen(
            heard=ignore, gap=ignore, up=ignore, lost=lambda: listener.news.append("lost")
        )
        task = tasks.create_task(listen)
        await listener.is_told("lost", "lost")
        task.cancel()


async def test_the_gap_is_told_when_nothing_can_be_missed_any_more(
    store: RedisStore, raw: Raw, unreadable: Counter[str]
) -> None:
    """Else what is announced between the gap and the subscription would be lost."""
    looks: list[asyncio.Task[int]] = []

    def gap() -> None:
        looks.append(asyncio.create_task(subscribers(raw)))

    async with asyncio.TaskGroup() as tasks:
        feed = feed_of(store, unreadable)
        task = tasks.create_task(feed.listen(heard=ignore, gap=gap, up=ignore))
        await until(lambda: bool(looks))
        assert await looks[0] == 1
        task.cancel()


async def test_it_is_down_while_redis_is_and_up_with_a_gap_when_it_is_back(
    mortal: RedisStore, own_redis: Server, unreadable: Counter[str]
) -> None:
    feed, session = feed_of(mortal, unreadable), a_session(at=NOW)
    async with listening(feed) as listener:
        await asyncio.to_thread(own_redis.kill)
        await listener.is_told("gap", "up", "down")
        await asyncio.to_thread(own_redis.restart)
        await listener.is_told("gap", "up", "down", "gap", "up")
        await until_answered(lambda: announced(feed, session))
        await listener.hears(session)


async def announced(feed: RedisPubSub, session: Session) -> bool:
    with suppress(StoreUnavailable):
        await feed.publish([session])
        return True
    return False


async def test_listening_may_begin_before_redis_is_there(unreadable: Counter[str]) -> None:
    nowhere = counting("redis://127.0.0.1:1/0", unreadable)
    listener = Listener()
    feed = feed_of(nowhere, unreadable)
    task = asyncio.create_task(feed.listen(heard=listener.hear, gap=listener.miss, up=listener.up))
    await listener.is_told("down")
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    await nowhere.close()


async def test_a_subscription_that_falls_silent_is_found_out(
    wire: Wire, wired: RedisStore, unreadable: Counter[str]
) -> None:
    async with listening(feed_of(wired, unreadable)) as listener:
        wire.hold()
        await listener.is_told("gap", "up", "down")
        wire.let_go()
        await listener.is_told("gap", "up", "down", "gap", "up")


async def may_not_publish(raw: Raw, url: str) -> str:
    """Return how somebody logs in who may do everything but publish."""
    await raw.execute_command("ACL SETUSER deaf on nopass ~* &* +@all -publish")
    return url.replace("redis://", "redis://deaf:any@")


async def test_who_may_not_publish_is_down_but_hears_on(
    own_redis: Server, mortal: RedisStore, raw_mortal: Raw, unreadable: Counter[str]
) -> None:
    session = a_session(at=NOW)
    mute = counting(await may_not_publish(raw_mortal, own_redis.url), unreadable)
    async with listening(feed_of(mute, unreadable)) as listener:
        await listener.is_told("gap", "up", "down")
        await until_answered(lambda: pinged(raw_mortal))  # a quiet link is not taken for a dead one
        await feed_of(mortal, unreadable).publish([session])
        await listener.hears(session)
        assert listener.news == ["gap", "up", "down"]
    await mute.close()


async def pinged(raw: Raw) -> bool:
    return bool((await raw.info("commandstats")).get("cmdstat_ping"))


async def test_how_long_an_announcement_takes_is_measured(
    store: RedisStore, unreadable: Counter[str]
) -> None:
    lags: list[float] = []
    async with listening(feed_of(store, unreadable, lags.append)) as listener:
        await until(lambda: len(lags) >= 2)
        assert all(0 < lag < 10 for lag in lags)
        assert listener.news == ["gap", "up"]


async def test_a_subscription_that_hears_not_even_us_is_given_up(
    wire: Wire, wired: RedisStore, unreadable: Counter[str]
) -> None:
    def deaf(_: object, chunk: bytes) -> bytes:
        return chunk.replace(b"beat ", b"meat ")

    wire.answers = deaf
    async with listening(feed_of(wired, unreadable)) as listener:
        await listener.is_told("gap", "up", "down", "gap", "up")


@pytest.mark.parametrize(
    "words",
    [
        b"$1\r\nx\r\n",
        b"*0\r\n",
        b"*1\r\n$7\r\nmessage\r\n",
        b":1\r\n",
        b"-ERR nobody asked\r\n",
        b"-MOVED\r\n",
        b"no language\r\n",
    ],
)
async def test_a_stray_word_ends_a_subscription_and_another_begins(
    wire: Wire, wired: RedisStore, another: RedisPubSub, unreadable: Counter[str], words: bytes
) -> None:
    session = a_session(at=NOW)
    async with listening(feed_of(wired, unreadable)) as listener:
        wire.inject(words)
        await listener.is_told("gap", "up", "down", "gap", "up")
        await another.publish([session])
        await listener.hears(session)


@pytest.mark.parametrize(
    "words",
    [
        b"*3\r\n$7\r\nmessage\r\n$16\r\nsidegate:v1:feed\r\n:1\r\n",
        b"*3\r\n$7\r\nmessage\r\n$16\r\nsidegate:v1:feed\r\n$-1\r\n",
        b"*3\r\n$7\r\nmessage\r\n$16\r\nsidegate:v1:feed\r\n*0\r\n",
    ],
)
async def test_a_message_that_is_no_string_is_counted_and_passed_over(
    wire: Wire, wired: RedisStore, another: RedisPubSub, unreadable: Counter[str], words: bytes
) -> None:
    session = a_session(at=NOW)
    async with listening(feed_of(wired, unreadable)) as listener:
        wire.inject(words)
        await until(lambda: unreadable["redis"] == 1)
        await another.publish([session])
        await listener.hears(session)


# --- The end


async def test_cancelling_leaves_no_task_and_no_subscription(
    redis_url: str, raw: Raw, unreadable: Counter[str]
) -> None:
    store = counting(redis_url, unreadable)
    async with nothing_is_left(), listening(feed_of(store, unreadable)):
        assert await subscribers(raw) == 1
        assert len(await raw.client_list(_type="pubsub")) == 1

    async def nobody_is_left() -> bool:
        return not await raw.client_list(_type="pubsub")

    await until_answered(nobody_is_left)
    await store.close()


async def test_a_subscription_that_was_left_is_not_lent_to_a_finder(
    store: RedisStore, unreadable: Counter[str]
) -> None:
    session = a_session(at=NOW)
    for _ in range(3):
        async with listening(feed_of(store, unreadable)):
            pass
        await store.put(session)
        assert await store.find(session.digest) == session
    assert unreadable == {}


async def test_listening_can_be_cancelled_at_any_moment(
    store: RedisStore, unreadable: Counter[str]
) -> None:
    feed = feed_of(store, unreadable)
    async with nothing_is_left():
        for moment in range(200):
            task = asyncio.create_task(feed.listen(heard=ignore, gap=ignore, up=ignore))
            for _ in range(moment % 40):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait_for(asyncio.wait([task]), 5)


async def test_listening_can_be_cancelled_during_an_outage(
    mortal: RedisStore, own_redis: Server, unreadable: Counter[str]
) -> None:
    async with nothing_is_left(), listening(feed_of(mortal, unreadable)) as listener:
        await asyncio.to_thread(own_redis.kill)
        await listener.is_told("gap", "up", "down")
