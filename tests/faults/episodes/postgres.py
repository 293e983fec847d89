"""Episodes with faults of Postgres, or of the connections to it."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg

from tests.faults.context import CounterChange, FaultContext, failed_lookups, run_in_thread
from tests.faults.deployment import connect_as_superuser
from tests.faults.history import now
from tests.faults.leaks import Secrets, dump_redis
from tests.faults.proxy_faults import CutsAfterCommit
from tests.faults.rules import Violation
from tests.support.processes import Server, chown_to_child_user, temporary_directory

_OUTAGE_TIME: Final = 15.0
_DEGRADED_TIME: Final = 10.0
_SETTLE_TIME: Final = 1.5


def stop_immediately(postgres: Server) -> None:
    """Stop Postgres as `pg_ctl stop -m immediate` does, without a checkpoint."""
    postgres.process.send_signal(signal.SIGQUIT)
    postgres.process.wait(20)
    postgres.kill()


async def stop(context: FaultContext) -> None:
    """Immediate stop, with crash recovery at the restart."""
    async with _while_stopped(context):
        await context.wait(_OUTAGE_TIME)


async def stop_and_inspect_pending(context: FaultContext) -> None:
    """Stop Postgres while Redis is up, and search the pending revocations in Redis for tokens.

    At the end of a run none are pending.
    """
    async with _while_stopped(context):
        await context.wait(_OUTAGE_TIME)
        await _inspect_pending(context)


@asynccontextmanager
async def _while_stopped(context: FaultContext) -> AsyncIterator[None]:
    async with context.expect_change("no lookup failed at Postgres", failed_lookups("postgres")):
        await run_in_thread(lambda: stop_immediately(context.postgres))
        yield
        await run_in_thread(context.postgres.restart)


async def _inspect_pending(context: FaultContext) -> None:
    pending = await asyncio.to_thread(dump_redis, context.redis.port, "*pending*")
    context.expect("no revocation was pending in Redis", observed=len(pending))
    if Secrets(context.load.population.issued.values()).occur_in(pending):
        context.violations.append(
            Violation("I11", "a pending revocation in Redis holds a token", now())
        )


async def freeze(context: FaultContext) -> None:
    """SIGSTOP for the postmaster and all of its children."""
    async with context.expect_change("no lookup failed at Postgres", failed_lookups("postgres")):
        await run_in_thread(context.postgres.pause)
        try:
            await context.wait(_OUTAGE_TIME)
        finally:
            await run_in_thread(context.postgres.resume)


async def drop_traffic(context: FaultContext) -> None:
    """Drop all traffic without closing connections."""
    async with context.expect_change("no lookup failed at Postgres", failed_lookups("postgres")):
        context.postgres_proxy.stall()
        try:
            await context.wait(_OUTAGE_TIME)
        finally:
            context.postgres_proxy.resume()


async def cut_after_commit(context: FaultContext) -> None:
    """Cut connections between the commit of a change and its reply."""
    cuts = CutsAfterCommit(context.random, share=0.3)
    proxy = context.postgres_proxy
    proxy.reset_connections()  # statements prepared before would not be recognised
    proxy.client_filter, proxy.server_filter = cuts.on_request, cuts.on_reply
    try:
        await context.wait(_DEGRADED_TIME)
    finally:
        proxy.client_filter = proxy.server_filter = lambda _, chunk: chunk
    context.expect("no connection was cut after a commit", observed=cuts.cut_count)


async def exhaust_connections(context: FaultContext) -> None:
    """Other clients hold all connections."""
    async with AsyncExitStack() as stack:
        taken = 0
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                await stack.enter_async_context(connect_as_superuser(context.postgres))
                taken += 1
        context.expect("no connection was left to take", observed=taken)
        await context.wait(_DEGRADED_TIME)


async def lock_table(context: FaultContext) -> None:
    """Another transaction holds an exclusive lock on the table."""
    async with (
        context.expect_change("no lookup failed at Postgres", failed_lookups("postgres")),
        connect_as_superuser(context.postgres) as connection,
        connection.transaction(),
    ):
        await connection.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
        await context.wait(_DEGRADED_TIME)


async def make_read_only(context: FaultContext) -> None:
    """Postgres rejects writes."""
    async with context.expect_change("no change was rejected", refused_changes()):
        async with connect_as_superuser(context.postgres) as connection:
            await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await connection.execute("SELECT pg_reload_conf()")
        try:
            await context.wait(_DEGRADED_TIME)
        finally:
            async with connect_as_superuser(context.postgres) as connection:
                await connection.execute("SET default_transaction_read_only = off")
                await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
                await connection.execute("SELECT pg_reload_conf()")


async def fill_disk(context: FaultContext) -> None:
    """Move the sessions to a small file system, and fill it."""
    if os.getuid() != 0:
        context.expect("only root can mount a small file system", observed=False)
        return
    with temporary_directory() as directory, _small_disk(directory):
        async with connect_as_superuser(context.postgres) as connection:
            await connection.execute(f"CREATE TABLESPACE small LOCATION '{directory}'")
            await connection.execute("ALTER TABLE sessions SET TABLESPACE small")
            await connection.execute("VACUUM FULL sessions")  # new rows need room of their own
        await asyncio.sleep(_SETTLE_TIME)  # moving the table locked it
        context.mark_started()
        try:
            async with context.expect_change("no change was rejected", refused_changes()):
                _fill(directory)
                await context.wait(_DEGRADED_TIME)
        finally:
            (directory / "filling").unlink(missing_ok=True)
            async with connect_as_superuser(context.postgres) as connection:
                await connection.execute("ALTER TABLE sessions SET TABLESPACE pg_default")
                await connection.execute("DROP TABLESPACE small")


class _small_disk:  # noqa: N801  # reads as a statement: with _small_disk(directory): ...
    """A tmpfs of a few megabytes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(self._directory)]
        subprocess.run(mount, check=True)
        chown_to_child_user(self._directory)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self._directory)], check=True)


def _fill(directory: Path) -> None:
    """Write until the disk is full. Existing rows may still be updated in place."""
    with suppress(OSError), (directory / "filling").open("wb", buffering=0) as filling:
        while True:
            filling.write(bytes(4096))


def refused_changes() -> CounterChange:
    """Count the requests to the admin API that were answered with 503."""
    return lambda before, after: after.increase(
        before, "sidegate_admin_requests_total", status="503"
    )
