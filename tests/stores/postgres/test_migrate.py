"""Migrations of both databases."""

import asyncio
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from sidegate.core.errors import SchemaMismatch, StoreUnavailable
from sidegate.stores.postgres.migrate import list_pending_postgres, migrate_postgres
from sidegate.stores.sql import migrations
from sidegate.stores.sql.migrations import Dialect, Migration, list_pending, load_migrations
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.support.processes import find_free_port

ALL = [migration.name for migration in load_migrations("postgres")]

AddMigrations = Callable[..., None]


@pytest.fixture
def add_migrations(monkeypatch: pytest.MonkeyPatch) -> AddMigrations:
    """Add migrations to those of the program."""

    def add(*more: Migration) -> None:
        by_dialect = {"postgres": load_migrations("postgres"), "sqlite": load_migrations("sqlite")}
        monkeypatch.setattr(
            migrations, "load_migrations", lambda dialect: by_dialect[dialect] + [*more]
        )

    return add


async def run_query(url: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("dialect", ["postgres", "sqlite"])
def test_migrations_are_numbered_without_gaps(dialect: Dialect) -> None:
    numbers = [
        re.match(r"(\d{4})_[a-z_]+$", migration.name) for migration in load_migrations(dialect)
    ]
    assert [int(number[1]) for number in numbers if number] == [*range(1, len(numbers) + 1)]
    assert numbers


def test_both_databases_have_the_same_migrations() -> None:
    assert [m.name for m in load_migrations("postgres")] == [
        m.name for m in load_migrations("sqlite")
    ]


def test_pending_migrations_are_ordered() -> None:
    assert [m.name for m in list_pending("postgres", [])] == ALL
    assert list_pending("postgres", ALL) == []


def test_unknown_migration_means_a_newer_database() -> None:
    with pytest.raises(SchemaMismatch, match=r"0999_x.*run a newer sidegate"):
        list_pending("postgres", [*ALL, "0999_x"])


async def test_empty_database_gets_each_migration_once(empty_database_url: str) -> None:
    assert await list_pending_postgres(empty_database_url) == ALL
    assert await migrate_postgres(empty_database_url) == ALL
    assert await list_pending_postgres(empty_database_url) == []
    assert await migrate_postgres(empty_database_url) == []


async def test_listing_pending_migrations_changes_nothing(empty_database_url: str) -> None:
    await list_pending_postgres(empty_database_url)
    assert (
        await run_query(empty_database_url, "SELECT FROM pg_tables WHERE tablename ~ 'sidegate'")
        == []
    )


async def test_concurrent_migrations_apply_each_file_once(empty_database_url: str) -> None:
    applied = await asyncio.gather(*(migrate_postgres(empty_database_url) for _ in range(6)))
    assert sorted(name for names in applied for name in names) == ALL


async def test_newer_database_is_refused(empty_database_url: str) -> None:
    await migrate_postgres(empty_database_url)
    await run_query(empty_database_url, "INSERT INTO sidegate_migrations VALUES ('9999_future')")
    with pytest.raises(SchemaMismatch, match="9999_future"):
        await migrate_postgres(empty_database_url)
    with pytest.raises(SchemaMismatch, match="9999_future"):
        await list_pending_postgres(empty_database_url)


async def test_failing_migration_is_rolled_back(
    empty_database_url: str, add_migrations: AddMigrations
) -> None:
    add_migrations(
        Migration("0900_good", "CREATE TABLE good ()"),
        Migration("0901_bad", "CREATE TABLE half (); SELECT 1 / 0"),
    )
    with pytest.raises(ValueError, match="DivisionByZero"):
        await migrate_postgres(empty_database_url)
    assert await list_pending_postgres(empty_database_url) == ["0901_bad"]
    assert (
        await run_query(empty_database_url, "SELECT FROM pg_tables WHERE tablename = 'half'") == []
    )


async def test_unreachable_database_is_an_outage() -> None:
    url = f"postgresql://postgres@127.0.0.1:{find_free_port()}/postgres"
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await migrate_postgres(url)


async def test_older_sqlite_file_is_migrated_when_opened(
    tmp_path: Path, add_migrations: AddMigrations
) -> None:
    path = tmp_path / "sidegate.db"
    await (await SqliteSessions.open(path)).close()
    add_migrations(Migration("0900_more", "-- why\nCREATE TABLE more (a);\nDROP TABLE more;\n"))
    await (await SqliteSessions.open(path)).close()
    assert read_applied(path) == [*ALL, "0900_more"]


async def test_failing_sqlite_migration_is_rolled_back(
    tmp_path: Path, add_migrations: AddMigrations
) -> None:
    path = tmp_path / "sidegate.db"
    await (await SqliteSessions.open(path)).close()
    add_migrations(Migration("0900_bad", "CREATE TABLE half (a);\nSELEKT;\n"))
    with pytest.raises(sqlite3.OperationalError):
        await SqliteSessions.open(path)
    assert read_applied(path) == ALL
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE name = 'half'")
        assert tables.fetchall() == []


def read_applied(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name FROM sidegate_migrations ORDER BY name")
        return [name for (name,) in rows]
