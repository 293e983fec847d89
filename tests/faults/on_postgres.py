"""Episodes in which Postgres is hurt, or the wire to it."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg

from tests.faults.deployment import superuser
from tests.faults.history import now
from tests.faults.leaks import Secrets, everything_in_redis
from tests.faults.mischief import CutsAfterCommit
from tests.faults.rules import Breach
from tests.faults.stage import Sign, Stage, apart, failed
from tests.support.processes import Server, give_away, temporary_directory

_DOWN: Final = 15.0
_BAD: Final = 10.0
_SETTLED: Final = 1.5


def stop_at_once(postgres: Server) -> None:
    """What `pg_ctl stop -m immediate` does: nothing is finished, nothing is written."""
    postgres.process.send_signal(signal.SIGQUIT)
    postgres.process.wait(20)
    postgres.kill()


async def stopped(stage: Stage) -> None:
    """An immediate stop; it recovers from its log when it starts again."""
    async with _stopped(stage):
        await stage.wait(_DOWN)


async def stopped_while_redis_is_well(stage: Stage) -> None:
    """The same while Redis is well: revocations are pending there, and are searched for tokens.

    At the end of a run nothing is pending any more.
    """
    async with _stopped(stage):
        await stage.wait(_DOWN)
        await _look_at_what_is_pending(stage)


@asynccontextmanager
async def _stopped(stage: Stage) -> AsyncIterator[None]:
    async with stage.showing("no look-up failed at Postgres", failed("postgres")):
        await apart(lambda: stop_at_once(stage.postgres))
        yield
        await apart(stage.postgres.restart)


async def _look_at_what_is_pending(stage: Stage) -> None:
    kept = await asyncio.to_thread(everything_in_redis, stage.redis.port, "*pending*")
    stage.expect("nothing was pending in Redis", seen=len(kept))
    if Secrets(stage.load.population.issued.values()).are_in(kept):
        stage.breaches.append(Breach("I11", "Redis holds a token in what is pending", now()))


async def frozen(stage: Stage) -> None:
    """SIGSTOP, to the postmaster and all of its children."""
    async with stage.showing("no look-up failed at Postgres", failed("postgres")):
        await apart(stage.postgres.pause)
        try:
            await stage.wait(_DOWN)
        finally:
            await apart(stage.postgres.resume)


async def black_hole(stage: Stage) -> None:
    """Nothing arrives any more, and nobody is told."""
    async with stage.showing("no look-up failed at Postgres", failed("postgres")):
        stage.postgres_wire.hold()
        try:
            await stage.wait(_DOWN)
        finally:
            stage.postgres_wire.let_go()


async def cut_after_commit(stage: Stage) -> None:
    """The link is cut when a change was committed, and before anybody heard of it."""
    cuts = CutsAfterCommit(stage.random, share=0.3)
    wire = stage.postgres_wire
    wire.cut()  # what was prepared before would not be recognised
    wire.questions, wire.answers = cuts.questions, cuts.answers
    try:
        await stage.wait(_BAD)
    finally:
        wire.questions = wire.answers = lambda _, chunk: chunk
    stage.expect("no commit was cut off", seen=cuts.cut)


async def used_up(stage: Stage) -> None:
    """Other clients have taken every connection there is."""
    async with AsyncExitStack() as stack:
        taken = 0
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                await stack.enter_async_context(superuser(stage.postgres))
                taken += 1
        stage.expect("there were more connections", seen=taken)
        await stage.wait(_BAD)


async def locked(stage: Stage) -> None:
    """Somebody alters the table, and takes ten seconds."""
    async with (
        stage.showing("no look-up failed at Postgres", failed("postgres")),
        superuser(stage.postgres) as connection,
        connection.transaction(),
    ):
        await connection.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
        await stage.wait(_BAD)


async def read_only(stage: Stage) -> None:
    """It answers, and changes nothing."""
    async with stage.showing("no change was refused", refused_changes()):
        async with superuser(stage.postgres) as connection:
            await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await connection.execute("SELECT pg_reload_conf()")
        try:
            await stage.wait(_BAD)
        finally:
            async with superuser(stage.postgres) as connection:
                await connection.execute("SET default_transaction_read_only = off")
                await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
                await connection.execute("SELECT pg_reload_conf()")


async def disk_full(stage: Stage) -> None:
    """The sessions lie on a disk of their own, and that is full."""
    if os.getuid() != 0:
        stage.expect("only root can make a small disk", seen=False)
        return
    with temporary_directory() as directory, _small_disk(directory):
        async with superuser(stage.postgres) as connection:
            await connection.execute(f"CREATE TABLESPACE small LOCATION '{directory}'")
            await connection.execute("ALTER TABLE sessions SET TABLESPACE small")
            await connection.execute("VACUUM FULL sessions")  # new rows need room of their own
        await asyncio.sleep(_SETTLED)  # moving the table has locked it
        stage.begins()
        try:
            async with stage.showing("no change was refused", refused_changes()):
                _fill(directory)
                await stage.wait(_BAD)
        finally:
            (directory / "filling").unlink(missing_ok=True)
            async with superuser(stage.postgres) as connection:
                await connection.execute("ALTER TABLE sessions SET TABLESPACE pg_default")
                await connection.execute("DROP TABLESPACE small")


class _small_disk:  # noqa: N801  # reads as a statement: with _small_disk(directory): ...
    """A file system of a few megabytes, in memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(self._directory)]
        subprocess.run(mount, check=True)
        give_away(self._directory)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self._directory)], check=True)


def _fill(directory: Path) -> None:
    """Write until there is no room left. The rows that are there may still be changed in place."""
    with suppress(OSError), (directory / "filling").open("wb", buffering=0) as filling:
        while True:
            filling.write(bytes(4096))


def refused_changes() -> Sign:
    """Requests to the admin API that ended in 503."""
    return lambda before, after: after.since(before, "sidegate_admin_requests_total", status="503")
