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
_MAX_CONNECTIONS: Final = 100


@dataclass(frozen=True)
class Deployment:
    """Everything faults are injected into. Instances reach the stores only through the proxies."""

    redis: Server
    postgres: Server
    redis_proxy: TcpProxy
    postgres_proxy: TcpProxy
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
                directory, extra_settings=[f"max_connections={_MAX_CONNECTIONS}"]
            ),
            lambda server: server,
        )
        await migrate_postgres(postgres.url)
        redis_proxy = await stack.enter_async_context(TcpProxy(redis.port))
        postgres_proxy = await stack.enter_async_context(TcpProxy(postgres.port))
        key, admin_key = TokenKey.generate(), f"sgk_{secrets.token_urlsafe(32)}"
        settings = _settings(key, admin_key, redis_proxy, postgres_proxy)
        if broken_build is not None:
            settings["RIG_BROKEN_BUILD"] = broken_build

        def start_instance(directory: Path) -> Sidegate:
            return start_sidegate(
                directory,
                admin_key=admin_key,
                wait_until_ready=True,
                module="tests.faults.launcher",
                RIG_COMMANDS=str(directory / "commands"),
                **settings,
            )

        instances = [
            await start_server(start_instance, lambda sidegate: sidegate.server) for _ in range(2)
        ]
        yield Deployment(
            redis,
            postgres,
            redis_proxy,
            postgres_proxy,
            (instances[0], instances[1]),
            KeyRing([key]),
            admin_key,
        )


def _settings(key: TokenKey, admin_key: str, redis: TcpProxy, postgres: TcpProxy) -> dict[str, str]:
    """Return the settings that differ from the defaults."""
    hashed = {
        "name": "rig",
        "sha256": sha256(admin_key.encode()).hexdigest(),
        "scopes": ["read", "write", "revoke"],
    }
    return {
        "SIDEGATE_REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
        "SIDEGATE_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres",
        "SIDEGATE_TOKEN__KEYS": key.format(),
        "SIDEGATE_ADMIN__KEYS": json.dumps([hashed]),
        "SIDEGATE_SESSIONS__WEB__GRACE": f"{Rules().grace:g}s",  # the default is 10 s
        "SIDEGATE_SESSIONS__MOBILE__LIMIT": str(LIMIT),
        "SIDEGATE_DRAIN__DELAY": "1s",  # the rig's gateway checks readiness four times a second
    }


async def send_commands(start_instance: Sidegate, **commands: float) -> None:
    """Send commands (launcher.py) to an instance, and return when it has read them."""
    path = await _write_commands(start_instance, commands)
    start_instance.server.process.send_signal(signal.SIGUSR1)
    await wait_until(lambda: not path.exists())


async def start_with_commands(start_instance: Sidegate, **commands: float) -> None:
    """Start a stopped instance with commands that apply before it serves."""
    await _write_commands(start_instance, commands)
    await asyncio.to_thread(start_instance.server.child.start)


async def _write_commands(start_instance: Sidegate, commands: dict[str, float]) -> Path:
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
