"""TLS to Postgres: a server that is not verified gets no password, and the reason is told."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from sidegate.core.clock import SystemClock
from sidegate.core.errors import SchemaMismatch, StoreUnavailable
from sidegate.core.postgres_url import SslMode
from sidegate.stores.postgres.connector import Connector, connect
from sidegate.stores.postgres.database import PostgresDatabase
from sidegate.stores.postgres.notify import NotifySubscription
from tests.stores.waiting import wait_until
from tests.support.authority import Authority, Certificate
from tests.support.processes import Server, temporary_directory
from tests.support.tls_proxy import TlsProxy
from tests.support.tls_servers import start_tls_postgres

EXPIRED = timedelta(hours=-1)


@pytest.fixture
def authority(workdir: Path) -> Authority:
    return Authority(workdir)


@pytest.fixture
def certificate(authority: Authority) -> Certificate:
    return authority.issue("server")


@pytest.fixture
async def proxy(postgres_server: Server, certificate: Certificate) -> AsyncIterator[TlsProxy]:
    """A Postgres with TLS, whose certificate can be changed at any time."""
    async with TlsProxy(postgres_server.port, certificate, is_postgres=True) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def server_authority() -> Iterator[Authority]:
    with temporary_directory() as directory:
        yield Authority(directory)


@pytest.fixture(scope="module")
def tls_server(server_authority: Authority) -> Iterator[Server]:
    """A Postgres whose TLS is its own. It accepts no plain text."""
    with temporary_directory() as directory:
        server = start_tls_postgres(directory, server_authority)
        yield server
        server.stop()


def build_url(proxy: TlsProxy, parameters: str, *, host: str = "127.0.0.1") -> str:
    return f"postgresql://postgres:hunter2@{host}:{proxy.port}/postgres?{parameters}"


async def is_encrypted(url: str) -> bool:
    """Connect; return whether the server says that this connection has TLS."""
    async with connect(url) as connection:
        query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        return bool(await connection.fetchval(query))


async def select_one(url: str) -> int:
    async with connect(url) as connection:
        return int(await connection.fetchval("SELECT 1"))


async def read_reason(url: str) -> str:
    """Return why there is no connection."""
    with pytest.raises(StoreUnavailable) as outage:
        await select_one(url)
    assert "hunter2" not in str(outage.value)
    return outage.value.reason


# --- what is accepted


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca", "require"])
async def test_certificate_of_the_private_ca_is_accepted(
    proxy: TlsProxy, authority: Authority, mode: str
) -> None:
    url = build_url(proxy, f"sslmode={mode}&sslrootcert={authority.ca_file}")
    assert await select_one(url) == 1
    assert proxy.received == b""


async def test_other_machine_is_verified_by_default(proxy: TlsProxy, authority: Authority) -> None:
    assert await select_one(build_url(proxy, f"sslrootcert={authority.ca_file}", host="127.1")) == 1
    reason = await read_reason(build_url(proxy, "", host="127.1"))  # the CAs of the system
    assert reason.startswith("its certificate is refused: ")


async def test_verify_ca_accepts_another_name(proxy: TlsProxy, authority: Authority) -> None:
    proxy.use(authority.issue("elsewhere", hosts=("elsewhere.example",)))
    url = build_url(proxy, f"sslmode=verify-ca&sslrootcert={authority.ca_file}")
    assert await select_one(url) == 1


async def test_no_verify_accepts_any_certificate(proxy: TlsProxy, authority: Authority) -> None:
    proxy.use(authority.self_sign("nameless", hosts=()))
    assert await select_one(build_url(proxy, "sslmode=no-verify", host="127.1")) == 1


async def test_disable_sends_plain_text(postgres_server: Server) -> None:
    url = f"postgresql://postgres@127.1:{postgres_server.port}/postgres?sslmode=disable"
    assert not await is_encrypted(url)


async def test_server_with_tls_of_its_own(tls_server: Server, server_authority: Authority) -> None:
    url = f"{tls_server.url}?sslmode=verify-full&sslrootcert={server_authority.ca_file}"
    assert await is_encrypted(url)
    assert await is_encrypted(f"{url}&channel_binding=require")


async def test_server_that_requires_tls_says_so_to_plain_text(tls_server: Server) -> None:
    reason = await read_reason(f"{tls_server.url}?sslmode=disable")
    assert reason.startswith("it rejects the user or password (28000: no pg_hba.conf entry for ")
    assert "no encryption" in reason


# --- what is refused


@pytest.mark.parametrize("mode", [SslMode.VERIFY_FULL, SslMode.VERIFY_CA])
async def test_wrong_ca_is_refused(
    proxy: TlsProxy, authority: Authority, workdir: Path, mode: SslMode
) -> None:
    other = Authority(workdir, "other")
    proxy.use(other.issue("impostor"))
    reason = await read_reason(build_url(proxy, f"sslmode={mode}&sslrootcert={authority.ca_file}"))
    assert reason == ("its certificate is refused: unable to get local issuer certificate")


async def test_wrong_name_is_refused(proxy: TlsProxy, authority: Authority) -> None:
    proxy.use(authority.issue("elsewhere", hosts=("elsewhere.example",)))
    reason = await read_reason(build_url(proxy, f"sslrootcert={authority.ca_file}"))
    assert reason == (
        "its certificate is refused: IP address mismatch, certificate is not valid for '127.0.0.1'"
    )


async def test_expired_certificate_is_refused(proxy: TlsProxy, authority: Authority) -> None:
    proxy.use(authority.issue("old", valid_for=EXPIRED))
    reason = await read_reason(build_url(proxy, f"sslrootcert={authority.ca_file}"))
    assert reason == "its certificate is refused: certificate has expired"


async def test_self_signed_certificate_is_refused(proxy: TlsProxy, authority: Authority) -> None:
    proxy.use(authority.self_sign("self"))
    reason = await read_reason(build_url(proxy, f"sslrootcert={authority.ca_file}"))
    assert reason == "its certificate is refused: self-signed certificate"


async def test_plain_answer_is_refused_and_gets_nothing(
    proxy: TlsProxy, authority: Authority
) -> None:
    proxy.refuses_tls = True
    for parameters in (f"sslrootcert={authority.ca_file}", "sslmode=require", "sslmode=no-verify"):
        reason = await read_reason(build_url(proxy, parameters))
        assert reason == "it answers without TLS"
    assert proxy.received == b""


async def test_certificate_that_expires_is_refused_to_new_connections_only(
    proxy: TlsProxy, authority: Authority, certificate: Certificate
) -> None:
    url = build_url(proxy, f"sslrootcert={authority.ca_file}")
    async with connect(url) as connection:
        proxy.use(authority.issue("old", valid_for=EXPIRED))
        assert "certificate has expired" in await read_reason(url)
        assert await connection.fetchval("SELECT 1") == 1
    proxy.use(certificate)
    assert await select_one(url) == 1


# --- certificates of the client


async def test_client_certificate_is_presented(
    proxy: TlsProxy, authority: Authority, certificate: Certificate
) -> None:
    proxy.use(certificate, client_ca=str(authority.ca_file))
    client = authority.issue("client")
    url = build_url(proxy, f"sslrootcert={authority.ca_file}")
    assert await read_reason(url) == "the connection was lost"  # by a proxy, which says no more
    assert await select_one(f"{url}&sslcert={client.cert_file}&sslkey={client.key_file}") == 1


async def test_client_certificate_is_the_login(workdir: Path, server_authority: Authority) -> None:
    server = await asyncio.to_thread(
        start_tls_postgres, workdir, server_authority, hba="hostssl all all all cert"
    )
    try:
        url = f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
        url += f"?sslrootcert={server_authority.ca_file}"
        own, other = (build_client_url(url, server_authority, name) for name in ("postgres", "ada"))
        assert await is_encrypted(own)
        assert "28000: certificate authentication failed" in await read_reason(other)
        assert "28000: connection requires a valid client cert" in await read_reason(url)
    finally:
        server.stop()


def build_client_url(url: str, authority: Authority, name: str) -> str:
    """Return a URL with a client certificate for a user's name."""
    client = authority.issue(name)
    return f"{url}&sslcert={client.cert_file}&sslkey={client.key_file}"


async def test_renewed_client_certificate_is_used_by_new_connections(
    proxy: TlsProxy, authority: Authority, certificate: Certificate, workdir: Path
) -> None:
    (workdir / "retired").mkdir()
    retired = Authority(workdir / "retired").issue("client")
    client = authority.issue("client")
    renewed = client.cert_file.read_bytes(), client.key_file.read_bytes()
    client.cert_file.write_bytes(retired.cert_file.read_bytes())
    client.key_file.write_bytes(retired.key_file.read_bytes())
    proxy.use(certificate, client_ca=str(authority.ca_file))
    url = build_url(
        proxy,
        f"sslrootcert={authority.ca_file}&sslcert={client.cert_file}&sslkey={client.key_file}",
    )
    connector = Connector.parse(url)
    with pytest.raises(StoreUnavailable, match="the connection was lost"):
        await connector.connect()
    client.cert_file.write_bytes(renewed[0])  # the key is still the old one
    with pytest.raises(StoreUnavailable, match="the connection was lost"):
        await connector.connect()
    client.key_file.write_bytes(renewed[1])
    connection = await connector.connect()
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


# --- every way to connect


async def test_pool_and_notifications_are_verified(proxy: TlsProxy, authority: Authority) -> None:
    url = build_url(proxy, f"sslrootcert={authority.ca_file}")
    database = await PostgresDatabase.open(url)
    with pytest.raises(SchemaMismatch):  # it has answered
        await database.check_schema()
    await database.close()
    database = await PostgresDatabase.open(build_url(proxy, "", host="127.1"))
    with pytest.raises(StoreUnavailable, match="its certificate is refused"):
        await database.check_schema()
    await database.close()
    statuses: list[bool] = []
    for expected in (True, False):
        if not expected:
            proxy.use(authority.self_sign("self"))
        subscription = NotifySubscription(url, clock=SystemClock(), on_lag=lambda _: None)
        listening = asyncio.create_task(
            subscription.listen(on_notify=lambda: None, on_status=statuses.append)
        )
        await wait_until(lambda: bool(statuses))
        assert statuses[0] is expected
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        statuses.clear()
