"""Bringing databases up to date."""

import asyncio
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from sidegate.core.errors import SchemaMismatch, StoreUnavailable
from sidegate.stores.postgres.migrate import migrate_postgres, pending_postgres
from sidegate.stores.sql import migrations
from sidegate.stores.sql.migrations import Dialect, Migration, known, pending
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.support.processes import free_port

ALL = [migration.name for migration in known("postgres")]

With = Callable[..., None]


@pytest.fixture
def with_migrations(monkeypatch: pytest.MonkeyPatch) -> With:
    """Let the program know these files as well."""

    def know(*more: Migration) -> None:
        by_dialect = {"postgres": known("postgres"), "sqlite": known("sqlite")}
        monkeypatch.setattr(migrations, "known", lambda dialect: by_dialect[dialect] + [*more])

    return know


async def query(url: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("dialect", ["postgres", "sqlite"])
def test_migrations_are_numbered_without_gaps(dialect: Dialect) -> None:
    numbers = [re.match(r"(\d{4})_[a-z_]+$", migration.name) for migration in known(dialect)]
    assert [int(number[1]) for number in numbers if number] == [*range(1, len(numbers) + 1)]
    assert numbers


def test_both_databases_take_the_same_steps() -> None:
    assert [m.name for m in known("postgres")] == [m.name for m in known("sqlite")]


def test_what_is_lacking_comes_in_order() -> None:
    assert [m.name for m in pending("postgres", [])] == ALL
    assert pending("postgres", ALL) == []


def test_what_the_program_does_not_know_is_newer() -> None:
    with pytest.raises(SchemaMismatch, match=r"0999_x.*run a newer one"):
        pending("postgres", [*ALL, "0999_x"])


async def test_a_new_database_gets_everything_once(database_url: str) -> None:
    assert await pending_postgres(database_url) == ALL
    assert await migrate_postgres(database_url) == ALL
    assert await pending_postgres(database_url) == []
    assert await migrate_postgres(database_url) == []


async def test_to_ask_what_is_pending_changes_nothing(database_url: str) -> None:
    await pending_postgres(database_url)
    assert await query(database_url, "SELECT FROM pg_tables WHERE tablename ~ 'sidegate'") == []


async def test_of_many_who_migrate_at_once_one_does_each(database_url: str) -> None:
    done = await asyncio.gather(*(migrate_postgres(database_url) for _ in range(6)))
    assert sorted(name for names in done for name in names) == ALL


async def test_a_newer_database_is_not_touched(database_url: str) -> None:
    await migrate_postgres(database_url)
    await query(database_url, "INSERT INTO sidegate_migrations VALUES ('9999_future')")
    with pytest.raises(SchemaMismatch, match="9999_future"):
        await migrate_postgres(database_url)
    with pytest.raises(SchemaMismatch, match="9999_future"):
        await pending_postgres(database_url)


async def test_a_file_is_applied_whole_or_not_at_all(
    database_url: str, with_migrations: With
) -> None:
    with_migrations(
        Migration("0900_good", "CREATE TABLE good ()"),
        Migration("0901_bad", "CREATE TABLE half (); SELECT 1 / 0"),
    )
    with pytest.raises(ValueError, match="DivisionByZero"):
        await migrate_postgres(database_url)
    assert await pending_postgres(database_url) == ["0901_bad"]
    assert await query(database_url, "SELECT FROM pg_tables WHERE tablename = 'half'") == []


async def test_a_database_that_does_not_answer_is_an_outage() -> None:
    url = f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await migrate_postgres(url)


async def test_an_older_sqlite_file_is_brought_up_to_date_when_opened(
    tmp_path: Path, with_migrations: With
) -> None:
    path = tmp_path / "sidegate.db"
    await (await SqliteSessions.open(path)).close()
    with_migrations(Migration("0900_more", "-- why\nCREATE TABLE more (a);\nDROP TABLE more;\n"))
    await (await SqliteSessions.open(path)).close()
    assert names_in(path) == [*ALL, "0900_more"]


async def test_a_sqlite_file_is_changed_whole_or_not_at_all(
    tmp_path: Path, with_migrations: With
) -> None:
    path = tmp_path / "sidegate.db"
    await (await SqliteSessions.open(path)).close()
    with_migrations(Migration("0900_bad", "CREATE TABLE half (a);\nSELEKT;\n"))
    with pytest.raises(sqlite3.OperationalError):
        await SqliteSessions.open(path)
    assert names_in(path) == ALL
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE name = 'half'")
        assert tables.fetchall() == []


def names_in(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name FROM sidegate_migrations ORDER BY name")
        return [name for (name,) in rows]
