"""What a URL of Redis does to connections, and what the store says of one that fails."""

import asyncio
import logging
import re
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from sidegate.core.clock import SystemClock
from sidegate.core.errors import StoreUnavailable
from sidegate.stores.redis.pending_revocations import RedisPendingRevocations
from sidegate.stores.redis.pubsub import RedisPubSub
from tests.contracts.values import build_session
from tests.stores.redis.clients import open_client, ping, read_reason
from tests.stores.waiting import wait_until
from tests.support.pages import ROOT
from tests.support.processes import Server, find_free_port
from tests.support.redis_trust import FollowedRedis
from tests.support.servers import start_redis, start_sentinel


def execute(server: Server, *command: str) -> None:
    with redis.Redis(port=server.port) as client:
        client.execute_command(*command)


def read_events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str | None]]:
    """Return the events of the store, each with its reason."""
    records = [record for record in caplog.records if record.name == "sidegate.stores"]
    return [(record.msg, vars(record).get("reason")) for record in records]


# --- parameters


async def test_unix_socket_with_user_and_database(workdir: Path) -> None:
    path = workdir / "redis.sock"
    server = await asyncio.to_thread(
        start_redis, workdir, None, ["--unixsocket", str(path), "--unixsocketperm", "777"]
    )
    execute(server, "ACL", "SETUSER", "ada", "on", ">p@ss", "~*", "&*", "+@all")
    for url in (
        f"unix://ada:p%40ss@{path}?db=3",
        f"unix://{path}?db=3&username=ada&password=p%40ss",
    ):
        async with (
            open_client(url) as client,
            client.acquire(await client.get_pool(b"key")) as borrowed,
        ):
            [info] = await borrowed.execute(("CLIENT", "INFO"))
            assert re.search(rb" db=3 .* user=ada ", info)
    server.stop()


async def test_plain_sentinel_with_a_password_of_its_own(workdir: Path) -> None:
    server = await asyncio.to_thread(start_redis, workdir)
    sentinel = await asyncio.to_thread(start_sentinel, workdir, server.port)
    execute(sentinel, "ACL", "SETUSER", "default", "resetpass", ">letmein")
    base = f"redis+sentinel://{sentinel.address}"
    await ping(f"{base}/mymaster?sentinel_password=letmein")
    assert await read_reason(f"{base}/mymaster") == (
        f"no primary from the Sentinels: {sentinel.address}: NOAUTH Authentication required."
    )
    assert await read_reason(f"{base}/absent?sentinel_password=letmein") == (
        f"no primary from the Sentinels: {sentinel.address}: knows no primary named absent"
    )
    # The password of the data servers is not that of the Sentinels.
    execute(server, "CONFIG", "SET", "requirepass", "other")
    reason = await read_reason(f"{base}/mymaster?sentinel_password=letmein")
    assert reason == "NOAUTH Authentication required."
    await ping(f"redis+sentinel://:other@{sentinel.address}/mymaster?sentinel_password=letmein")
    sentinel.kill()
    server.kill()


async def test_sentinel_that_is_down_is_passed_over_and_named(
    workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = await asyncio.to_thread(start_redis, workdir)
    sentinel = await asyncio.to_thread(start_sentinel, workdir, server.port)
    absent = f"127.0.0.1:{find_free_port()}"
    async with open_client(f"redis+sentinel://{absent},{sentinel.address}/mymaster") as client:
        await client.ping()
    assert [vars(record)["address"] for record in caplog.records] == [absent]
    assert read_events(caplog) == [("store connection failed", "Connection refused")]
    sentinel.kill()
    server.kill()


# --- reasons


async def test_wrong_password_has_the_code_and_the_sentence_of_the_server(
    own_redis: Server, caplog: pytest.LogCaptureFixture
) -> None:
    execute(own_redis, "CONFIG", "SET", "requirepass", "right")
    address = own_redis.address
    assert await read_reason(f"redis://{address}") == "NOAUTH Authentication required."
    wrong = "WRONGPASS invalid username-password pair or user is disabled."
    assert await read_reason(f"redis://:hunter2@{address}") == wrong
    assert await read_reason(f"redis://ada:hunter2@{address}") == wrong
    caplog.clear()
    async with open_client(f"redis://:hunter2@{address}") as client:
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await client.ping()
    assert read_events(caplog) == [("store connection failed", wrong)]
    assert vars(caplog.records[0])["address"] == address
    assert "hunter2" not in caplog.text


async def test_unknown_host_and_closed_port_are_told() -> None:
    reason = await read_reason("redis://absent.invalid")
    assert reason.startswith("its name cannot be resolved: ")
    port = find_free_port()
    for scheme in "redis", "redis+cluster":
        assert await read_reason(f"{scheme}://127.0.0.1:{port}") == "Connection refused"
    assert await read_reason("unix:///absent/redis.sock") == "No such file or directory"


async def test_server_that_is_no_cluster_says_so(own_redis: Server) -> None:
    reason = await read_reason(f"redis+cluster://{own_redis.address}")
    assert "cluster support disabled" in reason
    execute(own_redis, "CONFIG", "SET", "requirepass", "right")
    reason = await read_reason(f"redis+cluster://{own_redis.address}")
    assert reason == "NOAUTH Authentication required."


async def test_replica_is_no_primary(own_redis: Server) -> None:
    execute(own_redis, "REPLICAOF", "127.0.0.1", "1")
    assert await read_reason(own_redis.url) == "not a primary"


async def test_server_that_quotes_the_command_does_not_give_the_password_away(
    workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = await asyncio.to_thread(start_redis, workdir, None, ["--rename-command", "AUTH", ""])
    reason = await read_reason(f"redis://ada:hunter2@{server.address}")
    assert reason.lower().startswith("err unknown command")
    assert "hunter2" not in reason + caplog.text + repr([vars(r) for r in caplog.records])
    server.stop()


@pytest.mark.parametrize("command", ["info", "role", "ping"])
async def test_permission_that_is_denied_is_named_and_logged_once(
    own_redis: Server, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    execute(own_redis, "ACL", "SETUSER", "ada", "on", "nopass", "~*", "&*", "+@all", f"-{command}")
    async with open_client(f"redis://ada:x@{own_redis.address}") as client:
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="NOPERM "):
                await client.ping()
    [(event, reason)] = read_events(caplog)
    assert event in ("store connection failed", "store permission denied")
    assert reason is not None
    assert reason.startswith("NOPERM ")
    assert f"'{command}' command" in reason


async def test_outage_and_its_end_are_logged_once(
    own_redis: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sidegate.stores")
    async with open_client(own_redis.url) as client:
        await client.ping()
        own_redis.kill()
        for _ in range(4):
            with pytest.raises(StoreUnavailable):
                await client.ping()
        await asyncio.to_thread(own_redis.restart)
        await client.ping()
    assert read_events(caplog) == [
        ("store connection failed", "Connection refused"),
        ("store connection restored", None),
    ]


# --- the user of docs/deployment.md


async def test_documented_permissions_are_enough(any_redis: Server) -> None:
    page = (ROOT / "docs/deployment.md").read_text("utf-8")
    rights = re.search(r"user in Redis: `([^`]+)`", page)
    assert rights is not None
    execute(any_redis, "FLUSHALL")
    execute(any_redis, "ACL", "SETUSER", "ada", "reset", "on", ">p", *rights[1].split())
    store = FollowedRedis(f"redis://ada:p@{any_redis.address}")
    await store.follow()
    session = build_session()
    await store.put(session)
    assert await store.find(session.digest) == session
    await store.ping()
    namespace = next(iter(store.trust.verified))
    assert [page async for page in store.read_tombstones(namespace)] in ([], [[]])
    pending = RedisPendingRevocations(store.client, on_unreadable=lambda _: None)
    assert await pending.compare(set()) == ([], set())
    statuses: list[bool] = []
    feed = RedisPubSub(
        store.client, clock=SystemClock(), on_lag=lambda _: None, on_unreadable=lambda _: None
    )
    listening = asyncio.create_task(
        feed.listen(on_change=lambda _: None, on_gap=lambda: None, on_status=statuses.append)
    )
    await wait_until(lambda: len(statuses) >= 2)
    assert all(statuses)
    listening.cancel()
    with suppress(asyncio.CancelledError):
        await listening
    await store.close()
    execute(any_redis, "ACL", "DELUSER", "ada")
