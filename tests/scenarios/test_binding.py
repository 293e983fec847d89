"""A bound session, from the admin API by way of the gate to its end, in a process of its own."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection

import pytest
from aiohttp import ClientSession

from tests.support.processes import temporary_directory
from tests.support.sidegate import Created, Sidegate, start_sidegate

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
PATIENCE = 10.0


@pytest.fixture
def sidegate() -> Iterator[Sidegate]:
    """An instance that only counts what is odd about the device, and ends what is another's."""
    with temporary_directory() as directory:
        sidegate = start_sidegate(
            directory,
            SIDEGATE_BINDING__USER_AGENT="revoke",
            SIDEGATE_BINDING__HEADER='{"name": "X-Device", "policy": "log"}',
            SIDEGATE_DRAIN__DELAY="0s",
        )
        yield sidegate
        sidegate.server.stop()


async def check(http: ClientSession, sidegate: Sidegate, created: Created, **shown: str) -> int:
    lines = {name.replace("_", "-"): value for name, value in shown.items()}
    headers = {"Authorization": f"Bearer {created.token}", **lines}
    async with http.get(f"http://{sidegate.address}/auth-request", headers=headers) as answer:
        return answer.status


def metrics(sidegate: Sidegate) -> list[str]:
    with closing(HTTPConnection("127.0.0.1", sidegate.ops_port, timeout=5)) as ops:
        ops.request("GET", "/metrics")
        return ops.getresponse().read().decode().splitlines()


async def test_a_thief_is_refused_and_the_session_ends(
    http: ClientSession, sidegate: Sidegate
) -> None:
    binding = {"user_agent": FIREFOX, "header": "device 7"}
    created = sidegate.create_session(binding=binding)

    own = await check(http, sidegate, created, User_Agent=FIREFOX, X_Device="device 7")
    odd = await check(http, sidegate, created, User_Agent=FIREFOX, X_Device="device 8")
    thief = await check(http, sidegate, created, User_Agent="curl/8.5.0")

    assert (own, odd, thief) == (200, 200, 401)
    deadline = time.monotonic() + PATIENCE
    while (shown := sidegate.show_session(created.session_id))["state"] != "revoked":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert (shown["revoked_by"], shown["revoked_reason"]) == ("sidegate", "binding")
    assert await check(http, sidegate, created, User_Agent=FIREFOX, X_Device="device 7") == 401
    told = metrics(sidegate)
    assert 'sidegate_binding_mismatches_total{policy="log",signal="header"} 2.0' in told
    assert 'sidegate_binding_mismatches_total{policy="revoke",signal="user_agent"} 1.0' in told
    assert 'sidegate_binding_revocations_total{outcome="revoked"} 1.0' in told
