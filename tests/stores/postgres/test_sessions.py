"""What is true of the Postgres store only; its promises are in tests/contracts."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import asyncpg
import pytest

from sidegate.core.condition import Condition
from sidegate.core.errors import (
    MarkLost,
    SchemaMismatch,
    SessionExists,
    StoreUnavailable,
    UnreadableRecord,
)
from sidegate.core.protocols import Touch
from sidegate.core.session import Session
from sidegate.stores.client.batched import Batched
from sidegate.stores.postgres.connection import OUTAGES, meaning
from sidegate.stores.postgres.database import lookups_at_once
from sidegate.stores.postgres.migrate import migrate_postgres
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.contracts.values import TESTER, a_digest, a_record, a_session
from tests.stores.postgres.postgres_behind import Raw, raw, the_server_is_waiting
from tests.support.clock import NOON
from tests.support.processes import Server, free_port


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresSessions]:
    await migrate_postgres(database_url)
    store = await PostgresSessions.open(database_url)
    yield store
    await store.close()


@pytest.fixture
async def mortal(own_postgres: Server) -> AsyncIterator[PostgresSessions]:
    """A store whose server the test may hurt."""
    await migrate_postgres(own_postgres.url)
    store = await PostgresSessions.open(own_postgres.url)
    yield store
    await store.close()


# --- News in the order of commits


async def revoke_without_commit(connection: "Raw[asyncpg.Record]", session: Session) -> None:
    await connection.execute(
        "UPDATE sessions SET revoked_at = $2, version = version + 1,"
        " changed_xid = pg_current_xact_id() WHERE id = $1",
        session.id,
        NOON,
    )


async def test_a_change_that_commits_after_later_ones_is_not_left_out(
    store: PostgresSessions, database_url: str
) -> None:
    slow, quick = a_session(user_id="slow"), a_session(user_id="quick")
    for session in (slow, quick):
        await store.create(a_record(session))
    mark, _ = await store.changed_since(0)
    async with raw(database_url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await revoke_without_commit(connection, slow)
        await store.revoke_where(Condition("quick"), at=NOON, by=TESTER, reason="test", limit=9)
        mark, changed = await store.changed_since(mark)
        assert [s.id for s in changed] == [quick.id]
        await transaction.commit()
    mark, changed = await store.changed_since(mark)
    assert [s.id for s in changed] == [slow.id]
    assert (await store.changed_since(mark))[1] == []


async def test_a_long_transaction_does_not_make_old_news_come_again(
    store: PostgresSessions, database_url: str
) -> None:
    async with raw(database_url) as connection, connection.transaction():
        await connection.fetchval("SELECT pg_current_xact_id()")  # holds the oldest number
        mark, _ = await store.changed_since(0)
        session = a_session()
        await store.create(a_record(session))
        assert await store.replace(a_record(session.revoked(NOON)), expected=1)
        mark, changed = await store.changed_since(mark)
        assert len(changed) == 1
        assert (await store.changed_since(mark))[1] == []


async def test_numbers_from_the_future_of_a_restored_cluster_are_no_news(
    store: PostgresSessions, database_url: str
) -> None:
    session = a_session()
    await store.create(a_record(session))
    mark, _ = await store.changed_since(0)
    async with raw(database_url) as connection:
        await connection.execute("UPDATE sessions SET changed_xid = '1000000000000'")
    assert (await store.changed_since(mark))[1] == []


async def test_a_mark_from_the_future_is_lost(store: PostgresSessions) -> None:
    """A replica that took over counts its transactions from where it was."""
    mark, _ = await store.changed_since(0)
    snapshot = mark.to_bytes((mark.bit_length() + 7) // 8).decode()
    future = ":".join([*(str(int(number) + 1000) for number in snapshot.split(":")[:2]), ""])
    with pytest.raises(MarkLost):
        await store.changed_since(int.from_bytes(future.encode()))


async def test_a_mark_of_another_store_is_refused(store: PostgresSessions) -> None:
    with pytest.raises(ValueError, match="refuses"):
        await store.changed_since(5)


# --- Start-up and schema


async def test_a_store_opens_before_its_database_is_there() -> None:
    store = await PostgresSessions.open(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres")
    for call in (store.ping(), store.check_schema(), store.find(a_digest())):
        with pytest.raises(StoreUnavailable, match="it cannot be reached"):
            await call
    await store.close()


async def test_a_store_that_opened_early_works_when_its_database_comes(
    own_postgres: Server,
) -> None:
    await migrate_postgres(own_postgres.url)
    own_postgres.stop()
    store = await PostgresSessions.open(own_postgres.url)
    with pytest.raises(StoreUnavailable):
        await store.ping()
    own_postgres.restart()
    await store.check_schema()
    await store.create(a_record())
    await store.close()


async def test_a_database_without_tables_says_what_to_do_until_it_is_done(
    database_url: str,
) -> None:
    store = await PostgresSessions.open(database_url)
    with pytest.raises(SchemaMismatch, match="run `sidegate migrate`"):
        await store.check_schema()
    with pytest.raises(StoreUnavailable, match="run `sidegate migrate`"):
        await store.find(a_digest())
    await migrate_postgres(database_url)
    await store.check_schema()
    assert await store.find(a_digest()) is None
    await store.close()


async def test_a_newer_database_is_refused_at_the_start_but_not_while_running(
    store: PostgresSessions, database_url: str
) -> None:
    await store.ping()
    async with raw(database_url) as connection:
        await connection.execute("INSERT INTO sidegate_migrations VALUES ('9999_future')")
    await store.ping()
    newcomer = await PostgresSessions.open(database_url)
    with pytest.raises(SchemaMismatch, match="9999_future"):
        await newcomer.check_schema()
    with pytest.raises(StoreUnavailable, match="9999_future"):
        await newcomer.ping()
    await newcomer.close()


async def test_connections_carry_our_name(store: PostgresSessions, database_url: str) -> None:
    await store.ping()
    async with raw(database_url) as connection:
        query = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
        names = [row["application_name"] for row in await connection.fetch(query)]
    assert names.count("sidegate") == 1


async def test_a_store_without_prepared_statements_works(database_url: str) -> None:
    await migrate_postgres(database_url)
    store = await PostgresSessions.open(database_url, prepared_statements=False)
    session = a_session()
    await store.create(a_record(session))
    assert [await store.find(session.digest) for _ in range(3)] == [session] * 3
    await store.close()


async def test_a_standby_is_not_asked(own_postgres: Server) -> None:
    await migrate_postgres(own_postgres.url)
    own_postgres.stop()
    (own_postgres.directory / "pg" / "standby.signal").touch()
    own_postgres.restart()
    store = await PostgresSessions.open(own_postgres.url)
    with pytest.raises(StoreUnavailable, match="it is a standby"):
        await store.find(a_digest())
    async with raw(own_postgres.url) as connection:
        await connection.execute("SELECT pg_promote()")
    assert await store.find(a_digest()) is None
    await store.close()


# --- Outages


async def test_a_frozen_database_holds_nobody_who_leaves(
    mortal: PostgresSessions, own_postgres: Server
) -> None:
    session = a_session()
    await mortal.create(a_record(session))
    own_postgres.pause()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await mortal.find(session.digest)
    assert loop.time() - began < 1
    own_postgres.resume()
    assert await mortal.find(session.digest) == session


async def test_queries_nobody_waits_for_are_dropped_by_the_server_too(
    store: PostgresSessions, database_url: str
) -> None:
    session = a_session()
    await store.create(a_record(session))
    async with raw(database_url) as connection:
        async with connection.transaction():
            await connection.execute("LOCK TABLE sessions")
            for _ in range(30):  # more than the pool has connections
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await store.find(session.digest)
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sidegate'"
            assert await connection.fetchval(query + " AND datname = current_database()") <= 8
        assert await store.find(session.digest) == session


async def test_a_read_only_database_still_answers_look_ups(
    own_postgres: Server, mortal: PostgresSessions
) -> None:
    session = a_session()
    await mortal.create(a_record(session))
    async with raw(own_postgres.url) as connection:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
        while await connection.fetchval("SHOW default_transaction_read_only") != "on":
            pass
    reopened = await PostgresSessions.open(own_postgres.url)
    assert await reopened.find(session.digest) == session
    with pytest.raises(StoreUnavailable, match="it is read-only"):
        await reopened.create(a_record())
    await reopened.close()


async def test_a_deadlock_is_tried_again(store: PostgresSessions, database_url: str) -> None:
    first, second = (a_session(user_id=name) for name in ("first", "second"))
    for session in (first, second):
        await store.create(a_record(session))
    async with raw(database_url) as connection:
        # Whoever has waited for so long looks for a deadlock, and gives way: the store.
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '100ms'")
        await connection.execute("SET deadlock_timeout = '60s'")
        # A statement of the store's takes a second lock only through a trigger.
        await connection.execute(
            "CREATE FUNCTION touch_second() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM 1 FROM sessions WHERE user_id = 'second' FOR UPDATE; RETURN NEW; END $$;"
            "CREATE TRIGGER touch_second AFTER UPDATE ON sessions FOR EACH ROW"
            " WHEN (NEW.user_id = 'first') EXECUTE FUNCTION touch_second()"
        )
        fresh = await PostgresSessions.open(database_url)
        async with connection.transaction():
            await connection.execute("SELECT FROM sessions WHERE user_id = 'second' FOR UPDATE")
            revoking = asyncio.create_task(
                fresh.revoke_where(Condition("first"), at=NOON, by=TESTER, reason="test", limit=9)
            )
            await the_server_is_waiting(database_url)
            await connection.execute("SELECT FROM sessions WHERE user_id = 'first' FOR UPDATE")
        assert [s.id for s in await revoking] == [first.id]
        await fresh.close()


async def test_closing_waits_for_nobody_for_ever(
    mortal: PostgresSessions, own_postgres: Server
) -> None:
    await mortal.ping()
    own_postgres.pause()
    asking = asyncio.create_task(mortal.find(a_digest()))
    await asyncio.sleep(0)  # it is on its way
    async with asyncio.timeout(5):
        await mortal.close()
    with pytest.raises(StoreUnavailable):
        await asking
    own_postgres.resume()


async def test_a_connection_begun_for_a_caller_that_left_serves_the_next(
    own_postgres: Server,
) -> None:
    await migrate_postgres(own_postgres.url)
    async with a_slow_road_to(own_postgres) as road:
        store = await PostgresSessions.open(
            own_postgres.url.replace(own_postgres.address, road.address)
        )
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await store.ping()
        road.is_free.set()
        await store.ping()
        assert road.travellers == 1
        await store.close()


@dataclass
class Road:
    address: str
    is_free: asyncio.Event
    travellers: int = 0


@asynccontextmanager
async def a_slow_road_to(server: Server) -> AsyncIterator[Road]:
    """Forward connections to the server, but not before the road is free."""
    arrived: list[asyncio.Task[None]] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        road.travellers += 1
        await road.is_free.wait()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.port)
        arrived.append(asyncio.create_task(pipe(reader, far_writer)))
        arrived.append(asyncio.create_task(pipe(far_reader, writer)))

    listener = await asyncio.start_server(forward, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    road = Road(f"{host}:{port}", asyncio.Event())
    async with listener:
        yield road
        await asyncio.gather(*arrived)


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while some := await reader.read(65536):
            writer.write(some)
    writer.close()


# --- Errors


SQLSTATES_OF_OUTAGES = ("08", "28", "3D", "40", "53", "57", "58", "F0", "XX")
"""The classes of errors in which the server says that it could not, rather than that we may not."""


@pytest.mark.parametrize(("kind", "why"), OUTAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_every_reason_for_an_outage_is_told_as_one(kind: type[Exception], why: str) -> None:
    told = meaning(kind("postgresql://ada:secret@db/x \\xdeadbeef"))
    assert isinstance(told, StoreUnavailable)
    assert (told.store, told.why) == ("postgres", why)


def test_no_server_side_failure_is_forgotten() -> None:
    for kind in vars(asyncpg.exceptions).values():
        state = getattr(kind, "sqlstate", None) if inspect.isclass(kind) else None
        if state is not None and state.startswith(SQLSTATES_OF_OUTAGES):
            assert isinstance(meaning(kind("")), StoreUnavailable), kind


@pytest.mark.parametrize(
    ("error", "means"),
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
def test_other_errors_are_no_outage(error: Exception, means: type[Exception]) -> None:
    assert type(meaning(error)) is means
    assert "deadbeef" not in str(meaning(error))


async def test_a_wrong_password_is_an_outage_that_does_not_tell_it(own_postgres: Server) -> None:
    (own_postgres.directory / "pg" / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
    own_postgres.restart()
    url = own_postgres.url.replace("postgres@", "postgres:hunter2@")
    store = await PostgresSessions.open(url)
    with pytest.raises(StoreUnavailable, match="refuses our user or password") as outage:
        await store.ping()
    assert "hunter2" not in str(outage.value)
    await store.close()


async def test_a_name_with_nul_is_refused_and_not_unavailable(store: PostgresSessions) -> None:
    with pytest.raises(ValueError, match="refuses"):
        await store.create(a_record(a_session(user_id="a\0b")))


async def test_a_taken_digest_is_not_told_in_the_error(store: PostgresSessions) -> None:
    record = a_record()
    await store.create(record)
    with pytest.raises(SessionExists) as error:
        await store.create(record)
    assert record.session.digest.hex() not in str(error.value)
    assert error.value.__cause__ is None


async def test_a_time_python_has_no_word_for_is_refused_by_the_table(
    store: PostgresSessions, database_url: str
) -> None:
    await store.create(a_record())
    for moment in ("infinity", "-infinity", "10000-01-01", "0044-03-15 BC"):
        async with raw(database_url) as connection:
            with pytest.raises(asyncpg.CheckViolationError):
                await connection.execute(f"UPDATE sessions SET last_seen_at = '{moment}'")


async def test_a_look_up_uses_the_indexes_of_both_digests(
    store: PostgresSessions, database_url: str
) -> None:
    del store  # it has made the table
    async with raw(database_url) as connection:
        await connection.execute("SET enable_seqscan = off")
        plan = await connection.fetch(
            "EXPLAIN SELECT id FROM sessions WHERE digest = ANY($1) OR previous_digest = ANY($1)",
            [a_digest()],
        )
    text = "\n".join(row[0] for row in plan)
    assert "sessions_digest_key" in text
    assert "sessions_previous_digest_key" in text


async def test_what_waits_for_a_lock_keeps_nobody_from_being_found_and_no_news_from_being_heard(
    store: PostgresSessions, database_url: str
) -> None:
    stuck, other = a_record(), a_record()
    await store.create(stuck)
    await store.create(other)
    async with raw(database_url) as locker:
        async with locker.transaction():
            await locker.execute(
                "SELECT 1 FROM sessions WHERE id = $1 FOR UPDATE", stuck.session.id
            )
            touch = Touch(stuck.session.id, NOON, 1)
            waiting = [asyncio.create_task(store.touch([touch])) for _ in range(20)]
            async with asyncio.timeout(5):
                assert await store.find(other.session.digest) == other.session
                assert await store.changed_since(0)
                await store.next_generation(await store.generation())
                await store.ping()
        await asyncio.gather(*waiting)


async def test_look_ups_that_wait_for_a_lock_keep_no_news_from_being_heard(
    store: PostgresSessions, database_url: str
) -> None:
    """The bulkhead leaves one connection, whatever verbs and look-ups wait for."""
    look_ups = Batched(store, max_batch=1, max_flights=lookups_at_once(8))
    record = a_record()
    await store.create(record)
    async with raw(database_url) as locker:
        async with locker.transaction():
            await locker.execute("LOCK TABLE sessions")
            touches = [Touch(record.session.id, NOON, 1)]
            waiting = [asyncio.create_task(look_ups.find(a_digest())) for _ in range(20)]
            verbs = [asyncio.create_task(store.touch(touches)) for _ in range(20)]
            await the_server_is_waiting(database_url)
            async with asyncio.timeout(10):
                await store.next_generation(await store.generation())
        await asyncio.gather(*waiting, *verbs)


async def test_it_tells_the_time_of_its_server(store: PostgresSessions, database_url: str) -> None:
    async with raw(database_url) as behind:
        before = await behind.fetchval("SELECT clock_timestamp()")
        told = await store.now()
        after = await behind.fetchval("SELECT clock_timestamp()")
    assert before <= told <= after
