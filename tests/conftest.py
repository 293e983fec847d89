"""Fixtures every test may use: real stores, shared, or a test's own where it hurts them."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import redis

from tests.support.processes import Server, temporary_directory
from tests.support.servers import copy_postgres, new_postgres_directory, start_postgres, start_redis

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path


@pytest.fixture
def workdir() -> Iterator[Path]:
    """A directory of the test's own that its demoted children can read and write."""
    with temporary_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """One Redis for the whole run: leave it alive. Use `own_redis` to hurt one."""
    with temporary_directory() as directory:
        server = start_redis(directory)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def postgres_template() -> Iterator[Path]:
    """A fresh cluster's files, made once by initdb; copied by those who need their own."""
    with temporary_directory() as directory:
        new_postgres_directory(directory / "pg")
        yield directory / "pg"


@pytest.fixture(scope="session")
def postgres_server(postgres_template: Path) -> Iterator[Server]:
    """One Postgres for the whole run: leave it alive. Use `own_postgres` to hurt one."""
    with temporary_directory() as directory:
        copy_postgres(postgres_template, directory)
        server = start_postgres(directory)
        yield server
        server.stop()


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """The shared Redis, empty."""
    with redis.Redis(port=redis_server.port) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def database_url(postgres_server: Server) -> Iterator[str]:
    """A new, empty database in the shared Postgres, dropped afterwards whoever is still in it."""
    name = f"test_{secrets.token_hex(8)}"
    # file_copy: on a server that syncs nothing it is twice as quick as the default
    create = f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy"
    _run(_execute(postgres_server.url, create))
    yield postgres_server.url.rpartition("/")[0] + f"/{name}"
    _run(_execute(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def own_redis() -> Iterator[Server]:
    """A Redis of the test's own, to kill, pause and restart. It keeps nothing on disk."""
    with temporary_directory() as directory:
        server = start_redis(directory)
        yield server
        server.stop()


@pytest.fixture
def own_postgres(postgres_template: Path) -> Iterator[Server]:
    """A Postgres of the test's own, to kill, pause and restart."""
    with temporary_directory() as directory:
        copy_postgres(postgres_template, directory)
        server = start_postgres(directory)
        yield server
        server.stop()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it on a loop of its own, in a thread of its own: the test's loop is not disturbed."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, coroutine).result()
