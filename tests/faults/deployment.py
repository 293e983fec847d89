"""Redis, Postgres and two instances as processes, with a TCP proxy in front of each store."""

import asyncio
import json
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar

import asyncpg

from sidegate.core.token import KeyRing, TokenKey
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.faults.load import LIMIT
from tests.faults.rules import Rules
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import wait_until
from tests.support.processes import Server, temporary_directory
from tests.support.servers import start_postgres, start_redis
from tests.support.sidegate import Sidegate, start_sidegate

_T = TypeVar("_T")

# Small enough to be exhausted by a hundred idle clients.
MAX_CONNECTIONS: Final = 100


@dataclass(frozen=True)
class Deployment:
    """Everything faults are injected into. Instances reach the stores only through the proxies.

    The first instance reaches `redis_proxy` and `postgres_proxy` through two more proxies, which
    are its own: `target_redis_proxy` and `target_postgres_proxy`.
    """

    redis: Server
    postgres: Server
    redis_proxy: TcpProxy
    postgres_proxy: TcpProxy
    target_redis_proxy: TcpProxy
    target_postgres_proxy: TcpProxy
    instances: tuple[Sidegate, Sidegate]
    ring: KeyRing
    admin_key: str

    @property
    def servers(self) -> tuple[Server, ...]:
        return (
            self.redis,
            self.postgres,
            *(instance.server for instance in self.instances),
        )

    def environment(self) -> Mapping[str, str]:
        """Return the environment of the instances, for `sidegate` commands."""
        return self.instances[0].server.child.environment


@asynccontextmanager
async def start_deployment(*, broken_build: str | None = None) -> AsyncIterator[Deployment]:
    """Start everything, and stop it on exit. `broken_build` names a build of broken_builds.py."""
    async with AsyncExitStack() as stack:

        async def start_server(start: Callable[[Path], _T], stop: Callable[[_T], Server]) -> _T:
            directory = stack.enter_context(temporary_directory())
            server = await asyncio.to_thread(start, directory)
            stack.push_async_callback(asyncio.to_thread, stop(server).stop)
            return server

        redis = await start_server(start_redis, lambda server: server)
        postgres = await start_server(
            lambda directory: start_postgres(
                directory, extra_settings=[f"max_connections={MAX_CONNECTIONS}"]
            ),
            lambda server: server,
        )
        await migrate_postgres(postgres.url)
        redis_proxy = await stack.enter_async_context(TcpProxy(redis.port))
        postgres_proxy = await stack.enter_async_context(TcpProxy(postgres.port))
        target_redis_proxy = await stack.enter_async_context(TcpProxy(redis_proxy.port))
        target_postgres_proxy = await stack.enter_async_context(TcpProxy(postgres_proxy.port))
        key, admin_key = TokenKey.generate(), f"sgk_{secrets.token_urlsafe(32)}"
        settings = _settings(key, admin_key)
        if broken_build is not None:
            settings["RIG_BROKEN_BUILD"] = broken_build

        async def start_instance(redis: TcpProxy, postgres: TcpProxy) -> Sidegate:
            def start(directory: Path) -> Sidegate:
                return start_sidegate(
                    directory,
                    admin_key=admin_key,
                    wait_until_ready=True,
                    module="tests.faults.launcher",
                    RIG_COMMANDS=str(directory / "commands"),
                    **settings,
                    **_store_urls(redis, postgres),
                )

            return await start_server(start, lambda sidegate: sidegate.server)

        one = await start_instance(target_redis_proxy, target_postgres_proxy)
        other = await start_instance(redis_proxy, postgres_proxy)
        yield Deployment(
            redis,
            postgres,
            redis_proxy,
            postgres_proxy,
            target_redis_proxy,
            target_postgres_proxy,
            (one, other),
            KeyRing([key]),
            admin_key,
        )


def _store_urls(redis: TcpProxy, postgres: TcpProxy) -> dict[str, str]:
    return {
        "SIDEGATE_REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
        "SIDEGATE_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres",
    }


def _settings(key: TokenKey, admin_key: str) -> dict[str, str]:
    """Return the settings that differ from the defaults, and are the same for both instances."""
    hashed = {
        "name": "rig",
        "sha256": sha256(admin_key.encode()).hexdigest(),
        "scopes": ["read", "write", "revoke"],
    }
    return {
        "SIDEGATE_TOKEN__KEYS": key.format(),
        "SIDEGATE_ADMIN__KEYS": json.dumps([hashed]),
        "SIDEGATE_SESSIONS__WEB__GRACE": f"{Rules().grace:g}s",  # the default is 10 s
        "SIDEGATE_SESSIONS__MOBILE__LIMIT": str(LIMIT),
        "SIDEGATE_SESSIONS__MOBILE__GRACE": f"{Rules().long_grace:g}s",
        "SIDEGATE_SESSIONS__MOBILE__TOUCH_THRESHOLD": "1s",
        # Sessions of type api are idle soon, and their activity is written seldom.
        "SIDEGATE_SESSIONS__API__GRACE": f"{Rules().grace:g}s",
        "SIDEGATE_SESSIONS__API__IDLE_TIMEOUT": "12s",
        "SIDEGATE_SESSIONS__API__TOUCH_THRESHOLD": "4s",
        "SIDEGATE_DRAIN__DELAY": "1s",  # the rig's gateway checks readiness four times a second
    }


async def send_commands(start_instance: Sidegate, **commands: float | str) -> None:
    """Send commands (launcher.py) to an instance, and return when it has read them."""
    path = await _write_commands(start_instance, commands)
    start_instance.server.process.send_signal(signal.SIGUSR1)
    await wait_until(lambda: not path.exists())


@asynccontextmanager
async def watch_event_loop(instance: Sidegate) -> AsyncIterator[Callable[[], float]]:
    """Measure during the block; yield a function that then returns the longest blocked time."""
    path = Path(instance.server.child.environment["RIG_COMMANDS"]).with_suffix(".blocked")
    path.unlink(missing_ok=True)
    await send_commands(instance, watch=1)
    try:
        yield lambda: float(path.read_text("ascii"))
    finally:
        await send_commands(instance, watch=0)
        await wait_until(path.exists)


async def start_with_commands(start_instance: Sidegate, **commands: float | str) -> None:
    """Start a stopped instance with commands that apply before it serves."""
    await _write_commands(start_instance, commands)
    await asyncio.to_thread(start_instance.server.child.start)


async def _write_commands(start_instance: Sidegate, commands: dict[str, float | str]) -> Path:
    path = Path(start_instance.server.child.environment["RIG_COMMANDS"])
    await asyncio.to_thread(path.write_text, json.dumps(commands), "ascii")
    return path


@asynccontextmanager
async def connect_as_superuser(
    postgres: Server,
) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """Connect directly, not through the proxy."""
    connection = await asyncpg.connect(postgres.url, timeout=20)
    try:
        yield connection
    finally:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await connection.close(timeout=5)
