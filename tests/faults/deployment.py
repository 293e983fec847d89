"""Redis, Postgres and two instances, each a process, and a wire to each store."""

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
from tests.stores.sql.wire import Wire
from tests.stores.waiting import until
from tests.support.processes import Server, temporary_directory
from tests.support.servers import start_postgres, start_redis
from tests.support.sidegate import Sidegate, start_sidegate

_T = TypeVar("_T")

# Small enough to be used up by a hundred idle clients.
_MAX_CONNECTIONS: Final = 100


@dataclass(frozen=True)
class Deployment:
    """All of it is there to be hurt. The instances reach the stores through the wires only."""

    redis: Server
    postgres: Server
    redis_wire: Wire
    postgres_wire: Wire
    instances: tuple[Sidegate, Sidegate]
    ring: KeyRing
    admin_key: str

    @property
    def servers(self) -> tuple[Server, ...]:
        return self.redis, self.postgres, *(instance.server for instance in self.instances)

    def environment(self) -> Mapping[str, str]:
        """Return the settings of the instances, for the command line."""
        return self.instances[0].server.child.environment


@asynccontextmanager
async def deployed(*, broken: str | None = None) -> AsyncIterator[Deployment]:
    """Start everything, and stop it in the end. `broken` names a build of broken.py."""
    async with AsyncExitStack() as stack:

        async def started(start: Callable[[Path], _T], stop: Callable[[_T], Server]) -> _T:
            directory = stack.enter_context(temporary_directory())
            made = await asyncio.to_thread(start, directory)
            stack.push_async_callback(asyncio.to_thread, stop(made).stop)
            return made

        redis = await started(start_redis, lambda server: server)
        postgres = await started(
            lambda directory: start_postgres(
                directory, extra_settings=[f"max_connections={_MAX_CONNECTIONS}"]
            ),
            lambda server: server,
        )
        await migrate_postgres(postgres.url)
        redis_wire = await stack.enter_async_context(Wire(redis.port))
        postgres_wire = await stack.enter_async_context(Wire(postgres.port))
        key, admin_key = TokenKey.generate(), f"sgk_{secrets.token_urlsafe(32)}"
        settings = _settings(key, admin_key, redis_wire, postgres_wire)
        if broken is not None:
            settings["RIG_BROKEN"] = broken

        def instance(directory: Path) -> Sidegate:
            return start_sidegate(
                directory,
                admin_key=admin_key,
                wait=True,
                module="tests.faults.launcher",
                RIG_ORDERS=str(directory / "orders"),
                **settings,
            )

        both = [await started(instance, lambda sidegate: sidegate.server) for _ in range(2)]
        yield Deployment(
            redis,
            postgres,
            redis_wire,
            postgres_wire,
            (both[0], both[1]),
            KeyRing([key]),
            admin_key,
        )


def _settings(key: TokenKey, admin_key: str, redis: Wire, postgres: Wire) -> dict[str, str]:
    """Return what differs from the defaults, and why: nothing else may."""
    hashed = {
        "name": "rig",
        "sha256": sha256(admin_key.encode()).hexdigest(),
        "scopes": ["read", "write", "revoke"],
    }
    return {
        "SIDEGATE_REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
        "SIDEGATE_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres",
        "SIDEGATE_TOKEN__KEYS": key.formatted(),
        "SIDEGATE_ADMIN__KEYS": json.dumps([hashed]),
        "SIDEGATE_SESSIONS__WEB__GRACE": f"{Rules().grace:g}s",  # 10 s would take too long to watch
        "SIDEGATE_SESSIONS__MOBILE__LIMIT": str(LIMIT),
        "SIDEGATE_DRAIN__DELAY": "1s",  # the rig's gateway looks four times a second
    }


async def order(instance: Sidegate, **orders: float) -> None:
    """Give an instance orders (launcher.py), and return when it has read them."""
    path = await _written(instance, orders)
    instance.server.process.send_signal(signal.SIGUSR1)
    await until(lambda: not path.exists())


async def start_with(instance: Sidegate, **orders: float) -> None:
    """Start an instance that has ended, with orders to obey from the beginning."""
    await _written(instance, orders)
    await asyncio.to_thread(instance.server.child.start)


async def _written(instance: Sidegate, orders: dict[str, float]) -> Path:
    path = Path(instance.server.child.environment["RIG_ORDERS"])
    await asyncio.to_thread(path.write_text, json.dumps(orders), "ascii")
    return path


@asynccontextmanager
async def superuser(postgres: Server) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """A connection past the wire."""
    connection = await asyncpg.connect(postgres.url, timeout=20)
    try:
        yield connection
    finally:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await connection.close(timeout=5)
