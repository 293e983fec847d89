"""TLS to Redis in every form: the server is verified, and the reason of a refusal is told."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.stores.redis.connection import RedisClient
from tests.stores.redis.clients import open_client, ping, read_reason
from tests.support.authority import Authority
from tests.support.processes import Server, temporary_directory
from tests.support.tls_servers import TlsRedis, start_tls_sentinel

EXPIRED = timedelta(hours=-1)
FORMS = ("server", "sentinel", "cluster")


@dataclass
class Deployment:
    """A Redis with TLS in one form. Tests restore its certificate and its settings."""

    scheme: str
    path: str
    port: int
    redis: TlsRedis
    authority: Authority

    def build_url(self, parameters: str = "", *, user: str = "", db: str = "") -> str:
        ca = f"ssl_ca_certs={self.authority.ca_file}"
        return (
            f"{self.scheme}://{user}127.0.0.1:{self.port}{self.path}{db}"
            f"?{'&'.join(filter(None, (ca, parameters)))}"
        )

    def build_unverified_url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{self.path}?ssl_cert_reqs=none"


@pytest.fixture(scope="module", params=FORMS)
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    form = request.param
    with temporary_directory() as directory:
        authority = Authority(directory)
        redis = TlsRedis(directory, authority, cluster=form == "cluster")
        servers = [redis.server]
        scheme, path, port = "rediss", "", redis.tls_port
        if form == "sentinel":
            sentinel = start_tls_sentinel(directory, authority, redis)
            servers.append(sentinel)
            scheme, path, port = "rediss+sentinel", "/mymaster", sentinel.port
        elif form == "cluster":
            scheme = "rediss+cluster"
        yield Deployment(scheme, path, port, redis, authority)
        for server in servers:
            server.kill()


@pytest.fixture(autouse=True)
def restore(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "deployment" in request.fixturenames:
        deployment: Deployment = request.getfixturevalue("deployment")
        deployment.redis.use(deployment.authority.issue("redis"))
        deployment.redis.execute("CONFIG", "SET", "tls-auth-clients", "no")
        deployment.redis.execute("CONFIG", "SET", "requirepass", "")


# --- what is accepted


async def test_certificate_of_the_private_ca_is_accepted(deployment: Deployment) -> None:
    await ping(deployment.build_url())


async def test_every_connection_has_tls(deployment: Deployment) -> None:
    async with open_client(deployment.build_url()) as client:
        pools = await client.get_pool(b"{0}"), await client.get_pool(b"feed")
        for pool in pools:
            async with client.acquire(pool) as borrowed:
                writer = borrowed._writer  # noqa: SLF001
                assert writer.get_extra_info("cipher") is not None


async def test_ssl_check_hostname_false_accepts_another_name(deployment: Deployment) -> None:
    deployment.redis.use(deployment.authority.issue("x", hosts=("elsewhere.example",)))
    await ping(deployment.build_url("ssl_check_hostname=false"))


async def test_ssl_cert_reqs_none_accepts_any_certificate(deployment: Deployment) -> None:
    deployment.redis.use(deployment.authority.self_sign("self"))
    await ping(deployment.build_unverified_url())


# --- what is refused


async def test_wrong_ca_is_refused(deployment: Deployment, workdir: Path) -> None:
    deployment.redis.use(Authority(workdir, "other").issue("impostor"))
    reason = await read_reason(deployment.build_url())
    assert "its certificate is refused: unable to get local issuer certificate" in reason


async def test_ca_of_the_system_is_the_default(deployment: Deployment) -> None:
    reason = await read_reason(
        f"{deployment.scheme}://127.0.0.1:{deployment.port}{deployment.path}"
    )
    assert "its certificate is refused: " in reason


async def test_wrong_name_is_refused(deployment: Deployment) -> None:
    deployment.redis.use(deployment.authority.issue("x", hosts=("elsewhere.example",)))
    reason = await read_reason(deployment.build_url())
    assert "its certificate is refused: IP address mismatch" in reason


async def test_expired_certificate_is_refused(deployment: Deployment) -> None:
    deployment.redis.use(deployment.authority.issue("old", valid_for=EXPIRED))
    reason = await read_reason(deployment.build_url())
    assert "its certificate is refused: certificate has expired" in reason


async def test_self_signed_certificate_is_refused(deployment: Deployment) -> None:
    deployment.redis.use(deployment.authority.self_sign("self"))
    reason = await read_reason(deployment.build_url())
    assert "its certificate is refused: self-signed certificate" in reason


async def test_certificate_that_expires_is_refused_to_new_connections_only(
    deployment: Deployment,
) -> None:
    async with open_client(deployment.build_url()) as client:
        pool = await client.get_pool(b"{0}")
        async with client.acquire(pool) as borrowed:
            deployment.redis.use(deployment.authority.issue("old", valid_for=EXPIRED))
            with pytest.raises(StoreUnavailable, match="certificate has expired"):
                await client.ping()  # by another connection
            assert await borrowed.execute(("PING",)) == [b"PONG"]
        deployment.redis.use(deployment.authority.issue("redis"))
        await client.ping()


# --- credentials


async def test_client_certificate_is_presented(deployment: Deployment) -> None:
    deployment.redis.execute("CONFIG", "SET", "tls-auth-clients", "yes")
    client = deployment.authority.issue("client")
    own = f"ssl_certfile={client.cert_file}&ssl_keyfile={client.key_file}"
    await ping(deployment.build_url(own))
    reason = await read_reason(deployment.build_url())
    # The server closes at once, and its alert may be lost with the connection.
    assert "certificate required" in reason or "reset" in reason or "closed" in reason


async def test_user_and_password_of_the_data_server(deployment: Deployment) -> None:
    deployment.redis.execute("ACL", "SETUSER", "ada", "on", ">p@ss", "~*", "&*", "+@all")
    deployment.redis.execute("ACL", "SETUSER", "default", "off")
    try:
        await ping(deployment.build_url(user="ada:p%40ss@"))
        await ping(deployment.build_url("username=ada&password=p%40ss"))
        wrong = await read_reason(deployment.build_url(user="ada:wrong-one@"))
        assert "WRONGPASS invalid username-password pair or user is disabled." in wrong
        assert "wrong-one" not in wrong
        missing = await read_reason(deployment.build_url())
        assert "NOAUTH" in missing
    finally:
        command = "ACL", "SETUSER", "default", "on", "nopass"
        deployment.redis.execute(*command, username="ada", password="p@ss")


async def test_database_number(deployment: Deployment) -> None:
    if deployment.scheme == "rediss+cluster":
        return  # has one database
    for url in deployment.build_url(db="/3"), deployment.build_url("db=3"):
        async with (
            open_client(url) as client,
            client.acquire(await client.get_pool(b"key")) as borrowed,
        ):
            [info] = await borrowed.execute(("CLIENT", "INFO"))
            assert b" db=3 " in info


# --- a Sentinel's own password


@pytest.fixture
async def locked_sentinel(workdir: Path) -> AsyncIterator[Deployment]:
    """A Sentinel that wants a password, which is not that of the data server."""
    authority = Authority(workdir)
    redis = await asyncio.to_thread(TlsRedis, workdir, authority)
    sentinel: Server = await asyncio.to_thread(
        start_tls_sentinel, workdir, authority, redis, password="letmein"
    )
    yield Deployment("rediss+sentinel", "/mymaster", sentinel.port, redis, authority)
    sentinel.kill()
    redis.server.kill()


async def test_sentinel_has_a_password_of_its_own(locked_sentinel: Deployment) -> None:
    await ping(locked_sentinel.build_url("sentinel_password=letmein"))
    await ping(locked_sentinel.build_url("sentinel_username=default&sentinel_password=letmein"))
    without = await read_reason(locked_sentinel.build_url())
    assert without == (
        f"no primary from the Sentinels: 127.0.0.1:{locked_sentinel.port}: "
        "NOAUTH Authentication required."
    )
    wrong = await read_reason(locked_sentinel.build_url("sentinel_password=letmeout"))
    assert "WRONGPASS" in wrong
    assert "letmeout" not in wrong


async def test_certificate_of_a_sentinel_is_verified(
    locked_sentinel: Deployment, workdir: Path
) -> None:
    (workdir / "other").mkdir()
    locked_sentinel.authority = Authority(workdir / "other")
    reason = await read_reason(locked_sentinel.build_url("sentinel_password=letmein"))
    assert reason.startswith("no primary from the Sentinels: 127.0.0.1:")
    assert "its certificate is refused: " in reason


# --- servers without TLS


async def test_plain_answer_is_refused(redis_server: Server) -> None:
    """Redis waits for the end of a line, which a TLS handshake seldom has."""
    for scheme in "rediss", "rediss+cluster":
        client = RedisClient(f"{scheme}://:geheim@{redis_server.address}", timeout=0.3)
        with pytest.raises(StoreUnavailable) as outage:
            await client.ping()
        assert outage.value.reason in (
            "no TLS connection in time",
            "it answers without TLS",
            "Connection reset by peer",
            "no answer in time",
        )
        await client.close()


async def test_server_that_answers_in_plain_text_is_refused() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR Protocol error\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reason = await read_reason(f"rediss://127.0.0.1:{port}")
    assert reason == "it answers without TLS"
    server.close()
