"""What a real failover leaves behind is not believed, and whoever is primary now is found soon."""

import asyncio
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

import pytest
import redis.exceptions
from redis.crc import key_slot

from sidegate.core.errors import StoreUnavailable
from sidegate.core.pending import PendingRevocation
from sidegate.core.session import Session
from sidegate.core.within import within
from sidegate.stores.redis.pending_revocations import RedisPendingRevocations
from sidegate.stores.redis.pubsub import RedisPubSub
from sidegate.stores.redis.store import RedisStore
from tests.contracts.rigs import ignore
from tests.contracts.values import a_session
from tests.stores.conftest import client, counting
from tests.stores.redis.test_pending_revocations import a_pending
from tests.stores.redis.test_pubsub import Listener, feed_of, listening
from tests.stores.waiting import until, until_answered
from tests.support.processes import Server, temporary_directory
from tests.support.servers import RedisSet, primary_of, start_cluster, start_sentinel_set

NOW: Final = datetime.now(UTC)

# A failover takes a second or two, and the busy machine of a test may be slow.
SOON: Final = 20.0

# What a check lets Redis have.
DEADLINE: Final = 0.025

TOLD_A_GAP: Final = ["gap", "up", "down", "gap"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Instance:
    """All that one Sidegate has in a Redis."""

    store: RedisStore
    feed: RedisPubSub
    shelf: RedisPendingRevocations


@asynccontextmanager
async def an_instance(url: str) -> AsyncIterator[Instance]:
    unreadable: Counter[str] = Counter()
    store = counting(url, unreadable, timeout=0.5)
    shelf = RedisPendingRevocations(store.server, on_unreadable=ignore)
    try:
        yield Instance(store, feed_of(store, unreadable), shelf)
    finally:
        await store.close()
    assert unreadable == {}


# --- What is expected of it


def one_for_each_primary() -> list[Session]:
    """Return three sessions, in the order of a Cluster's primaries."""
    sessions: dict[int, Session] = {}
    while len(sessions) < 3:
        session = a_session(at=NOW)
        spelled = urlsafe_b64encode(session.digest).rstrip(b"=")
        sessions[primary_of(key_slot(spelled))] = session
    return [sessions[number] for number in range(3)]


async def answer(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask until there is an answer; until then there may be an outage, but nothing else."""
    answers: list[_T] = []

    async def answered() -> bool:
        with suppress(StoreUnavailable):
            answers.append(await ask())
        return bool(answers)

    await until_answered(answered, within=SOON)
    return answers[0]


async def works_again(instance: Instance, listener: Listener) -> Sequence[Session]:
    """Return when everything does, wherever it lives; and what was put for it."""
    sessions = one_for_each_primary()
    await keeps(instance, sessions, sessions)
    await remembers(instance, sessions)
    await lets_no_dead_back(instance)
    await hears(instance, listener)
    await shows_what_is_pending(instance)
    return sessions


async def keeps(
    instance: Instance, offered: Sequence[Session], expected: Sequence[Session]
) -> None:
    copies = {session.digest: session for session in offered}
    kept = await answer(lambda: instance.store.put_many(copies))
    assert kept == {session.digest: session for session in expected}


async def remembers(instance: Instance, sessions: Sequence[Session]) -> None:
    known = {session.digest: session for session in sessions}
    assert await answer(lambda: instance.store.find_many(tuple(known))) == known


async def lets_no_dead_back(instance: Instance) -> None:
    sessions = one_for_each_primary()
    tombstones = [session.revoked(NOW) for session in sessions]
    await keeps(instance, sessions, sessions)
    await keeps(instance, tombstones, tombstones)
    await keeps(instance, sessions, tombstones)


async def hears(instance: Instance, listener: Listener) -> None:
    """Return when an announcement is heard: one that is made while nobody listens is lost."""
    session = a_session(at=NOW)

    async def heard() -> bool:
        with suppress(StoreUnavailable):
            await instance.feed.publish([session])
        with suppress(TimeoutError):
            await until(lambda: session in listener.heard, within=0.5)
        return session in listener.heard

    await until_answered(heard, within=SOON)


async def shows_what_is_pending(instance: Instance) -> None:
    revocation = a_pending()
    await answer(lambda: instance.shelf.put([revocation]))
    assert await shows(instance, revocation)


async def shows(instance: Instance, revocation: PendingRevocation) -> bool:
    shown, _ = await answer(lambda: instance.shelf.compare(set()))
    return revocation in shown


async def comes_back_without(instance: Instance, lost: Sequence[Session]) -> None:
    """Return when it answers for these, and check that it never knows one of them.

    It is asked as by a check, which leaves before a connection to the dead has failed.
    """
    digests = [session.digest for session in lost]

    async def answers() -> bool:
        with suppress(StoreUnavailable):
            assert await within(DEADLINE, "redis", instance.store.find_many(digests)) == {}
            return True
        return False

    await until_answered(answers, within=SOON)


# --- A Sentinel set


@pytest.fixture
async def sentinel_set() -> AsyncIterator[RedisSet]:
    with temporary_directory() as directory:
        servers = await asyncio.to_thread(start_sentinel_set, directory)
        yield servers
        servers.stop()


async def agree(sentinel_set: RedisSet, primary: Server) -> bool:
    """Whether every Sentinel has heard: one that has not sends a newcomer to who was it before."""
    named = set()
    for sentinel in sentinel_set.sentinels:
        async with client(f"redis://{sentinel.address}") as raw:
            _, port = await raw.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", "mymaster")
            named.add(int(port))
    return named == {primary.port}


async def is_replica(server: Server) -> bool:
    """Whether it follows another, and has all of its data."""
    with suppress(redis.exceptions.ConnectionError):  # whoever demotes it ends all connections
        async with client(f"redis://{server.address}") as raw:
            return (await raw.info("replication")).get("master_link_status") == "up"
    return False


async def test_when_sentinels_promote_the_replica_all_works_there_and_nothing_is_left_of_before(
    sentinel_set: RedisSet,
) -> None:
    first, second = sentinel_set.servers
    async with an_instance(sentinel_set.url) as instance, listening(instance.feed) as listener:
        before, pended = one_for_each_primary(), a_pending()
        await keeps(instance, before, before)
        await instance.shelf.put([pended])

        first.kill()
        await comes_back_without(instance, before)
        assert not await shows(instance, pended)
        since = await works_again(instance, listener)
        assert listener.news[:4] == TOLD_A_GAP

        await until_answered(lambda: agree(sentinel_set, second), within=SOON)
        first.restart()  # it takes itself for a primary, until the Sentinels tell it
        sentinel_set.sentinels[0].kill()
        while not await is_replica(first):
            async with an_instance(sentinel_set.url) as newcomer:
                await remembers(newcomer, since)
        await remembers(instance, since)
        await works_again(instance, listener)


# --- A Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisSet]:
    """Each primary falls in one test, which lets it rise again; it is a replica then."""
    with temporary_directory() as directory:
        servers = start_cluster(directory)
        yield servers
        servers.stop()


SESSIONS: Final = 0
FEED: Final = primary_of(key_slot(b"feed"))
PENDING: Final = primary_of(key_slot(b"{pending}"))


def test_sessions_and_the_feed_and_what_is_pending_have_a_primary_each() -> None:
    assert {SESSIONS, FEED, PENDING} == {0, 1, 2}


@pytest.mark.parametrize(
    ("number", "fall", "rise"),
    [
        pytest.param(SESSIONS, Server.pause, Server.resume, id="one of sessions loses its power"),
        pytest.param(FEED, Server.kill, Server.restart, id="that of the feed dies"),
        pytest.param(PENDING, Server.kill, Server.restart, id="that of what is pending dies"),
    ],
)
async def test_when_a_clusters_primary_falls_all_works_at_its_replica_and_nothing_is_left_of_before(
    cluster: RedisSet,
    number: int,
    fall: Callable[[Server], None],
    rise: Callable[[Server], None],
) -> None:
    fallen = cluster.servers[number]
    async with an_instance(cluster.url) as instance, listening(instance.feed) as listener:
        before, pended = one_for_each_primary(), a_pending()
        await keeps(instance, before, before)
        await instance.shelf.put([pended])

        fall(fallen)
        await comes_back_without(instance, [before.pop(number)])
        await remembers(instance, before)
        assert await shows(instance, pended) == (number != PENDING)
        since = await works_again(instance, listener)
        assert listener.news[:4] == (TOLD_A_GAP if number == FEED else ["gap", "up"])

        rise(fallen)
        await until_answered(lambda: is_replica(fallen), within=SOON)
        await remembers(instance, since)
        await works_again(instance, listener)
