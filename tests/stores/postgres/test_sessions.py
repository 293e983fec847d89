"""The durable store in Postgres, where it is specific to Postgres. See tests/contracts too."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest

from sidegate.core.condition import Condition
from sidegate.core.errors import (
    PurgeInProgress,
    SchemaMismatch,
    SessionExists,
    StoreUnavailable,
    UnreadableRecord,
)
from sidegate.core.protocols import Touch
from sidegate.stores.client.batching import Batched
from sidegate.stores.postgres.connection import OUTAGES, translate_error
from sidegate.stores.postgres.database import compute_max_lookups
from sidegate.stores.postgres.sessions import PURGE_LOCK, PostgresSessions
from tests.contracts.values import TESTER, build_digest, build_record, build_session
from tests.stores.postgres.raw_connection import connect_directly, wait_for_blocked_query
from tests.support.clock import NOON
from tests.support.database_time import migrate_for_test_clock
from tests.support.processes import Server, find_free_port


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresSessions]:
    await migrate_for_test_clock(database_url)
    store = await PostgresSessions.open(database_url)
    yield store
    await store.close()


@pytest.fixture
async def stoppable(own_postgres: Server) -> AsyncIterator[PostgresSessions]:
    """A store whose server the test may stop, pause or reconfigure."""
    await migrate_for_test_clock(own_postgres.url)
    store = await PostgresSessions.open(own_postgres.url)
    yield store
    await store.close()


# --- Purge


async def test_purge_is_refused_while_another_process_purges(
    store: PostgresSessions, database_url: str
) -> None:
    record = build_record()
    await store.create(record)
    after = record.session.expires_at + timedelta(days=1)

    async with connect_directly(database_url) as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", PURGE_LOCK)
        with pytest.raises(PurgeInProgress):
            await store.purge(after, limit=9)
        assert await store.get(record.session.id) is not None

    assert await store.purge(after, limit=9) == 1
    assert await store.purge(after, limit=9) == 0


# --- Startup and schema


async def test_store_opens_without_its_database() -> None:
    store = await PostgresSessions.open(
        f"postgresql://postgres@127.0.0.1:{find_free_port()}/postgres"
    )
    for call in (store.ping(), store.check_schema(), store.find(build_digest())):
        with pytest.raises(StoreUnavailable, match="it cannot be reached"):
            await call
    await store.close()


async def test_store_works_once_its_database_starts(
    own_postgres: Server,
) -> None:
    await migrate_for_test_clock(own_postgres.url)
    own_postgres.stop()
    store = await PostgresSessions.open(own_postgres.url)
    with pytest.raises(StoreUnavailable):
        await store.ping()
    own_postgres.restart()
    await store.check_schema()
    await store.create(build_record())
    await store.close()


async def test_missing_tables_are_reported_until_migrated(
    empty_database_url: str,
) -> None:
    store = await PostgresSessions.open(empty_database_url)
    with pytest.raises(SchemaMismatch, match="run `sidegate migrate`"):
        await store.check_schema()
    with pytest.raises(StoreUnavailable, match="run `sidegate migrate`"):
        await store.find(build_digest())
    await migrate_for_test_clock(empty_database_url)
    await store.check_schema()
    assert await store.find(build_digest()) is None
    await store.close()


async def test_newer_schema_is_refused_at_startup_only(
    store: PostgresSessions, database_url: str
) -> None:
    await store.ping()
    async with connect_directly(database_url) as connection:
        await connection.execute("INSERT INTO sidegate_migrations VALUES ('9999_future')")
    await store.ping()
    newcomer = await PostgresSessions.open(database_url)
    with pytest.raises(SchemaMismatch, match="9999_future"):
        await newcomer.check_schema()
    with pytest.raises(StoreUnavailable, match="9999_future"):
        await newcomer.ping()
    await newcomer.close()


async def test_connections_have_the_application_name(
    store: PostgresSessions, database_url: str
) -> None:
    await store.ping()
    async with connect_directly(database_url) as connection:
        query = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
        names = [row["application_name"] for row in await connection.fetch(query)]
    assert names.count("sidegate") == 1


async def test_store_works_without_prepared_statements(database_url: str) -> None:
    await migrate_for_test_clock(database_url)
    store = await PostgresSessions.open(database_url, prepared_statements=False)
    session = build_session()
    await store.create(build_record(session))
    assert [await store.find(session.digest) for _ in range(3)] == [session] * 3
    await store.close()


async def test_standby_is_an_outage(own_postgres: Server) -> None:
    await migrate_for_test_clock(own_postgres.url)
    own_postgres.stop()
    (own_postgres.directory / "pg" / "standby.signal").touch()
    own_postgres.restart()
    store = await PostgresSessions.open(own_postgres.url)
    with pytest.raises(StoreUnavailable, match="it is a standby"):
        await store.find(build_digest())
    async with connect_directly(own_postgres.url) as connection:
        await connection.execute("SELECT pg_promote()")
    assert await store.find(build_digest()) is None
    await store.close()


# --- Outages


async def test_paused_database_does_not_delay_cancellation(
    stoppable: PostgresSessions, own_postgres: Server
) -> None:
    session = build_session()
    await stoppable.create(build_record(session))
    own_postgres.pause()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await stoppable.find(session.digest)
    assert loop.time() - began < 1
    own_postgres.resume()
    assert await stoppable.find(session.digest) == session


async def test_cancelled_queries_are_cancelled_on_the_server(
    store: PostgresSessions, database_url: str
) -> None:
    session = build_session()
    await store.create(build_record(session))
    async with connect_directly(database_url) as connection:
        async with connection.transaction():
            await connection.execute("LOCK TABLE sessions")
            for _ in range(30):  # more than the pool has connections
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await store.find(session.digest)
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sidegate'"
            assert await connection.fetchval(query + " AND datname = current_database()") <= 8
        assert await store.find(session.digest) == session


async def test_read_only_database_serves_lookups(
    own_postgres: Server, stoppable: PostgresSessions
) -> None:
    session, mark = build_session(), await stoppable.add_mark()
    await stoppable.create(build_record(session))
    async with connect_directly(own_postgres.url) as connection:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
        while await connection.fetchval("SHOW default_transaction_read_only") != "on":
            pass
    reopened = await PostgresSessions.open(own_postgres.url)
    assert await reopened.find(session.digest) == session
    assert (await reopened.list_changes(mark, limit=9)).has_changed
    with pytest.raises(StoreUnavailable, match="it is read-only"):
        await reopened.create(build_record())
    await reopened.close()


async def test_deadlock_is_retried(store: PostgresSessions, database_url: str) -> None:
    first, second = (build_session(user_id=name) for name in ("first", "second"))
    for session in (first, second):
        await store.create(build_record(session))
    async with connect_directly(database_url) as connection:
        # The side whose deadlock_timeout passes first is rolled back: the store.
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '100ms'")
        await connection.execute("SET deadlock_timeout = '60s'")
        # A trigger makes the statement of the store take a second lock.
        await connection.execute(
            "CREATE FUNCTION lock_second() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM 1 FROM sessions WHERE user_id = 'second' FOR UPDATE; RETURN NEW; END $$;"
            "CREATE TRIGGER lock_second AFTER UPDATE ON sessions FOR EACH ROW"
            " WHEN (NEW.user_id = 'first') EXECUTE FUNCTION lock_second()"
        )
        fresh = await PostgresSessions.open(database_url)
        async with connection.transaction():
            await connection.execute("SELECT FROM sessions WHERE user_id = 'second' FOR UPDATE")
            revoking = asyncio.create_task(
                fresh.revoke_where(Condition("first"), at=NOON, by=TESTER, reason="test", limit=9)
            )
            await wait_for_blocked_query(database_url)
            await connection.execute("SELECT FROM sessions WHERE user_id = 'first' FOR UPDATE")
        assert [changed.session.id for changed in await revoking] == [first.id]
        await fresh.close()


async def test_close_has_a_timeout(stoppable: PostgresSessions, own_postgres: Server) -> None:
    await stoppable.ping()
    own_postgres.pause()
    lookup = asyncio.create_task(stoppable.find(build_digest()))
    await asyncio.sleep(0)  # the query is sent
    async with asyncio.timeout(5):
        await stoppable.close()
    with pytest.raises(StoreUnavailable):
        await lookup
    own_postgres.resume()


async def test_connection_of_a_cancelled_caller_serves_the_next(
    own_postgres: Server,
) -> None:
    await migrate_for_test_clock(own_postgres.url)
    async with open_gated_proxy(own_postgres) as proxy:
        store = await PostgresSessions.open(
            own_postgres.url.replace(own_postgres.address, proxy.address)
        )
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await store.ping()
        proxy.opened.set()
        await store.ping()
        assert proxy.connections == 1
        await store.close()


@dataclass
class GatedProxy:
    address: str
    opened: asyncio.Event
    connections: int = 0


@asynccontextmanager
async def open_gated_proxy(server: Server) -> AsyncIterator[GatedProxy]:
    """Forward connections to the server, but not before `opened` is set."""
    tasks: list[asyncio.Task[None]] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.connections += 1
        await proxy.opened.wait()
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", server.port)
        tasks.append(asyncio.create_task(pipe(reader, server_writer)))
        tasks.append(asyncio.create_task(pipe(server_reader, writer)))

    listener = await asyncio.start_server(forward, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    proxy = GatedProxy(f"{host}:{port}", asyncio.Event())
    async with listener:
        yield proxy
        await asyncio.gather(*tasks)


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
    writer.close()


# --- Errors


SQLSTATES_OF_OUTAGES = ("08", "28", "3D", "40", "53", "57", "58", "F0", "XX")
"""The SQLSTATE classes of failures of the server, not of invalid requests."""


@pytest.mark.parametrize(
    ("kind", "reason"), OUTAGES, ids=lambda value: getattr(value, "__name__", "")
)
def test_outage_errors_are_translated(kind: type[Exception], reason: str) -> None:
    translated = translate_error(kind("postgresql://ada:secret@db/x \\xdeadbeef"))
    assert isinstance(translated, StoreUnavailable)
    assert (translated.store, translated.reason) == ("postgres", reason)


def test_all_server_failures_are_outages() -> None:
    for kind in vars(asyncpg.exceptions).values():
        state = getattr(kind, "sqlstate", None) if inspect.isclass(kind) else None
        if state is not None and state.startswith(SQLSTATES_OF_OUTAGES):
            assert isinstance(translate_error(kind("")), StoreUnavailable), kind


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (asyncpg.CheckViolationError("Failing row contains (\\xdeadbeef)"), ValueError),
        (asyncpg.CharacterNotInRepertoireError(""), ValueError),
        (asyncpg.UniqueViolationError(""), asyncpg.UniqueViolationError),
        (asyncpg.PostgresSyntaxError(""), asyncpg.PostgresSyntaxError),
        (asyncpg.UndefinedColumnError(""), asyncpg.UndefinedColumnError),
        (asyncpg.ClientConfigurationError("bad DSN"), asyncpg.ClientConfigurationError),
        (OverflowError("year is out of range"), UnreadableRecord),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_errors_are_not_outages(error: Exception, expected: type[Exception]) -> None:
    assert type(translate_error(error)) is expected
    assert "deadbeef" not in str(translate_error(error))


async def test_wrong_password_is_an_outage_and_not_in_the_error(own_postgres: Server) -> None:
    (own_postgres.directory / "pg" / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
    own_postgres.restart()
    url = own_postgres.url.replace("postgres@", "postgres:hunter2@")
    store = await PostgresSessions.open(url)
    with pytest.raises(StoreUnavailable, match="rejects the user or password") as outage:
        await store.ping()
    assert "hunter2" not in str(outage.value)
    await store.close()


async def test_user_id_with_nul_is_rejected(store: PostgresSessions) -> None:
    with pytest.raises(ValueError, match="rejects"):
        await store.create(build_record(build_session(user_id="a\0b")))


async def test_duplicate_digest_is_not_in_the_error(store: PostgresSessions) -> None:
    record = build_record()
    await store.create(record)
    with pytest.raises(SessionExists) as error:
        await store.create(record)
    assert record.session.digest.hex() not in str(error.value)
    assert error.value.__cause__ is None


async def test_timestamp_out_of_range_for_python_is_rejected(
    store: PostgresSessions, database_url: str
) -> None:
    await store.create(build_record())
    for timestamp in ("infinity", "-infinity", "10000-01-01", "0044-03-15 BC"):
        async with connect_directly(database_url) as connection:
            with pytest.raises(asyncpg.CheckViolationError):
                await connection.execute(f"UPDATE sessions SET last_seen_at = '{timestamp}'")


async def test_lookup_uses_the_indexes_of_both_digests(
    store: PostgresSessions, database_url: str
) -> None:
    del store  # it has created the table
    async with connect_directly(database_url) as connection:
        await connection.execute("SET enable_seqscan = off")
        plan = await connection.fetch(
            "EXPLAIN SELECT id FROM sessions WHERE digest = ANY($1) OR previous_digest = ANY($1)",
            [build_digest()],
        )
    text = "\n".join(row[0] for row in plan)
    assert "sessions_digest_key" in text
    assert "sessions_previous_digest_key" in text


async def test_blocked_writes_delay_neither_lookups_nor_changes(
    store: PostgresSessions, database_url: str
) -> None:
    stuck, other = build_record(), build_record()
    await store.create(stuck)
    await store.create(other)
    async with connect_directly(database_url) as locker:
        async with locker.transaction():
            await locker.execute(
                "SELECT 1 FROM sessions WHERE id = $1 FOR UPDATE", stuck.session.id
            )
            touch = Touch(stuck.session.id, NOON, 1)
            waiting = [asyncio.create_task(store.touch([touch])) for _ in range(20)]
            async with asyncio.timeout(5):
                assert await store.find(other.session.digest) == other.session
                mark = await store.add_mark()
                assert not (await store.list_changes(mark, limit=9)).has_changed
                await store.ping()
        await asyncio.gather(*waiting)


async def test_blocked_lookups_do_not_delay_changes(
    store: PostgresSessions, database_url: str
) -> None:
    """The bulkhead leaves one connection, even if all writes and lookups wait."""
    lookups = Batched(store, max_batch=1, max_in_flight=compute_max_lookups(8))
    record = build_record()
    await store.create(record)
    async with connect_directly(database_url) as locker:
        async with locker.transaction():
            await locker.execute("LOCK TABLE sessions")
            touches = [Touch(record.session.id, NOON, 1)]
            waiting = [asyncio.create_task(lookups.find(build_digest())) for _ in range(20)]
            touching = [asyncio.create_task(store.touch(touches)) for _ in range(20)]
            await wait_for_blocked_query(database_url)
            async with asyncio.timeout(10):
                await store.add_mark()
        await asyncio.gather(*waiting, *touching)


async def test_now_is_the_time_of_the_server(store: PostgresSessions, database_url: str) -> None:
    async with connect_directly(database_url) as connection:
        before = await connection.fetchval("SELECT clock_timestamp()")
        now = await store.now()
        after = await connection.fetchval("SELECT clock_timestamp()")
    assert before <= now <= after
