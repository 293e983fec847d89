"""What is true of the SQLite store only; its promises are in tests/contracts."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from sidegate.core.condition import Condition
from sidegate.core.errors import SchemaMismatch, SessionExists, StoreUnavailable, UnreadableRecord
from sidegate.stores.sqlite.connection import OUTAGES, meaning
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import TESTER, a_digest, a_record, a_session
from tests.support.clock import NOON

REPOSITORY = Path(__file__).parents[3]
BRIEFLY = timedelta(milliseconds=20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "side gate #1?.db"  # a name that would be misread in a URI


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteSessions]:
    store = await SqliteSessions.open(path, busy_timeout=BRIEFLY)
    yield store
    await store.close()


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Return a connection of the test's own."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def in_another_process(code: str, *arguments: str | Path) -> str:
    """Run Python there and return what it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=REPOSITORY
    ).stdout


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def delete(path: Path) -> None:
    path.unlink()


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


# --- The file


async def test_the_file_and_its_log_are_for_their_owner_only(
    store: SqliteSessions, path: Path
) -> None:
    await store.create(a_record())
    files = list(path.parent.glob(f"{path.name}*"))
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_a_change_is_on_the_disk_before_it_is_acknowledged(
    store: SqliteSessions, path: Path
) -> None:
    await store.create(a_record())
    with raw(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    [row] = await store._database.change("PRAGMA synchronous", {})  # noqa: SLF001  # of this connection
    assert row["synchronous"] == 2  # FULL


async def test_sessions_outlive_the_process(path: Path) -> None:
    session = a_session()
    store = await SqliteSessions.open(path)
    await store.create(a_record(session))
    await store.close()
    assert not path.with_name(f"{path.name}-wal").exists()
    store = await SqliteSessions.open(path)
    assert await store.find(session.digest) == session
    await store.close()


async def test_what_was_acknowledged_outlives_a_process_that_is_killed(path: Path) -> None:
    digest = in_another_process(CREATE_AND_DIE, path)
    store = await SqliteSessions.open(path)
    assert await store.find(type(a_digest())(bytes.fromhex(digest))) is not None
    await store.close()


CREATE_AND_DIE = """
import asyncio, os, pathlib, sys
from sidegate.stores.sqlite.sessions import SqliteStore
from tests.contracts.values import a_record

async def main():
    store = await SqliteStore.open(pathlib.Path(sys.argv[1]))
    record = a_record()
    await store.create(record)
    print(record.session.digest.hex(), end="", flush=True)
    os._exit(0)  # neither closes nor flushes

asyncio.run(main())
"""


async def test_a_place_where_no_file_can_be_is_an_outage() -> None:
    with pytest.raises(StoreUnavailable, match="cannot be created"):
        await SqliteSessions.open(Path("/dev/null/sidegate.db"))


async def test_a_file_that_is_no_database_is_an_outage_and_left_alone(path: Path) -> None:
    diary = b"my diary " * 1000
    overwrite(path, diary)
    with pytest.raises(StoreUnavailable, match="no database"):
        await SqliteSessions.open(path)
    assert content_of(path) == diary


async def test_a_newer_file_is_refused(store: SqliteSessions, path: Path) -> None:
    with raw(path) as connection:
        connection.execute("INSERT INTO sidegate_migrations VALUES ('9999_future')")
    with pytest.raises(SchemaMismatch, match="9999_future"):
        await SqliteSessions.open(path)
    await store.ping()  # what runs goes on


async def test_many_open_a_new_file_at_once(path: Path) -> None:
    stores = await asyncio.gather(*(SqliteSessions.open(path) for _ in range(8)))
    await asyncio.gather(*(store.create(a_record()) for store in stores))
    assert len(await stores[0].list_where(Condition("ada"), limit=10)) == 8
    for store in stores:
        await store.close()


# --- Other processes


async def test_what_another_process_revokes_is_noticed(store: SqliteSessions, path: Path) -> None:
    session = a_session()
    await store.create(a_record(session))
    mark, _ = await store.changed_since(0)
    in_another_process(REVOKE, path)
    _, changed = await store.changed_since(mark)
    assert changed == [session.revoked(NOON)]


REVOKE = """
import asyncio, pathlib, sys
from sidegate.core.condition import Condition
from sidegate.stores.sqlite.sessions import SqliteStore
from tests.support.clock import NOON
from tests.contracts.values import TESTER

async def main():
    store = await SqliteStore.open(pathlib.Path(sys.argv[1]))
    await store.revoke_where(Condition("ada"), at=NOON, by=TESTER, reason="test", limit=9)
    await store.close()

asyncio.run(main())
"""


async def test_a_change_that_has_to_wait_too_long_is_an_outage_but_look_ups_go_on(
    store: SqliteSessions, path: Path
) -> None:
    session = a_session()
    await store.create(a_record(session))
    with raw(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.create(a_record())
        assert await store.find(session.digest) == session
        connection.execute("COMMIT")
    await store.create(a_record())


async def test_a_file_overwritten_with_garbage_is_an_outage_until_it_is_whole_again(
    store: SqliteSessions, path: Path
) -> None:
    session = a_session()
    await store.create(a_record(session))
    whole = in_another_process(OVERWRITE_WITH_GARBAGE, path)
    for call in (store.find(session.digest), store.create(a_record())):
        with pytest.raises(StoreUnavailable, match="no database"):
            await call
    overwrite(path, bytes.fromhex(whole))
    assert await store.find(session.digest) == session
    await store.create(a_record())


# Elsewhere: closing the file in this process would drop the locks which SQLite holds on it here.
OVERWRITE_WITH_GARBAGE = """
import pathlib, sqlite3, sys

path = pathlib.Path(sys.argv[1])
connection = sqlite3.connect(path)
connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
whole = path.read_bytes()
for name, filling in ((path.name, b"garbage!"), (f"{path.name}-shm", bytes(8))):
    with path.with_name(name).open("r+b") as file:
        file.write(filling * (path.with_name(name).stat().st_size // 8))
print(whole.hex(), end="")
"""


async def test_a_file_that_was_deleted_is_an_outage_and_no_reason_to_begin_anew(
    store: SqliteSessions, path: Path
) -> None:
    await store.create(a_record())
    delete(path)
    for call in (store.find(a_digest()), store.create(a_record())):
        with pytest.raises(StoreUnavailable, match="cannot be opened"):
            await call
    assert content_of(path) is None


# --- News


async def test_news_survive_the_loss_of_the_newest_rows(store: SqliteSessions, path: Path) -> None:
    first, second = a_session(), a_session()
    for session in (first, second):
        await store.create(a_record(session))
    await store.replace(a_record(first.revoked(NOON)), expected=1)
    mark, _ = await store.changed_since(0)
    with raw(path) as connection:
        connection.execute("DELETE FROM sessions WHERE id = ?", (first.id,))
    await store.replace(a_record(second.revoked(NOON)), expected=1)
    assert [s.id for s in (await store.changed_since(mark))[1]] == [second.id]


async def test_a_revocation_by_hand_is_news_too(store: SqliteSessions, path: Path) -> None:
    session = a_session()
    await store.create(a_record(session))
    mark, _ = await store.changed_since(0)
    with raw(path) as connection:
        connection.execute("UPDATE sessions SET revoked_at = 1, version = version + 1")
    assert [s.id for s in (await store.changed_since(mark))[1]] == [session.id]


# --- Errors


@pytest.mark.parametrize(("code", "why"), OUTAGES.items())
def test_every_reason_for_an_outage_is_told_as_one(code: int, why: str) -> None:
    for extended in (code, code | (3 << 8)):
        error = sqlite3.OperationalError("/secret/path.db")
        error.sqlite_errorcode = extended
        told = meaning(error)
        assert isinstance(told, StoreUnavailable)
        assert (told.store, told.why) == ("sqlite", why)


@pytest.mark.parametrize(
    ("statement", "means"),
    [
        ("SELECT * FROM nowhere", StoreUnavailable),
        ("SELECT CAST(x'ff' AS TEXT)", UnreadableRecord),
        ("SELEKT", sqlite3.OperationalError),
        ("SELECT :missing", sqlite3.ProgrammingError),
        ("CREATE TABLE t (a NOT NULL) ", type(None)),
        ("INSERT INTO t VALUES (NULL)", ValueError),
    ],
)
def test_other_errors_are_told_apart(tmp_path: Path, statement: str, means: type) -> None:
    with raw(tmp_path / "x.db") as connection:
        if statement.startswith("INSERT"):
            connection.execute("CREATE TABLE t (a NOT NULL)")
        try:
            connection.execute(statement).fetchall()
        except sqlite3.Error as error:
            told: Exception | None = meaning(error)
        else:
            told = None
    assert type(told) is means


async def test_a_taken_digest_is_not_told_in_the_error(store: SqliteSessions) -> None:
    record = a_record()
    await store.create(record)
    with pytest.raises(SessionExists) as error:
        await store.create(record)
    assert record.session.digest.hex() not in str(error.value)
    assert error.value.__cause__ is None


async def test_a_look_up_uses_the_indexes_of_both_digests(
    store: SqliteSessions, path: Path
) -> None:
    await store.revoke_where(Condition("ada"), at=NOON, by=TESTER, reason="test", limit=9)
    with raw(path) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT id FROM sessions"
            " WHERE digest IN (?) OR previous_digest IN (?)",
            (a_digest(), a_digest()),
        ).fetchall()
    assert not any("SCAN" in row[3] for row in plan)
