"""Fixtures for all tests: real stores, shared, or owned by a test that stops or damages them."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import pytest
import redis
from coverage import Coverage

from sidegate.observability import logs
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.support.processes import Server, temporary_directory
from tests.support.servers import (
    copy_postgres,
    create_postgres_directory,
    start_postgres,
    start_redis,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator, Iterator
    from pathlib import Path


# Settings of the developer's shell. No test has settings but its own.
for _name in [name for name in os.environ if name.startswith("SIDEGATE_")]:
    del os.environ[_name]

# The tests of the fault rig, the simulation and the benchmark, which are programs of their own.
_RIGS: Final = ("tests/faults/", "tests/simulation/", "tests/bench/")


# Tests of programs that run beside this process, and long computations. To measure this process
# takes as long again, and finds no line that the tests of its part do not reach.
_UNMEASURED: Final = (
    *_RIGS,
    "tests/core/test_token.py::test_million_tokens_are_distinct",
    "tests/deploy/",
    "tests/gateways/",
    "tests/model/",
    "tests/scenarios/",
    "tests/stores/sql/test_tcp_proxy.py",
    "tests/stores/test_memory_size.py",
    "tests/support/",
    "tests/test_",
)

# None: coverage is not measured at all.
_coverage: Final = Coverage.current()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Pause the measurement of coverage during the tests in `_UNMEASURED`."""
    if _coverage is None or not item.nodeid.startswith(_UNMEASURED):
        return (yield)
    _coverage.stop()
    try:
        return (yield)
    finally:
        with warnings.catch_warnings(action="ignore"):  # the modules have been imported before
            _coverage.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in captured logs: reports cross processes as UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode("utf-8"))
        for name, text in report.sections
    ]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report the product's tests and those of the rigs apart."""
    stats = terminalreporter.stats
    counts = Counter(
        ("rigs" if report.nodeid.startswith(_RIGS) else "product", outcome)
        for outcome in ("passed", "failed", "error", "skipped")
        for report in stats.get(outcome, [])
    )
    terminalreporter.section("product and rigs")
    for part in ("product", "rigs"):
        parts = [f"{count} {outcome}" for (name, outcome), count in counts.items() if name == part]
        terminalreporter.line(f"{part}: {', '.join(parts) or 'no tests'}")


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Undo what a test does to the process's logging: a reload of the settings configures it."""
    root, sidegate = logging.getLogger(), logging.getLogger("sidegate")
    level, show = root.level, warnings.showwarning
    yield
    if warnings.showwarning is show and sidegate.level == logging.NOTSET:
        return
    root.handlers[:] = [h for h in root.handlers if type(h).__module__ != logs.__name__]
    root.setLevel(level)
    sidegate.setLevel(logging.NOTSET)
    logging.captureWarnings(capture=False)
    warnings.showwarning = show


@pytest.fixture
def workdir() -> Iterator[Path]:
    """A directory for one test, which unprivileged child processes can read and write."""
    with temporary_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """One Redis for the whole run: do not stop it. `own_redis` is for that."""
    with temporary_directory() as directory:
        server = start_redis(directory)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def postgres_template() -> Iterator[Path]:
    """The files of a new cluster, created once by initdb; each own Postgres starts from a copy."""
    with temporary_directory() as directory:
        create_postgres_directory(directory / "pg")
        yield directory / "pg"


@pytest.fixture(scope="session")
def postgres_server(postgres_template: Path) -> Iterator[Server]:
    """One Postgres for the whole run: do not stop it. `own_postgres` is for that."""
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


@pytest.fixture(scope="session")
def migrated_database(postgres_server: Server) -> str:
    """The name of a database in the shared Postgres with the newest schema, to copy."""
    name = "migrated"
    url = _create_database(postgres_server, name, template="template0")
    _run(migrate_postgres(url))
    return name


@pytest.fixture
def database_url(postgres_server: Server, migrated_database: str) -> Iterator[str]:
    """A new database in the shared Postgres with the newest schema, dropped afterwards."""
    with _temporary_database(postgres_server, template=migrated_database) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_server: Server) -> Iterator[str]:
    """A new database in the shared Postgres without any schema, dropped afterwards."""
    with _temporary_database(postgres_server, template="template0") as url:
        yield url


@contextmanager
def _temporary_database(server: Server, *, template: str) -> Iterator[str]:
    """Create a database for the block, and drop it afterwards, connections or not."""
    name = f"test_{secrets.token_hex(8)}"
    yield _create_database(server, name, template=template)
    _run(_execute(server.url, f"DROP DATABASE {name} WITH (FORCE)"))


def _create_database(server: Server, name: str, *, template: str) -> str:
    """Create a database, and return its URL."""
    # file_copy: on a server that syncs nothing it is twice as quick as the default
    create = f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"
    _run(_execute(server.url, create))
    return server.url.rpartition("/")[0] + f"/{name}"


@pytest.fixture
def own_redis() -> Iterator[Server]:
    """A Redis for one test, to kill, pause and restart. It keeps nothing on disk."""
    with temporary_directory() as directory:
        server = start_redis(directory)
        yield server
        server.stop()


@pytest.fixture
def own_postgres(postgres_template: Path) -> Iterator[Server]:
    """A Postgres for one test, to kill, pause and restart."""
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


def _run(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run it on a loop of its own, in a thread of its own: the test's loop is not disturbed."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, coroutine).result()
