"""What a restored or promoted Postgres does not know is not allowed from Redis."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import aiohttp
import asyncpg
import pytest

from tests.scenarios.trust_sites import (
    FOR_A_BUSY_MACHINE,
    READ_REDIS,
    Client,
    assert_refused,
    disconnect,
    query_through,
    wait_until_quiet,
    wait_until_served_from_redis,
)
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import wait_until_async
from tests.support.processes import (
    Child,
    Server,
    child_user,
    chown_to_child_user,
    start_on_free_port,
    temporary_directory,
)
from tests.support.sidegate import Created, Sidegate

StartInstance = Callable[..., Sidegate]

LONG_GRACE: Final = {"SIDEGATE_SESSIONS__WEB__GRACE": "60s"}

# Sessions of which Redis has copies before and after a failover.
_CACHED: Final = 20


@pytest.fixture
async def proxy(own_postgres: Server) -> AsyncIterator[TcpProxy]:
    """The address of Postgres."""
    async with TcpProxy(own_postgres.port) as proxy:
        yield proxy


def back_up(
    server: Server, target: Path, *, port: int | None = None, extra: Sequence[str] = ()
) -> None:
    """Take a base backup of a running Postgres, which is reached at `port`."""
    user = child_user()
    done = subprocess.run(
        [
            Path(server.child.argv[0]).parent / "pg_basebackup",
            *("-D", target, "-h", "127.0.0.1", "-p", str(port or server.port), "-U", "postgres"),
            *("-X", "stream", "-c", "fast", "--no-sync", *extra),
        ],
        cwd=target.parent,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    assert done.returncode == 0, done.stderr


def accepts_queries(primary: Server, port: int) -> bool:
    """Return whether there is a Postgres at this port, with the programs of `primary`."""
    program = Path(primary.child.argv[0]).parent / "pg_isready"
    probe = [str(program), "-h", "127.0.0.1", "-p", str(port)]
    return subprocess.run(probe, capture_output=True).returncode == 0


@contextmanager
def start_standby(primary: Server, *, port: int | None = None) -> Iterator[Server]:
    """Start a hot standby, which follows the primary through `port`; kill it in the end."""
    with temporary_directory() as directory:
        data = directory / "pg"
        back_up(primary, data, port=port, extra=["-R"])

        def launch(own_port: int) -> Server:
            argv = list(primary.child.argv)
            for option, value in (("-D", data), ("-p", str(own_port)), ("-k", directory)):
                argv[argv.index(option) + 1] = value
            child = Child("standby", argv, directory, lambda: accepts_queries(primary, own_port))
            url = f"postgresql://postgres@127.0.0.1:{own_port}/postgres"
            return Server("standby", own_port, url, child)

        standby = start_on_free_port(launch, None)
        try:
            yield standby
        finally:
            standby.kill()


async def promote(standby: Server, primary: Server, *, proxy: TcpProxy) -> None:
    """Kill the primary, promote its standby, and let the address lead there."""
    await asyncio.to_thread(primary.kill)
    assert await query(standby, "SELECT pg_promote(wait_seconds => 20)")
    proxy.set_target(standby.port)
    proxy.reset_connections()


def restore(server: Server, backup: Path) -> None:
    """Restart Postgres with the data of a backup."""
    server.stop()
    shutil.rmtree(server.directory / "pg")
    shutil.copytree(backup, server.directory / "pg")
    chown_to_child_user(server.directory)
    server.restart()


async def query(server: Server, statement: str) -> object:
    """Return the first value of a statement's result."""
    connection = await asyncpg.connect(server.url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def has_one(server: Server, statement: str) -> bool:
    """Return whether a statement counts one row."""
    return await query(server, statement) == 1


async def count_past(server: Server, number: int) -> None:
    """Run transactions until their numbers have passed this one."""
    connection = await asyncpg.connect(server.url)
    try:
        while int(await connection.fetchval("SELECT pg_current_xact_id()::text")) <= number:
            pass
    finally:
        await connection.close()


async def read_next_number(server: Server) -> int:
    """Return the number of the next transaction."""
    statement = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
    return int(str(await query(server, statement)))


async def make_synchronous(primary: Server) -> None:
    """Let commits wait for the standby."""
    await query(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
    await query(primary, "SELECT pg_reload_conf()")

    async def is_synchronous() -> bool:
        return await query(primary, "SELECT sync_state FROM pg_stat_replication") == "sync"

    await wait_until_async(is_synchronous, within=15)


async def wait_until_replayed(standby: Server, session: Created) -> None:
    """Return when a standby has a session."""
    statement = f"SELECT count(*) FROM sessions WHERE id = '{session.session_id}'"

    await wait_until_async(lambda: has_one(standby, statement), within=15)


@pytest.mark.parametrize("passed", [False, True], ids=["", "counted-past"])
@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
async def test_changes_that_a_restore_lost_are_not_served_from_redis(
    running: bool,
    passed: bool,
    instances: StartInstance,
    own_postgres: Server,
    proxy: TcpProxy,
    workdir: Path,
    http: aiohttp.ClientSession,
) -> None:
    settings = {**READ_REDIS, **LONG_GRACE, **query_through(proxy)}
    client = Client(await asyncio.to_thread(instances, **settings), http)
    kept, rotated = [await client.create() for _ in range(2)]
    await asyncio.to_thread(back_up, own_postgres, workdir / "backup")
    created = await client.create()
    second = await client.refresh(rotated.token)
    await wait_until_served_from_redis(client, created.token)
    if running:
        disconnect(proxy)
    else:
        await client.stop()
    number = await read_next_number(own_postgres)
    await asyncio.to_thread(restore, own_postgres, workdir / "backup")
    if passed:
        await count_past(own_postgres, number)
    restored_at = time.monotonic()
    proxy.refuse_new = False
    if not running:
        await client.restart()
    lost = {"created": created.token, "rotated": second}
    await assert_refused([client], lost, since=restored_at)
    assert await client.check(kept.token) == 200


async def test_session_whose_revocation_a_restore_lost_stays_refused_by_running_instances(
    instances: StartInstance,
    own_redis: Server,
    own_postgres: Server,
    proxy: TcpProxy,
    workdir: Path,
    http: aiohttp.ClientSession,
) -> None:
    """They write back to the database what it has lost."""
    settings = {**FOR_A_BUSY_MACHINE, **query_through(proxy)}
    client = Client(await asyncio.to_thread(instances, **settings), http)
    kept, revoked = [await client.create() for _ in range(2)]
    await asyncio.to_thread(back_up, own_postgres, workdir / "backup")
    await client.revoke(revoked.session_id)
    await wait_until_quiet(own_redis)  # the instance has followed the database beyond it
    disconnect(proxy)
    await asyncio.to_thread(restore, own_postgres, workdir / "backup")
    restored_at = time.monotonic()
    proxy.refuse_new = False
    statement = f"SELECT count(revoked_at) FROM sessions WHERE id = '{revoked.session_id}'"
    await wait_until_async(lambda: has_one(own_postgres, statement), within=10)
    await assert_refused([client], {"revoked": revoked.token}, since=restored_at)
    assert await client.check(kept.token) == 200


async def test_promoted_synchronous_standby_keeps_all_sessions_and_a_warm_cache(
    instances: StartInstance, own_postgres: Server, proxy: TcpProxy, http: aiohttp.ClientSession
) -> None:
    settings = {**READ_REDIS, **LONG_GRACE, **query_through(proxy)}
    client = Client(await asyncio.to_thread(instances, **settings), http)
    with ExitStack() as stack:
        standby = await asyncio.to_thread(stack.enter_context, start_standby(own_postgres))
        await make_synchronous(own_postgres)
        cached = [await client.create(f"user-{number}") for number in range(_CACHED)]
        rotated, revoked = [await client.create() for _ in range(2)]
        second = await client.refresh(rotated.token)
        revoked_at = await client.revoke(revoked.session_id)
        await wait_until_served_from_redis(client, cached[0].token)
        assert [await client.check(session.token) for session in cached] == [200] * _CACHED
        await promote(standby, own_postgres, proxy=proxy)
        await wait_until_served_from_redis(client, cached[0].token)
        await assert_refused([client], {"revoked": revoked.token}, since=revoked_at)
        await client.create()
        disconnect(proxy)  # only Redis can answer
        for token in (second, *(session.token for session in cached)):
            assert await client.check(token) == 200


@pytest.mark.parametrize("passed", [False, True], ids=["", "counted-past"])
async def test_changes_that_a_promoted_standby_lacks_are_not_served_from_redis(
    passed: bool,
    instances: StartInstance,
    own_postgres: Server,
    proxy: TcpProxy,
    http: aiohttp.ClientSession,
) -> None:
    settings = {**READ_REDIS, **LONG_GRACE, **query_through(proxy)}
    client = Client(await asyncio.to_thread(instances, **settings), http)
    async with TcpProxy(own_postgres.port) as replication:
        with ExitStack() as stack:
            starting = start_standby(own_postgres, port=replication.port)
            standby = await asyncio.to_thread(stack.enter_context, starting)
            kept, rotated = [await client.create() for _ in range(2)]
            await wait_until_replayed(standby, kept)
            disconnect(replication)
            created = await client.create()
            second = await client.refresh(rotated.token)
            await wait_until_served_from_redis(client, created.token)
            number = await read_next_number(own_postgres)
            disconnect(proxy)
            await promote(standby, own_postgres, proxy=proxy)
            if passed:
                await count_past(standby, number)
            promoted_at = time.monotonic()
            proxy.refuse_new = False
            lost = {"created": created.token, "rotated": second}
            await assert_refused([client], lost, since=promoted_at)
            assert await client.check(kept.token) == 200
