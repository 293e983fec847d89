"""Operations that wait longer than the grace for a lock on their session."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from sidegate.core.token import Token, TokenKey
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.runtime.container import Container, build_services
from sidegate.services.sessions import Issued, NewSession
from sidegate.settings import load
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.contracts.values import TESTER
from tests.stores.postgres.raw_connection import connect_directly, wait_for_blocked_query

GRACE = timedelta(milliseconds=100)


@pytest.fixture
async def instance(database_url: str) -> AsyncIterator[Container]:
    """The services on a Postgres, with a grace shorter than a wait for a lock."""
    await migrate_postgres(database_url)
    settings = load(
        None,
        {
            "SIDEGATE_DATABASE_URL": database_url,
            "SIDEGATE_TOKEN__KEYS": TokenKey.generate().format(),
            "SIDEGATE_SESSIONS__WEB__GRACE": "100ms",
        },
    )
    async with build_services(settings) as container:
        assert container.clock_sync is not None
        await container.clock_sync.sync()
        yield container


@asynccontextmanager
async def lock(url: str, *session_ids: str) -> AsyncIterator[None]:
    """Lock sessions during the block, and until a statement has waited longer than the grace."""
    async with connect_directly(url) as connection, connection.transaction():
        await connection.execute(
            "SELECT FROM sessions WHERE id = ANY ($1) FOR UPDATE", list(session_ids)
        )
        yield
        await wait_for_blocked_query(url)
        read_time = "SELECT clock_timestamp()"
        blocked_at: datetime = await connection.fetchval(read_time)
        async with asyncio.timeout(10):
            while await connection.fetchval(read_time) < blocked_at + GRACE:
                pass


async def create(instance: Container) -> Issued:
    return await instance.sessions.create(NewSession("ada", by=TESTER))


async def refresh(instance: Container, token: Token) -> Issued | Deny:
    return await instance.rotation.refresh(token.text, by=TESTER)


async def run_behind_lock(
    url: str, session_ids: Sequence[str], *operations: Awaitable[object]
) -> list[object]:
    async with lock(url, *session_ids):
        tasks = [asyncio.ensure_future(operation) for operation in operations]
    return await asyncio.gather(*tasks)


async def outlast_grace(instance: Container, url: str) -> None:
    """Wait longer than the grace, for the lock of another session."""
    other = await create(instance)
    await run_behind_lock(url, [other.record.session.id], refresh(instance, other.token))


async def test_two_refreshes_behind_a_lock_share_a_successor(
    instance: Container, database_url: str
) -> None:
    issued = await create(instance)
    one, other = await run_behind_lock(
        database_url,
        [issued.record.session.id],
        refresh(instance, issued.token),
        refresh(instance, issued.token),
    )
    assert isinstance(one, Issued)
    assert isinstance(other, Issued)
    assert one.token == other.token
    assert isinstance(await instance.validator.validate(one.token.text), Allow)


async def test_old_token_has_its_grace_after_a_refresh_behind_a_lock(
    instance: Container, database_url: str
) -> None:
    issued = await create(instance)
    [refreshed] = await run_behind_lock(
        database_url, [issued.record.session.id], refresh(instance, issued.token)
    )
    assert isinstance(refreshed, Issued)
    until = refreshed.record.session.previous_until
    assert refreshed.record.details.change is not None
    assert until >= refreshed.record.details.change.at + 2 * GRACE
    stored = await instance.durable.get(issued.record.session.id)
    assert stored is not None
    assert stored.session.previous_until == until


async def test_successor_of_a_lost_response_is_repeated_long_after_the_grace(
    instance: Container, database_url: str
) -> None:
    issued = await create(instance)
    lost = await refresh(instance, issued.token)
    assert isinstance(lost, Issued)
    await outlast_grace(instance, database_url)
    repeated = await refresh(instance, issued.token)
    assert isinstance(repeated, Issued)
    assert repeated.token == lost.token


async def test_token_whose_successor_was_presented_is_a_theft_after_the_grace(
    instance: Container, database_url: str
) -> None:
    issued = await create(instance)
    refreshed = await refresh(instance, issued.token)
    assert isinstance(refreshed, Issued)
    verdict = await instance.validator.validate(refreshed.token.text)
    assert isinstance(verdict, Allow)
    instance.activity.on_allowed(verdict.session, instance.clock.now())
    await instance.activity.flush()  # not `everything`: it is due at once
    await outlast_grace(instance, database_url)
    assert await refresh(instance, issued.token) == Deny(Reason.REUSED)
    assert await instance.validator.validate(refreshed.token.text) == Deny(Reason.REVOKED)
