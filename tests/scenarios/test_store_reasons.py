"""Why a store cannot be used: in the log once, with what the store says, and in the metrics."""

import asyncio
import http.client
import re
from collections.abc import Callable
from contextlib import closing

import asyncpg
import pytest
import redis

from tests.scenarios.test_outage_events import read_events
from tests.stores.waiting import wait_until
from tests.support.processes import Server
from tests.support.sidegate import Sidegate

Start = Callable[..., Sidegate]


def get(sidegate: Sidegate, path: str) -> str:
    with closing(http.client.HTTPConnection("127.0.0.1", sidegate.ops_port, timeout=10)) as client:
        client.request("GET", path)
        return client.getresponse().read().decode()


def is_up(sidegate: Sidegate, store: str) -> bool:
    page = get(sidegate, "/metrics")
    [value] = re.findall(rf'^sidegate_store_up{{store="{store}"}} (\S+)$', page, re.MULTILINE)
    return float(value) == 1.0


def read_reasons(sidegate: Sidegate, store: str) -> list[str]:
    """Return the reasons why there is no connection or permission, as logged at connection time."""
    return [
        event["reason"]
        for event in read_events(sidegate)
        if event["event"] in ("store connection failed", "store permission denied")
        and event["store"] == store
    ]


def execute(server: Server, *command: str) -> None:
    with redis.Redis(port=server.port) as client:
        client.execute_command(*command)


async def wait_until_down(sidegate: Sidegate, store: str, reason: str) -> None:
    """Return when the store is down and the reason is logged; check that it is logged once."""
    await wait_until(lambda: not is_up(sidegate, store), within=30)

    def read() -> list[str]:
        return [each for each in read_reasons(sidegate, store) if reason in each]

    await wait_until(lambda: bool(read()), within=30)
    assert len(read()) == 1


async def test_redis_that_works_is_up(instances: Start, own_redis: Server) -> None:
    sidegate = await asyncio.to_thread(instances)
    await wait_until(lambda: "redis trusted" in sidegate.server.child.log, within=30)
    await wait_until(lambda: is_up(sidegate, "redis"), within=30)
    assert set(read_reasons(sidegate, "redis")) <= {"no answer in time"}  # on a busy machine
    own_redis.kill()
    await wait_until(lambda: not is_up(sidegate, "redis"), within=30)
    await asyncio.to_thread(own_redis.restart)
    await wait_until(lambda: is_up(sidegate, "redis"), within=30)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://:hunter2@{address}", "WRONGPASS invalid username-password pair"),
        ("redis://ada:hunter2@{address}", "WRONGPASS invalid username-password pair"),
        ("redis://{address}", "NOAUTH Authentication required."),
        ("redis://:right@absent.invalid", "its name cannot be resolved: "),
        ("rediss://:right@{address}", "no TLS connection in time"),  # it waits for more
    ],
)
async def test_redis_that_refuses_us_is_down_with_the_reason(
    instances: Start, own_redis: Server, url: str, reason: str
) -> None:
    execute(own_redis, "CONFIG", "SET", "requirepass", "right")
    redis_url = url.format(address=own_redis.address)
    sidegate = await asyncio.to_thread(instances, SIDEGATE_REDIS_URL=redis_url)
    await wait_until_down(sidegate, "redis", reason)
    assert is_up(sidegate, "postgres")
    assert get(sidegate, "/readyz?verbose").splitlines()[-1] == "readyz check passed"
    log = sidegate.server.child.log
    assert "hunter2" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("command", ["ping", "getrange", "evalsha", "publish", "subscribe"])
async def test_redis_that_denies_a_permission_is_down_with_its_name(
    instances: Start, own_redis: Server, command: str
) -> None:
    rights = ["on", "nopass", "~*", "&*", "+@all", f"-{command}"]
    execute(own_redis, "ACL", "SETUSER", "ada", *rights)
    url = f"redis://ada:x@{own_redis.address}"
    sidegate = await asyncio.to_thread(instances, SIDEGATE_REDIS_URL=url)
    await wait_until_down(sidegate, "redis", f"'{command}'")


async def test_postgres_that_refuses_us_is_down_with_the_reason(
    instances: Start, own_postgres: Server
) -> None:
    connection = await asyncpg.connect(own_postgres.url)
    await connection.execute("CREATE ROLE ada LOGIN PASSWORD 'right'")
    await connection.close()
    hba = own_postgres.directory / "pg" / "pg_hba.conf"
    hba.write_text("host all ada all scram-sha-256\nhost all all all trust\n")
    own_postgres.restart()
    for password, reason in (
        ("hunter2", '(28P01: password authentication failed for user "ada")'),
        ("right", "(42501: permission denied for table sidegate_migrations)"),
    ):
        url = own_postgres.url.replace("postgres@", f"ada:{password}@")
        sidegate = await asyncio.to_thread(instances, wait=False, SIDEGATE_DATABASE_URL=url)
        await wait_until_down(sidegate, "postgres", reason)
        assert "hunter2" not in sidegate.server.child.log
