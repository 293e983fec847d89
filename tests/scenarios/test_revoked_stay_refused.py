"""Revoked sessions stay denied if Redis is down, read-only, empty or outdated."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest
import redis as redis_client

from sidegate.core.condition import Condition
from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session
from sidegate.core.token import Token, TokenKey
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.runtime.container import Container, build_services
from sidegate.services.sessions import Issued, NewSession
from sidegate.settings import load
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.contracts.values import TESTER
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.support.processes import Server

BuildInstance = Callable[[], AbstractAsyncContextManager[Container]]


@pytest.fixture
async def proxy(own_redis: Server) -> AsyncIterator[TcpProxy]:
    """The proxy through which every instance reaches Redis."""
    async with TcpProxy(own_redis.port) as proxy:
        yield proxy


@pytest.fixture
async def build_instance(proxy: TcpProxy, database_url: str) -> BuildInstance:
    """Build instances without listeners, which make rounds when the test says so."""
    await migrate_postgres(database_url)
    settings = load(
        None,
        {
            "SIDEGATE_DATABASE_URL": database_url,
            "SIDEGATE_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
            "SIDEGATE_REDIS__DEADLINE": "1s",  # for a busy machine
            "SIDEGATE_TOKEN__KEYS": TokenKey.generate().format(),
            "SIDEGATE_SESSIONS__WEB__GRACE": "0s",
        },
    )

    @asynccontextmanager
    async def open_instance() -> AsyncIterator[Container]:
        async with build_services(settings) as container:
            assert container.clock_sync is not None
            await container.clock_sync.sync()
            await make_round(container)
            yield container

    return open_instance


async def make_round(container: Container) -> None:
    """Run one round of the instance's change poller, and one of its cache follower."""
    await container.change_poller.poll()
    assert container.cache_follower is not None
    with suppress(StoreUnavailable):
        await container.cache_follower.follow()


async def log_in(container: Container) -> Issued:
    """Create a session that is cached in Redis."""
    issued = await container.sessions.create(NewSession("alice", TESTER))
    await make_round(container)
    assert await read_hit(container, issued.token) is not None
    return issued


async def read_hit(container: Container, token: Token) -> Session | None:
    """Return the copy in Redis, which the instance trusts."""
    assert container.redis is not None
    return await container.redis.find(token.digest())


async def inspect_without_memory(container: Container, token: Token) -> Allow | Deny | None:
    """Return the verdict of an instance whose memory was cleared."""
    container.memory.clear()
    verdict = await container.validator.validate(token.text)
    return verdict if isinstance(verdict, Allow | Deny) else None


def disconnect(proxy: TcpProxy) -> None:
    proxy.refuse_new = True
    proxy.reset_connections()


async def revoke(container: Container, issued: Issued) -> None:
    await container.sessions.revoke(issued.record.session.id, by=TESTER, reason="stolen")


async def revoke_unpublished(container: Container, issued: Issued) -> None:
    """Revoke as an instance does that crashes between commit and publish."""
    condition, now = Condition(session_id=issued.record.session.id), container.clock.now()
    await container.durable.revoke_where(condition, at=now, by=TESTER, reason="stolen", limit=1)


async def test_redis_that_missed_a_revocation_is_not_trusted_by_later_instances(
    build_instance: BuildInstance, proxy: TcpProxy
) -> None:
    async with build_instance() as container:
        issued = await log_in(container)
        assert isinstance(await inspect_without_memory(container, issued.token), Allow)
        disconnect(proxy)
        await revoke(container, issued)
    proxy.refuse_new = False
    async with build_instance() as later:
        assert await inspect_without_memory(later, issued.token) == Deny(Reason.REVOKED)


async def test_unpublished_revocation_of_a_crashed_instance_reaches_redis(
    build_instance: BuildInstance,
) -> None:
    async with build_instance() as container:
        issued = await log_in(container)
        assert isinstance(await inspect_without_memory(container, issued.token), Allow)
        kept = await log_in(container)
        await revoke_unpublished(container, issued)
    async with build_instance() as later:
        assert await inspect_without_memory(later, issued.token) == Deny(Reason.REVOKED)
        # The change was put into Redis, whose other copies stay in use.
        tombstone = await read_hit(later, issued.token)
        assert tombstone is not None
        assert tombstone.revoked_at is not None
        assert await read_hit(later, kept.token) is not None


async def test_repeated_revocation_publishes_an_unpublished_one(
    build_instance: BuildInstance,
) -> None:
    async with build_instance() as container:
        issued = await log_in(container)
        assert isinstance(await inspect_without_memory(container, issued.token), Allow)
        await revoke_unpublished(container, issued)
        assert isinstance(await inspect_without_memory(container, issued.token), Allow)
        await revoke(container, issued)
        assert await inspect_without_memory(container, issued.token) == Deny(Reason.REVOKED)


async def test_instance_puts_into_redis_what_redis_missed(
    build_instance: BuildInstance, proxy: TcpProxy
) -> None:
    async with build_instance() as container, build_instance() as other:
        issued = await log_in(container)
        assert isinstance(await inspect_without_memory(other, issued.token), Allow)
        disconnect(proxy)
        await revoke(container, issued)
        proxy.refuse_new = False
        assert await inspect_without_memory(container, issued.token) == Deny(Reason.REVOKED)
        await make_round(other)  # it finds that its connection was reset
        await make_round(other)
        tombstone = await read_hit(other, issued.token)
        assert tombstone is not None
        assert tombstone.revoked_at is not None
        assert await inspect_without_memory(other, issued.token) == Deny(Reason.REVOKED)


async def test_redis_that_rejects_writes_is_not_trusted(
    build_instance: BuildInstance, own_redis: Server
) -> None:
    async with build_instance() as container, build_instance() as other:
        issued = await log_in(container)
        with redis_client.Redis(port=own_redis.port) as raw:
            raw.config_set("maxmemory", 1)
        await revoke(container, issued)
        assert not container.redis_trust.is_trusted
        await make_round(other)
        assert not other.redis_trust.is_trusted
        assert await inspect_without_memory(other, issued.token) == Deny(Reason.REVOKED)


async def test_touch_does_not_restore_a_revoked_session_in_an_empty_redis(
    build_instance: BuildInstance, own_redis: Server
) -> None:
    async with build_instance() as container, build_instance() as other:
        issued = await log_in(container)
        assert isinstance(await other.validator.validate(issued.token.text), Allow)
        await revoke(container, issued)
        own_redis.restart()
        await other.activity.flush(everything=True)
        assert await inspect_without_memory(other, issued.token) == Deny(Reason.REVOKED)


async def test_token_rotated_out_during_a_redis_outage_stays_refused(
    build_instance: BuildInstance, proxy: TcpProxy
) -> None:
    async with build_instance() as container:
        first = await log_in(container)
        assert isinstance(await inspect_without_memory(container, first.token), Allow)
        disconnect(proxy)
        second = await container.rotation.refresh(first.token.text, by=TESTER)
        assert isinstance(second, Issued)
        third = await container.rotation.refresh(second.token.text, by=TESTER)
        assert isinstance(third, Issued)
        proxy.refuse_new = False
        await make_round(container)
        assert await inspect_without_memory(container, first.token) == Deny(Reason.REUSED)
        await revoke(container, third)
        for issued in (first, second, third):
            assert isinstance(await inspect_without_memory(container, issued.token), Deny)


async def test_redis_promoted_again_is_not_trusted_for_what_it_missed(
    build_instance: BuildInstance, own_redis: Server, proxy: TcpProxy
) -> None:
    async with build_instance() as container:
        issued = await log_in(container)
        assert isinstance(await inspect_without_memory(container, issued.token), Allow)
        with redis_client.Redis(port=own_redis.port) as raw:
            raw.replicaof("127.0.0.1", 1)  # demoted to a replica, and promoted again below
            proxy.reset_connections()
            await revoke(container, issued)
            raw.replicaof("NO", "ONE")
        proxy.reset_connections()
        assert await inspect_without_memory(container, issued.token) == Deny(Reason.REVOKED)
