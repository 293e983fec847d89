"""The durable store in SQLite, where it is specific to SQLite. See tests/contracts too."""

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
from sidegate.core.errors import (
    PositionLost,
    SchemaMismatch,
    SessionExists,
    StoreUnavailable,
    UnreadableRecord,
)
from sidegate.stores.sqlite.connection import OUTAGES, translate_error
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.changes import list_changed_sessions
from tests.contracts.values import TESTER, build_digest, build_record, build_session
from tests.support.clock import NOON

REPOSITORY = Path(__file__).parents[3]
BUSY_TIMEOUT = timedelta(milliseconds=20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "side gate #1?.db"  # must be escaped in a URI


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteSessions]:
    store = await SqliteSessions.open(path, busy_timeout=BUSY_TIMEOUT)
    yield store
    await store.close()


@contextmanager
def connect_directly(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection that does not belong to the store."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def run_python(code: str, *arguments: str | Path) -> str:
    """Run Python in another process, and return what it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=REPOSITORY
    ).stdout


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def delete(path: Path) -> None:
    path.unlink()


def read_content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


# --- The file


async def test_file_and_wal_are_readable_by_the_owner_only(
    store: SqliteSessions, path: Path
) -> None:
    await store.create(build_record())
    files = list(path.parent.glob(f"{path.name}*"))
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_write_is_synced_before_it_is_acknowledged(store: SqliteSessions, path: Path) -> None:
    await store.create(build_record())
    with connect_directly(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    [row] = await store._database.write("PRAGMA synchronous", {})  # noqa: SLF001  # of this connection
    assert row["synchronous"] == 2  # FULL


async def test_sessions_survive_a_reopen(path: Path) -> None:
    session = build_session()
    store = await SqliteSessions.open(path)
    await store.create(build_record(session))
    await store.close()
    assert not path.with_name(f"{path.name}-wal").exists()
    store = await SqliteSessions.open(path)
    assert await store.find(session.digest) == session
    await store.close()


async def test_acknowledged_write_survives_a_killed_process(path: Path) -> None:
    digest = run_python(CREATE_AND_EXIT, path)
    store = await SqliteSessions.open(path)
    assert await store.find(type(build_digest())(bytes.fromhex(digest))) is not None
    await store.close()


CREATE_AND_EXIT = """
import asyncio, os, pathlib, sys
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.changes import list_changed_sessions
from tests.contracts.values import build_record

async def main():
    store = await SqliteSessions.open(pathlib.Path(sys.argv[1]))
    record = build_record()
    await store.create(record)
    print(record.session.digest.hex(), end="", flush=True)
    os._exit(0)  # without closing or flushing

asyncio.run(main())
"""


async def test_impossible_path_is_an_outage() -> None:
    with pytest.raises(StoreUnavailable, match="cannot be created"):
        await SqliteSessions.open(Path("/dev/null/sidegate.db"))


async def test_file_that_is_not_a_database_is_an_outage_and_kept(path: Path) -> None:
    text = b"my text " * 1000
    overwrite(path, text)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await SqliteSessions.open(path)
    assert read_content(path) == text


async def test_newer_schema_is_refused_when_opened(store: SqliteSessions, path: Path) -> None:
    with connect_directly(path) as connection:
        connection.execute("INSERT INTO sidegate_migrations VALUES ('9999_future')")
    with pytest.raises(SchemaMismatch, match="9999_future"):
        await SqliteSessions.open(path)
    await store.ping()  # an open store goes on


async def test_concurrent_opens_of_a_new_file_succeed(path: Path) -> None:
    stores = await asyncio.gather(*(SqliteSessions.open(path) for _ in range(8)))
    await asyncio.gather(*(store.create(build_record()) for store in stores))
    assert len(await stores[0].list_where(Condition("ada"), limit=10)) == 8
    for store in stores:
        await store.close()


# --- Other processes


async def test_revocation_by_another_process_is_a_change(store: SqliteSessions, path: Path) -> None:
    session = build_session()
    await store.create(build_record(session))
    position = await store.read_position()
    run_python(REVOKE, path)
    assert await list_changed_sessions(store, position) == [session.revoked(NOON)]


REVOKE = """
import asyncio, pathlib, sys
from sidegate.core.condition import Condition
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.support.clock import NOON
from tests.contracts.changes import list_changed_sessions
from tests.contracts.values import TESTER

async def main():
    store = await SqliteSessions.open(pathlib.Path(sys.argv[1]))
    await store.revoke_where(Condition("ada"), at=NOON, by=TESTER, reason="test", limit=9)
    await store.close()

asyncio.run(main())
"""


async def test_locked_database_fails_writes_but_serves_lookups(
    store: SqliteSessions, path: Path
) -> None:
    session = build_session()
    await store.create(build_record(session))
    with connect_directly(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.create(build_record())
        assert await store.find(session.digest) == session
        connection.execute("COMMIT")
    await store.create(build_record())


async def test_corrupted_file_is_an_outage_until_restored(
    store: SqliteSessions, path: Path
) -> None:
    session = build_session()
    await store.create(build_record(session))
    whole = run_python(OVERWRITE_WITH_GARBAGE, path)
    for call in (store.find(session.digest), store.create(build_record())):
        with pytest.raises(StoreUnavailable, match="not a database"):
            await call
    overwrite(path, bytes.fromhex(whole))
    assert await store.find(session.digest) == session
    await store.create(build_record())


# In another process: closing the file in this one would drop the locks that SQLite holds on it.
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


async def test_deleted_file_is_an_outage_and_not_recreated(
    store: SqliteSessions, path: Path
) -> None:
    await store.create(build_record())
    delete(path)
    for call in (store.find(build_digest()), store.create(build_record())):
        with pytest.raises(StoreUnavailable, match="cannot be opened"):
            await call
    assert read_content(path) is None


# --- Changes


async def test_changes_survive_the_deletion_of_changed_rows(
    store: SqliteSessions, path: Path
) -> None:
    first, second = build_session(), build_session()
    for session in (first, second):
        await store.create(build_record(session))
    await store.replace(build_record(first.revoked(NOON)), expected=1)
    position = await store.read_position()
    with connect_directly(path) as connection:
        connection.execute("DELETE FROM sessions WHERE id = ?", (first.id,))
    assert not (await store.list_changes(position, limit=9)).has_changed
    await store.replace(build_record(second.revoked(NOON)), expected=1)
    assert [s.id for s in await list_changed_sessions(store, position)] == [second.id]


async def test_revocation_by_hand_is_a_change(store: SqliteSessions, path: Path) -> None:
    session = build_session()
    await store.create(build_record(session))
    position = await store.read_position()
    with connect_directly(path) as connection:
        connection.execute("UPDATE sessions SET revoked_at = 1, version = version + 1")
    assert [s.id for s in await list_changed_sessions(store, position)] == [session.id]


async def test_restored_copy_of_the_file_loses_the_marks_made_since(
    store: SqliteSessions, path: Path
) -> None:
    session = build_session()
    await store.create(build_record(session))
    before = await store.add_mark()
    with connect_directly(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = run_python(READ_FILE, path)
    await store.replace(build_record(session.revoked(NOON)), expected=1)
    after = await store.add_mark()
    await store.close()
    overwrite(path, bytes.fromhex(copy))
    reopened = await SqliteSessions.open(path)
    assert not (await reopened.list_changes(before, limit=9)).has_changed
    with pytest.raises(PositionLost) as lost:
        await reopened.list_changes(after, limit=9)
    assert lost.value.restored_since is not None
    [changed] = await reopened.revoke_again([session.revoked(NOON)])
    with pytest.raises(PositionLost):  # its number was assigned again
        await reopened.list_changes(after, limit=9)
    assert changed.session == session.revoked(NOON)
    await reopened.close()


# In another process: closing the file in this one would drop the locks that SQLite holds on it.
READ_FILE = """
import pathlib, sys
print(pathlib.Path(sys.argv[1]).read_bytes().hex(), end="")
"""


# --- Errors


@pytest.mark.parametrize(("code", "reason"), OUTAGES.items())
def test_outage_codes_are_translated(code: int, reason: str) -> None:
    for extended in (code, code | (3 << 8)):
        error = sqlite3.OperationalError("/secret/path.db")
        error.sqlite_errorcode = extended
        translated = translate_error(error)
        assert isinstance(translated, StoreUnavailable)
        assert (translated.store, translated.reason) == ("sqlite", reason)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT * FROM nowhere", StoreUnavailable),
        ("SELECT CAST(x'ff' AS TEXT)", UnreadableRecord),
        ("SELEKT", sqlite3.OperationalError),
        ("SELECT :missing", sqlite3.ProgrammingError),
        ("CREATE TABLE t (a NOT NULL) ", type(None)),
        ("INSERT INTO t VALUES (NULL)", ValueError),
    ],
)
def test_other_errors_are_translated(tmp_path: Path, statement: str, expected: type) -> None:
    with connect_directly(tmp_path / "x.db") as connection:
        if statement.startswith("INSERT"):
            connection.execute("CREATE TABLE t (a NOT NULL)")
        try:
            connection.execute(statement).fetchall()
        except sqlite3.Error as error:
            translated: Exception | None = translate_error(error)
        else:
            translated = None
    assert type(translated) is expected


async def test_duplicate_digest_is_not_in_the_error(store: SqliteSessions) -> None:
    record = build_record()
    await store.create(record)
    with pytest.raises(SessionExists) as error:
        await store.create(record)
    assert record.session.digest.hex() not in str(error.value)
    assert error.value.__cause__ is None


async def test_lookup_uses_the_indexes_of_both_digests(store: SqliteSessions, path: Path) -> None:
    await store.revoke_where(Condition("ada"), at=NOON, by=TESTER, reason="test", limit=9)
    with connect_directly(path) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT id FROM sessions"
            " WHERE digest IN (?) OR previous_digest IN (?)",
            (build_digest(), build_digest()),
        ).fetchall()
    assert not any("SCAN" in row[3] for row in plan)
