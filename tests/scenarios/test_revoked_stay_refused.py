"""The dead stay dead: Redis is out of reach, refuses to write, forgets, or remembers too much."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import redis as vendor

from sidegate.core.condition import Condition
from sidegate.core.token import Token, TokenKey
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.runtime.container import Container, build_services
from sidegate.services.sessions import Issued, NewSession
from sidegate.settings import load
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.contracts.values import TESTER
from tests.stores.sql.wire import Wire
from tests.support.processes import Server

Instance = Callable[[], AbstractAsyncContextManager[Container]]


@pytest.fixture
async def wire(own_redis: Server) -> AsyncIterator[Wire]:
    """What leads every instance to Redis, to be cut."""
    async with Wire(own_redis.port) as wire:
        yield wire


@pytest.fixture
async def instance(wire: Wire, database_url: str) -> Instance:
    """Build an instance that has caught up, without doors; its catch-up is the test's to call."""
    await migrate_postgres(database_url)
    settings = load(
        None,
        {
            "SIDEGATE_DATABASE_URL": database_url,
            "SIDEGATE_REDIS_URL": f"redis://127.0.0.1:{wire.port}/0",
            "SIDEGATE_REDIS__DEADLINE": "1s",  # nothing here is about speed
            "SIDEGATE_TOKEN__KEYS": TokenKey.generate().formatted(),
            "SIDEGATE_SESSIONS__WEB__GRACE": "0s",
        },
    )

    @asynccontextmanager
    async def instance() -> AsyncIterator[Container]:
        async with build_services(settings) as house:
            await catch_up(house)
            yield house
            await house.catch_up.redeliver()

    return instance


async def catch_up(house: Container) -> None:
    """Let the instance go one round."""
    await house.catch_up.poll()


async def from_redis(house: Container, token: Token) -> Allow | Deny | None:
    """Return the verdict of an instance that has nothing in its own memory."""
    house.local.clear()
    verdict = await house.validator.inspect(token.text)
    return verdict if isinstance(verdict, Allow | Deny) else None


def lose(wire: Wire) -> None:
    wire.refusing = True
    wire.cut()


async def revoke(house: Container, issued: Issued) -> None:
    await house.sessions.revoke(issued.record.session.id, by=TESTER, reason="stolen")


async def commit_only(house: Container, issued: Issued) -> None:
    """Revoke as somebody does who dies before telling anybody."""
    condition, now = Condition(session_id=issued.record.session.id), house.means.clock.now()
    await house.durable.revoke_where(condition, at=now, by=TESTER, reason="stolen", limit=1)


async def test_what_redis_could_not_be_told_is_not_believed_even_by_who_starts_later(
    instance: Instance, wire: Wire
) -> None:
    async with instance() as house:
        issued = await house.sessions.create(NewSession("alice", TESTER))
        assert isinstance(await from_redis(house, issued.token), Allow)
        lose(wire)
        await revoke(house, issued)
    wire.refusing = False
    async with instance() as later:
        assert await from_redis(later, issued.token) == Deny(Reason.REVOKED)


async def test_who_died_between_the_commit_and_the_word_leaves_nobody_alive(
    instance: Instance,
) -> None:
    async with instance() as house:
        issued = await house.sessions.create(NewSession("alice", TESTER))
        assert isinstance(await from_redis(house, issued.token), Allow)
        await commit_only(house, issued)
        generation = await house.durable.generation()
    async with instance() as later:
        assert await from_redis(later, issued.token) == Deny(Reason.REVOKED)
        assert await later.durable.generation() == generation  # Redis was told, and stays warm


async def test_whoever_asks_for_a_revocation_again_has_everybody_told(instance: Instance) -> None:
    async with instance() as house:
        issued = await house.sessions.create(NewSession("alice", TESTER))
        assert isinstance(await from_redis(house, issued.token), Allow)
        await commit_only(house, issued)
        assert isinstance(await from_redis(house, issued.token), Allow)
        await revoke(house, issued)
        assert await from_redis(house, issued.token) == Deny(Reason.REVOKED)


async def test_who_may_have_missed_the_end_of_a_generation_does_not_believe_it(
    instance: Instance, wire: Wire
) -> None:
    async with instance() as house, instance() as other:
        issued = await house.sessions.create(NewSession("alice", TESTER))
        assert isinstance(await from_redis(other, issued.token), Allow)
        lose(wire)
        await revoke(house, issued)
        await house.catch_up.redeliver()
        wire.refusing = False
        other.catch_up.distrust_redis()  # as whoever has lost the feed does
        assert await from_redis(other, issued.token) == Deny(Reason.REVOKED)


async def test_a_redis_that_reads_but_does_not_write_is_not_believed(
    instance: Instance, own_redis: Server
) -> None:
    async with instance() as house, instance() as other:
        issued = await house.sessions.create(NewSession("alice", TESTER))
        with vendor.Redis(port=own_redis.port) as raw:
            raw.config_set("maxmemory", 1)
        await revoke(house, issued)
        await house.catch_up.redeliver()
        await catch_up(other)
        assert await from_redis(other, issued.token) == Deny(Reason.REVOKED)


async def test_a_touch_brings_nobody_back_into_a_redis_that_has_forgotten_the_end(
    instance: Instance, own_redis: Server
) -> None:
    async with instance() as house, instance() as other:
        issued = await house.sessions.create(NewSession("alice", TESTER))
        assert isinstance(await other.validator.validate(issued.token.text), Allow)
        await revoke(house, issued)
        own_redis.restart()
        await other.toucher.flush(everything=True)
        assert await from_redis(other, issued.token) == Deny(Reason.REVOKED)


async def test_a_token_rotated_out_while_redis_was_away_does_not_come_back_with_it(
    instance: Instance, wire: Wire
) -> None:
    async with instance() as house:
        first = await house.sessions.create(NewSession("alice", TESTER))
        assert isinstance(await from_redis(house, first.token), Allow)
        lose(wire)
        second = await house.rotation.refresh(first.token.text, by=TESTER)
        assert isinstance(second, Issued)
        third = await house.rotation.refresh(second.token.text, by=TESTER)
        assert isinstance(third, Issued)
        await house.catch_up.redeliver()
        wire.refusing = False
        assert await from_redis(house, first.token) == Deny(Reason.REUSED)
        await revoke(house, third)
        for issued in (first, second, third):
            assert isinstance(await from_redis(house, issued.token), Deny)


async def test_a_primary_that_was_one_before_has_missed_what_happened_since(
    instance: Instance, own_redis: Server, wire: Wire
) -> None:
    async with instance() as house:
        issued = await house.sessions.create(NewSession("alice", TESTER))
        assert isinstance(await from_redis(house, issued.token), Allow)
        with vendor.Redis(port=own_redis.port) as raw:  # demoted, and promoted again
            raw.replicaof("127.0.0.1", 1)
            wire.cut()
            await revoke(house, issued)
            raw.replicaof("NO", "ONE")
        wire.cut()
        assert await from_redis(house, issued.token) == Deny(Reason.REVOKED)
