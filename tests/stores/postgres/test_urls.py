"""What a postgresql:// URL does to connections, and what the store says of one that fails."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.stores.connection_log import ConnectionLog
from sidegate.stores.postgres.connector import Connector, connect
from sidegate.stores.postgres.database import PostgresDatabase
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.stores.waiting import wait_until, wait_until_async
from tests.support.clock import FakeClock
from tests.support.processes import Server, find_free_port


async def fetch(url: str, query: str = "SELECT 1") -> object:
    async with connect(url) as connection:
        return await connection.fetchval(query)


async def read_reason(url: str) -> str:
    with pytest.raises(StoreUnavailable) as outage:
        await fetch(url)
    return outage.value.reason


async def execute(server: Server, *statements: str) -> None:
    connection = await asyncpg.connect(server.url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


@asynccontextmanager
async def unresponsive_port() -> AsyncIterator[int]:
    """A port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@asynccontextmanager
async def pooler(sqlstate: str, message: str) -> AsyncIterator[int]:
    """A server that refuses each connection as PgBouncer does."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        fields = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": message}
        body = "".join(f"{name}{value}\0" for name, value in fields.items()) + "\0"
        writer.write(b"E" + (len(body) + 4).to_bytes(4, "big") + body.encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def answering_port(answer: bytes) -> AsyncIterator[int]:
    """A port that answers the first message with these bytes."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def build_message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


LOGGED_IN = build_message(b"R", bytes(4))
READY = build_message(b"Z", b"I")


# --- parameters


async def test_application_name_and_options_reach_the_server(database_url: str) -> None:
    url = f"{database_url}?application_name=gate&options=-c%20search_path=auth%20-cwork_mem=7MB"
    names = "application_name", "search_path", "work_mem"
    settings = [await fetch(url, f"SELECT current_setting('{name}')") for name in names]
    assert settings == ["gate", "auth", "7MB"]


async def test_application_name_is_ours_by_default(database_url: str) -> None:
    assert await fetch(database_url, "SELECT current_setting('application_name')") == "sidegate"


async def test_unix_socket(postgres_server: Server) -> None:
    directory, port = postgres_server.directory, postgres_server.port
    query = "SELECT inet_client_addr() IS NULL"
    for url in (
        f"postgresql://postgres@/postgres?host={directory}&port={port}",
        f"postgresql://postgres@{str(directory).replace('/', '%2F')}:{port}/postgres",
        f"postgresql:///postgres?host={directory}&port={port}&user=postgres&sslmode=verify-full",
    ):
        assert await fetch(url, query) is True


async def test_environment_and_password_files_are_not_read(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".pgpass").write_text("*:*:*:*:secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in {
        "PGPORT": "1",
        "PGSSLMODE": "nonsense",
        "PGSSLNEGOTIATION": "nonsense",
        "PGTARGETSESSIONATTRS": "nonsense",
        "PGGSSLIB": "nonsense",
        "PGPASSFILE": str(tmp_path),
        "PGSERVICE": "nonsense",
        "PGSERVICEFILE": str(tmp_path / "absent"),
    }.items():
        monkeypatch.setenv(name, value)
    assert await fetch(database_url) == 1


async def test_connect_timeout_is_that_of_each_host(database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    port = database_url.rpartition(":")[2].partition("/")[0]
    async with unresponsive_port() as silent:
        url = f"postgresql://postgres@127.0.0.1:{silent},127.0.0.1:{port}/{name}?connect_timeout=1"
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        assert await fetch(url) == 1
        assert 0.9 < loop.time() - started_at < 5
        alone = f"postgresql://postgres@127.0.0.1:{silent}/{name}?connect_timeout=1"
        assert await read_reason(alone) == "it took too long to connect"


# --- several hosts


async def test_primary_is_found_and_tried_first_from_then_on(
    postgres_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    absent = find_free_port()
    url = (
        f"postgresql://postgres@127.0.0.1:{absent},localhost:{postgres_server.port}/postgres"
        "?target_session_attrs=read-write"
    )
    clock = FakeClock()
    connector = Connector.parse(url, log=ConnectionLog("postgres", monotonic=clock.monotonic))
    for _ in range(3):
        connection = await connector.connect()
        await connection.close()
    assert [(r.msg, vars(r)["address"]) for r in caplog.records if r.levelno > logging.INFO] == [
        ("store connection failed", f"127.0.0.1:{absent}")
    ]


async def test_reason_of_each_host_is_told(own_postgres: Server) -> None:
    await execute(own_postgres, "ALTER SYSTEM SET default_transaction_read_only = on")
    await execute(own_postgres, "SELECT pg_reload_conf()")
    absent = find_free_port()
    hosts = f"127.0.0.1:{absent},127.0.0.1:{own_postgres.port}"
    url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"
    expected = (
        f"127.0.0.1:{absent}: it cannot be reached: Connection refused; "
        f"127.0.0.1:{own_postgres.port}: it is a standby"
    )
    reasons: list[str] = []

    async def is_read_only() -> bool:
        """Return whether the server has reloaded its configuration."""
        with suppress(StoreUnavailable):
            await fetch(url)
            return False
        reasons.append(await read_reason(url))
        return True

    await wait_until_async(is_read_only)
    assert reasons == [expected]


# --- reasons


async def test_unknown_host_is_named() -> None:
    reason = await read_reason("postgresql://u@absent.invalid/x?sslmode=disable")
    assert reason.startswith("it cannot be reached: its name cannot be resolved: ")


async def test_unknown_database_and_role_have_their_sqlstate(postgres_server: Server) -> None:
    base = f"127.0.0.1:{postgres_server.port}"
    assert await read_reason(f"postgresql://postgres@{base}/absent") == (
        'the database does not exist (3D000: database "absent" does not exist)'
    )
    assert await read_reason(f"postgresql://absent@{base}/postgres") == (
        'it rejects the user or password (28000: role "absent" does not exist)'
    )


async def test_option_that_the_server_refuses_is_a_reason(postgres_server: Server) -> None:
    reason = await read_reason(f"{postgres_server.url}?options=-c%20no_such_setting=1")
    assert reason == (
        'it refused the connection (42704: unrecognized configuration parameter "no_such_setting")'
    )


@pytest.mark.parametrize(
    ("sqlstate", "message", "reason"),
    [
        (
            "08P01",
            "unsupported startup parameter: options",
            "it or a pooler refused the connection (08P01: unsupported startup parameter: options)",
        ),
        (
            "08P01",
            "no such\ndatabase: x",
            "it or a pooler refused the connection (08P01: no such database: x)",
        ),
        ("53300", "no more connections allowed", "it has too many connections (53300: no more "),
        ("0A000", "not supported", "it refused the connection (0A000: not supported)"),
        ("ZZZZZ", "x" * 999, "it or a pooler answered with an unknown error (ZZZZZ: xxx"),
    ],
)
async def test_sentence_of_a_pooler_is_told(sqlstate: str, message: str, reason: str) -> None:
    async with pooler(sqlstate, message) as port:
        told = await read_reason(f"postgresql://u@127.0.0.1:{port}/x")
    assert told.startswith(reason)
    assert len(told) < 300


async def test_wrong_password_is_not_in_the_reason(own_postgres: Server) -> None:
    await execute(own_postgres, "CREATE ROLE ada LOGIN PASSWORD 'right'")
    hba = own_postgres.directory / "pg" / "pg_hba.conf"
    hba.write_text("host all all all scram-sha-256\n")
    own_postgres.restart()
    base = f"127.0.0.1:{own_postgres.port}/postgres"
    assert await fetch(f"postgresql://ada:right@{base}") == 1
    assert await read_reason(f"postgresql://ada:hunter2@{base}") == (
        'it rejects the user or password (28P01: password authentication failed for user "ada")'
    )
    assert "28P01" in await read_reason(f"postgresql://ada@{base}")


async def test_denied_permission_is_named_and_logged_once(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await migrate_postgres(database_url)
    role = f"role_{find_free_port()}"
    async with connect(database_url) as connection:
        await connection.execute(f"CREATE ROLE {role} LOGIN")
        await connection.execute(f"GRANT SELECT ON sidegate_migrations TO {role}")
    database = await PostgresDatabase.open(database_url.replace("postgres@", f"{role}@"))
    reason = "the user lacks a permission (42501: permission denied for table sessions)"
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as outage:
            await database.execute("SELECT FROM sessions")
        assert outage.value.reason == reason
    await database.close()
    assert read_events(caplog) == [("store permission denied", reason)]
    async with connect(database_url) as connection:
        await connection.execute(f"DROP OWNED BY {role}")
        await connection.execute(f"DROP ROLE {role}")


async def test_refusal_and_its_end_are_logged_once(
    own_postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sidegate.stores")
    database = await PostgresDatabase.open(own_postgres.url)
    own_postgres.kill()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await database.execute("SELECT 1")
    await asyncio.to_thread(own_postgres.restart)

    async def query() -> None:
        with pytest.raises(StoreUnavailable, match="lacks migrations"):
            await database.execute("SELECT 1")

    await query()
    await database.close()
    assert read_events(caplog) == [
        ("store connection failed", "it cannot be reached: Connection refused"),
        ("store connection restored", None),
    ]


async def test_cancelled_callers_still_have_the_reason_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A check waits less than a handshake may take."""
    async with unresponsive_port() as silent:
        url = f"postgresql://u@127.0.0.1:{silent}/x?connect_timeout=1"
        database = await PostgresDatabase.open(url)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(database.execute("SELECT 1"), 0.05)
        await wait_until(lambda: bool(read_events(caplog)))
        await database.close()
    assert read_events(caplog) == [("store connection failed", "it took too long to connect")]


def read_events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str | None]]:
    """Return the events of the store, each with its reason."""
    records = [record for record in caplog.records if record.name == "sidegate.stores"]
    return [(record.msg, vars(record).get("reason")) for record in records]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            build_message(b"R", (99).to_bytes(4, "big")),
            "no connection is possible: unsupported authentication method requested by the server",
        ),
        (
            LOGGED_IN + build_message(b"S", b"server_version\0unknown\0") + READY,
            "its answer cannot be read",
        ),
        (LOGGED_IN + build_message(b"S", b"x\0\xe9\0") + READY, "its answer cannot be read"),
    ],
    ids=["unknown authentication", "unknown version", "not UTF-8"],
)
async def test_answer_that_cannot_be_used_is_an_outage_with_its_reason(
    answer: bytes, reason: str
) -> None:
    async with answering_port(answer) as port:
        url = f"postgresql://ada:hunter2@127.0.0.1:{port}/postgres"
        assert (await read_reason(url)).startswith(reason)
