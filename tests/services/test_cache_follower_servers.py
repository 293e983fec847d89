"""The cache follower on a real Redis and a real Postgres."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from sidegate.core.actor import Actor
from sidegate.core.change_log import ChangePage, Mark
from sidegate.core.condition import Condition
from sidegate.core.digest import Digest
from sidegate.core.errors import CacheNotTrusted, StoreUnavailable
from sidegate.core.judge import judge
from sidegate.core.protocols import ChangeLog, Fill
from sidegate.core.session import Session, SessionRecord
from sidegate.core.verdict import Deny
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.postgres.sessions import PostgresSessions
from sidegate.stores.redis.store import RedisStore
from tests.contracts.values import build_digest, build_record, build_session
from tests.services.instance import HOUR, FollowingInstance
from tests.stores.conftest import RawClient, connect_raw
from tests.support.clock import FakeClock
from tests.support.database_time import migrate_for_test_clock
from tests.support.processes import Server

NOW = datetime.now(UTC)  # grace is compared with the database's clock
TESTER = Actor("tests")
SEAL = "sidegate:v2:{0}:seal"
# More than two pages.
MANY = 300


class InterruptedLog:
    """A ChangeLog that awaits `before_mark` when the next mark is to be stored."""

    def __init__(self, log: ChangeLog) -> None:
        self._log = log
        self.before_mark: Callable[[], Awaitable[object]] | None = None
        self.read_position = log.read_position
        self.revoke_again = log.revoke_again

    async def list_changes(self, since: Mark, **how: Any) -> ChangePage:
        if how.get("store_mark"):
            await self._interrupt()
        return await self._log.list_changes(since, **how)

    async def add_mark(self) -> Mark:
        await self._interrupt()
        return await self._log.add_mark()

    async def _interrupt(self) -> None:
        before_mark, self.before_mark = self.before_mark, None
        if before_mark is not None:
            await before_mark()


class Instance(FollowingInstance):
    """An instance with connections of its own to Redis. Its trust never lapses."""

    def __init__(self, database: PostgresSessions, redis_url: str) -> None:
        clock = FakeClock()
        trust = RedisTrust(monotonic=clock.monotonic, trust_without_database=HOUR)
        self.log = InterruptedLog(database)
        self.redis = RedisStore(redis_url, trust=trust, on_unreadable=self._fail, timeout=5.0)
        super().__init__(self.log, self.redis, clock=clock, trust=trust)

    async def follow(self) -> None:
        """Make rounds until none is asked for: usually one."""
        self.wakeup.set()
        while self.wakeup.is_set():
            self.wakeup.clear()
            await self.follower.follow()

    async def find(self, digest: Digest) -> Session | None:
        """Return the copy in Redis. Raise CacheNotTrusted if it is not trusted."""
        return await self.redis.find(digest)

    async def fill(self, session: Session) -> None:
        """Fill Redis with what a lookup has just read from the database."""
        await self.redis.find(session.digest)
        await self.redis.fill(Fill(session, self.trust.position))

    @staticmethod
    def _fail(store: str) -> None:
        raise AssertionError(f"unreadable record in {store}")


class Deployment:
    """A database, a Redis, and instances."""

    def __init__(
        self,
        database: PostgresSessions,
        *,
        connection: "asyncpg.Connection[asyncpg.Record]",
        raw_client: RawClient,
        url: str,
    ) -> None:
        self.database = database
        self.connection = connection
        self.raw_client = raw_client
        self._url = url
        self._instances: list[Instance] = []

    def start_instance(self) -> Instance:
        self._instances.append(Instance(self.database, self._url))
        return self._instances[-1]

    async def create(self, **changes: Any) -> Session:
        """Create a session as another instance does, and return it as a lookup reads it."""
        created = build_session(at=NOW, **changes)
        await self.database.create(build_record(created))
        found = await self.database.find(created.digest)
        assert found is not None
        return found

    async def replace(self, before: Session, after: Session) -> Session:
        """Change a session as another instance does, unpublished."""
        assert await self.database.replace(SessionRecord(after), expected=before.version)
        return after

    async def revoke(self, session: Session) -> Session:
        return await self.replace(session, session.revoked(NOW))

    async def read_state(self) -> tuple[object, ...]:
        """Return what changes with every write to Redis, and with every mark."""
        writes = (await self.raw_client.info())["rdb_changes_since_last_save"]
        marks = await self.connection.fetchval("SELECT count(*) FROM cache_marks")
        return await self.raw_client.get(SEAL), writes, marks

    async def read_namespace(self) -> bytes:
        seal: Any = await self.raw_client.get(SEAL)
        return bytes(seal.split()[1])

    async def close(self) -> None:
        for instance in self._instances:
            await instance.redis.close()


@asynccontextmanager
async def open_deployment(database_url: str, redis_url: str) -> AsyncIterator[Deployment]:
    await migrate_for_test_clock(database_url)
    database = await PostgresSessions.open(database_url)
    connection = await asyncpg.connect(database_url)
    async with connect_raw(redis_url) as raw_client:
        deployment = Deployment(
            database, connection=connection, raw_client=raw_client, url=redis_url
        )
        yield deployment
        await deployment.close()
    await connection.close()
    await database.close()


@pytest.fixture
async def deployment(database_url: str, redis_url: str) -> AsyncIterator[Deployment]:
    async with open_deployment(database_url, redis_url) as deployment:
        yield deployment


@pytest.fixture
async def own_deployment(database_url: str, own_redis: Server) -> AsyncIterator[Deployment]:
    """A deployment whose Redis the test may reconfigure."""
    async with open_deployment(database_url, own_redis.url) as deployment:
        yield deployment


async def test_redis_is_trusted_after_the_first_round(deployment: Deployment) -> None:
    instance = deployment.start_instance()
    session = await deployment.create()
    with pytest.raises(CacheNotTrusted):
        await instance.find(session.digest)
    await instance.follow()
    assert await instance.find(session.digest) is None
    await instance.fill(session)
    assert await instance.find(session.digest) == session
    assert instance.moves == {"begun": 1}


async def test_quiet_round_writes_nothing(deployment: Deployment) -> None:
    instance = deployment.start_instance()
    session = await deployment.create()
    await instance.follow()
    await instance.fill(session)
    before = await deployment.read_state()
    for _ in range(3):
        await instance.follow()
        assert await instance.find(session.digest) == session
    assert await deployment.read_state() == before


async def test_change_is_put_under_every_digest_of_a_chain(deployment: Deployment) -> None:
    instance = deployment.start_instance()
    first = await deployment.create()
    await instance.follow()
    await instance.fill(first)
    minute = timedelta(minutes=1)
    second = await deployment.replace(first, first.rotated(build_digest(), minute, at=NOW))
    third = await deployment.replace(second, second.rotated(build_digest(), minute, at=NOW))
    before = await deployment.read_namespace()
    await instance.follow()
    for digest, expected in (
        (third.digest, third),
        (second.digest, third.copies()[1]),
        (first.digest, third.rotated_out(first.digest)),
    ):
        assert await instance.find(digest) == expected
    await deployment.revoke(third)
    await instance.follow()
    for digest in (first.digest, second.digest, third.digest):
        copy = await instance.find(digest)
        assert copy is not None
        assert isinstance(judge(copy, NOW), Deny)
    assert await deployment.read_namespace() == before
    assert instance.moves == {"begun": 1, "moved": 2}


async def test_changes_of_many_pages_are_put_under_the_same_namespace(
    deployment: Deployment,
) -> None:
    instance = deployment.start_instance()
    sessions = [await deployment.create() for _ in range(MANY)]
    await instance.follow()
    for session in sessions:
        await instance.fill(session)
    before = await deployment.read_namespace()
    tombstones = await deployment.database.revoke_where(
        Condition("ada"), at=NOW, by=TESTER, reason="test", limit=MANY
    )
    assert len(tombstones) == MANY
    await instance.follow()
    found = await instance.redis.find_many([session.digest for session in sessions])
    assert found == {each.session.digest: each.session for each in tombstones}
    assert await deployment.read_namespace() == before


async def test_two_instances_move_the_seal_once(deployment: Deployment) -> None:
    one, two = deployment.start_instance(), deployment.start_instance()
    session = await deployment.create()
    for instance in (one, two):
        await instance.follow()
    tombstone = await deployment.revoke(session)
    await one.follow()
    after = await deployment.read_state()
    await two.follow()
    assert await deployment.read_state() == after
    assert await two.find(session.digest) == tombstone
    assert (one.moves, two.moves) == ({"begun": 1, "moved": 1}, {})


async def test_seal_moved_by_another_instance_meanwhile_is_verified_in_the_same_round(
    deployment: Deployment,
) -> None:
    one, two = deployment.start_instance(), deployment.start_instance()
    session = await deployment.create()
    for instance in (one, two):
        await instance.follow()
    tombstone = await deployment.revoke(session)
    one.log.before_mark = two.follow
    await one.follower.follow()
    assert await one.find(session.digest) == tombstone
    assert (one.moves, two.moves) == ({"begun": 1}, {"moved": 1})


async def test_namespace_begun_by_another_instance_meanwhile_is_used(
    deployment: Deployment,
) -> None:
    one, two = deployment.start_instance(), deployment.start_instance()
    one.log.before_mark = two.follow
    await one.follower.follow()
    assert await one.find(build_digest()) is None
    assert (one.moves, two.moves) == ({}, {"begun": 1})


# Lost seals and positions


@pytest.mark.parametrize(
    "command",
    [
        ("DEL", SEAL),
        ("FLUSHALL",),
        ("SET", SEAL, "unreadable"),
        ("SET", SEAL, ""),
        ("SETRANGE", SEAL, "2", "x"),
        ("APPEND", SEAL, " and more"),
    ],
    ids=" ".join,
)
async def test_lost_or_unreadable_seal_begins_a_new_namespace(
    deployment: Deployment, command: tuple[str, ...]
) -> None:
    instance = deployment.start_instance()
    session = await deployment.create()
    await instance.follow()
    await instance.fill(session)
    before = await deployment.read_namespace()
    await deployment.raw_client.execute_command(*command)
    with pytest.raises(CacheNotTrusted):
        await instance.find(session.digest)
    await instance.follow()
    assert await deployment.read_namespace() != before
    assert await instance.find(session.digest) is None  # the cache is empty
    assert instance.moves == {"begun": 2}


async def test_seal_of_another_type_is_replaced(deployment: Deployment) -> None:
    instance = deployment.start_instance()
    await instance.follow()
    await deployment.raw_client.delete(SEAL)
    await deployment.raw_client.lpush(SEAL, "x")
    await instance.follow()
    assert await instance.find(build_digest()) is None


async def test_lost_mark_begins_a_new_namespace_and_is_reported(deployment: Deployment) -> None:
    instance = deployment.start_instance()
    session = await deployment.create()
    await instance.follow()
    first = await deployment.connection.fetchval("SELECT id FROM cache_marks")
    tombstone = await deployment.revoke(session)
    await instance.follow()
    before = await deployment.read_namespace()
    await deployment.connection.execute("DELETE FROM cache_marks WHERE id <> $1", first)
    await instance.follow()
    [(lost, namespaces)] = instance.lost
    assert lost.restored_since is not None
    assert namespaces == {before.decode()}
    assert await deployment.read_namespace() != before
    assert await instance.find(tombstone.digest) is None
    # What was left can still be read, to be written back.
    read = [batch async for batch in instance.redis.read_tombstones(before.decode())]
    assert [each for batch in read for each in batch] == [tombstone]


# Faults of Redis


async def test_redis_that_takes_no_writes_is_not_trusted_after_a_change(
    own_deployment: Deployment,
) -> None:
    instance = own_deployment.start_instance()
    session = await own_deployment.create()
    await instance.follow()
    await instance.fill(session)
    await own_deployment.raw_client.config_set("maxmemory", 1)
    await instance.follow()  # nothing has changed
    assert await instance.find(session.digest) == session
    tombstone = await own_deployment.revoke(session)
    with pytest.raises(StoreUnavailable, match="redis"):
        await instance.follow()
    with pytest.raises(CacheNotTrusted):
        await instance.find(session.digest)
    await own_deployment.raw_client.config_set("maxmemory", 0)
    await instance.follow()
    assert await instance.find(session.digest) == tombstone
    assert instance.moves == {"begun": 1, "moved": 1}


async def test_emptied_redis_is_trusted_after_its_restart(
    own_deployment: Deployment, own_redis: Server
) -> None:
    instance = own_deployment.start_instance()
    session = await own_deployment.create()
    await instance.follow()
    own_redis.kill()
    with pytest.raises(StoreUnavailable, match="redis"):
        await instance.follow()
    own_redis.restart()
    await instance.follow()
    await instance.fill(session)
    assert await instance.find(session.digest) == session
