"""Episodes in which Postgres comes back without its last commits: restores, and failovers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.faults.context import FaultContext, failed_lookups, run_in_thread
from tests.faults.database_loss import RestoredState, find_losses, read_restored_state
from tests.faults.deployment import MAX_CONNECTIONS, connect_as_superuser
from tests.faults.episodes.postgres import stop_immediately
from tests.faults.history import TokenCategory, now
from tests.faults.population import ClientToken
from tests.faults.redis_eviction import RedisEviction
from tests.faults.restore_reports import RestoreReports
from tests.faults.revocations import check_everywhere, retire_all, revoke_all
from tests.faults.rules import Rules
from tests.stores.waiting import wait_until_async
from tests.support.processes import Server, temporary_directory
from tests.support.servers import back_up_postgres, restore_postgres, start_postgres_replica

_SESSIONS: Final = 20

# Seconds of changes that the restored database does not know, and for the instances to settle.
_LOST_TIME: Final = 6.0
_HOLD_TIME: Final = 8.0

# Seconds: longer than a caller of the admin API waits, so that no change spans the outage.
_OUTAGE_TIME: Final = 3.0


async def restore_while_stopped(context: FaultContext) -> None:
    """Restore a base backup while no instance runs; Redis keeps its data."""
    upstreams = context.load.gateway.upstreams
    with temporary_directory() as directory:
        await run_in_thread(lambda: back_up_postgres(context.postgres, directory))
        since = datetime.now(UTC)
        revoked = await _change_sessions(context)
        context.mark_started()
        async with context.excuse_instance(*upstreams):
            for upstream in upstreams:
                await run_in_thread(upstream.sidegate.server.stop)
            await run_in_thread(lambda: stop_immediately(context.postgres))
            stopped_at = now()
            await run_in_thread(lambda: restore_postgres(context.postgres, directory))
            await run_in_thread(context.postgres.restart)
            reports = await RestoreReports.begin(context)
            state = await _read_state(context, context.postgres, revoked)
            for upstream in upstreams:
                await run_in_thread(upstream.sidegate.server.child.start)
    # An instance that starts must not allow at all what the database does not know.
    await _record_losses(context, state, stopped_at=stopped_at, bound=0.0)
    await retire_all(context, revoked)
    await context.wait(_HOLD_TIME)
    await reports.expect(since=since)


async def restore_while_running(context: FaultContext) -> None:
    """Restore a base backup while the instances run."""
    with temporary_directory() as directory:
        await run_in_thread(lambda: back_up_postgres(context.postgres, directory))
        async with _lost_changes(context, lambda: stop_immediately(context.postgres)):
            await run_in_thread(lambda: restore_postgres(context.postgres, directory))
            await run_in_thread(context.postgres.restart)


async def promote_old_replica(context: FaultContext) -> None:
    """kill -9 of the primary; a replica is promoted that lacks acknowledged commits."""
    with temporary_directory() as directory:
        replica = await _start_replica(context, directory)
        try:
            await _disconnect(replica, context.postgres)
            async with _lost_changes(context, context.postgres.kill, replica):
                await _promote(replica)
                context.postgres_proxy.set_target(replica.port)
            await _fail_back(context, replica)
        finally:
            await run_in_thread(replica.kill)


async def promote_synchronous_replica(context: FaultContext) -> None:
    """kill -9 of the primary; a replica is promoted that has every acknowledged commit."""
    with temporary_directory() as directory:
        replica = await _start_replica(context, directory)
        try:
            async with connect_as_superuser(context.postgres) as primary:
                await primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                await primary.execute("SELECT pg_reload_conf()")
            await _wait_for_replicas(context.postgres, "sync_state = 'sync'", number=1)
            revoked = await _change_sessions(context)
            context.mark_started()
            reports = await RestoreReports.begin(context)
            async with _outage(context, context.postgres.kill):
                await asyncio.sleep(_OUTAGE_TIME)
                await _promote(replica)
                context.postgres_proxy.set_target(replica.port)
            await retire_all(context, revoked)
            await context.wait(_HOLD_TIME)
            await reports.expect_none()
            await _fail_back(context, replica)
        finally:
            await run_in_thread(replica.kill)


@asynccontextmanager
async def _lost_changes(
    context: FaultContext, stop: Callable[[], object], restored: Server | None = None
) -> AsyncIterator[None]:
    """Make changes, and replace the database during the block by one that does not know them.

    `restored` is the server that then holds it, if it is another one.
    """
    since = datetime.now(UTC)
    revoked = await _change_sessions(context)
    context.mark_started()
    reports = await RestoreReports.begin(context)
    async with _outage(context, stop):
        stopped_at = now()
        await asyncio.sleep(_OUTAGE_TIME)
        yield
        state = await _read_state(context, restored or context.postgres, revoked)
    await _record_losses(context, state, stopped_at=stopped_at, bound=Rules().settle_time)
    await retire_all(context, revoked)
    await context.wait(_HOLD_TIME)
    # By now the kept tombstones must be in the database again: in checks, and in lists.
    await check_everywhere(context, revoked, TokenCategory.ENDED)
    for user in {token.user for token in revoked if token.user is not None}:
        await context.load.admin_client.list(user)
    await reports.expect(since=since)


@asynccontextmanager
async def _outage(context: FaultContext, stop: Callable[[], object]) -> AsyncIterator[None]:
    """Stop Postgres; let the instances reach what stands in its place when the block ends."""
    async with (
        context.expect_change("no lookup failed at Postgres", failed_lookups("postgres")),
        _unreachable(context, stop),
    ):
        yield


@asynccontextmanager
async def _unreachable(context: FaultContext, stop: Callable[[], object]) -> AsyncIterator[None]:
    context.postgres_proxy.refuse_new = True
    try:
        await run_in_thread(stop)
        context.postgres_proxy.reset_connections()
        yield
    finally:
        context.postgres_proxy.refuse_new = False


async def _change_sessions(context: FaultContext) -> Sequence[ClientToken]:
    """Let changes happen that will be lost, and return the tokens of some revoked sessions."""
    tokens = context.load.population.take_many(_SESSIONS)
    await check_everywhere(context, tokens, TokenCategory.WARM)
    await revoke_all(context, tokens)
    await context.wait(_LOST_TIME)
    await context.wait_for_revocation()
    return tokens


async def _read_state(
    context: FaultContext, postgres: Server, revoked: Sequence[ClientToken]
) -> RestoredState:
    """Delete the tombstones of half of these sessions, so that their end is lost; read the rest."""
    eviction = RedisEviction(context.redis.port)
    for token in revoked[::2]:
        await eviction.evict(token)
    await eviction.close()
    return await read_restored_state(postgres, context.redis)


async def _record_losses(
    context: FaultContext, state: RestoredState, *, stopped_at: float, bound: float
) -> None:
    """Record what is lost, now that the instances reach the restored database."""
    population = context.load.population
    losses = find_losses(
        context.recorder.entries,
        state,
        issued=population.issued.values(),
        stopped_at=stopped_at,
        settled_at=now() + Rules().settle_time,
        bound=bound,
    )
    context.recorder.add(losses)
    unknown = [population.issued[number] for number in losses.tokens]
    population.remove(unknown)
    await retire_all(context, unknown)
    cached = [token for token in unknown if token.digest in state.cached]
    for problem, lost in (
        ("no creation was lost", losses.sessions),
        ("no end was lost", losses.ends),
        ("no tombstone was left in Redis", losses.tombstones),
        ("Redis held no copy of an unknown session", cached),
    ):
        context.expect(problem, observed=len(lost))


async def _start_replica(context: FaultContext, directory: Path) -> Server:
    replica = await asyncio.to_thread(
        start_postgres_replica,
        context.postgres,
        directory,
        [f"max_connections={MAX_CONNECTIONS}"],  # at least as many as the primary has
    )
    await _wait_for_replicas(context.postgres, "state = 'streaming'", number=1)
    return replica


async def _disconnect(replica: Server, primary: Server) -> None:
    """Stop the replication: the replica lacks every later commit."""
    async with connect_as_superuser(replica) as connection:
        await connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
        await connection.execute("SELECT pg_reload_conf()")
    await _wait_for_replicas(primary, "true", number=0)


async def _wait_for_replicas(primary: Server, condition: str, *, number: int) -> None:
    async with connect_as_superuser(primary) as connection:

        async def is_reached() -> bool:
            query = f"SELECT count(*) FROM pg_stat_replication WHERE {condition}"
            return bool(await connection.fetchval(query) == number)

        await wait_until_async(is_reached, within=20)


async def _promote(replica: Server) -> None:
    async with connect_as_superuser(replica) as connection:
        assert await connection.fetchval("SELECT pg_promote()")


async def _fail_back(context: FaultContext, replica: Server) -> None:
    """Continue with the data of the promoted replica at the usual place. Nothing is lost.

    It is no part of the fault: it may be so quick that no lookup fails.
    """
    async with _unreachable(context, replica.stop):
        await run_in_thread(lambda: restore_postgres(context.postgres, replica.directory))
        await run_in_thread(context.postgres.child.start)
        context.postgres_proxy.set_target(context.postgres.port)
