"""A session bound to a client is revoked when another client presents its token."""

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
TIMEOUT = 10.0


@pytest.fixture
def sidegate() -> Iterator[Sidegate]:
    """An instance that logs device mismatches, and revokes on user agent mismatches."""
    with temporary_directory() as directory:
        sidegate = start_sidegate(
            directory,
            SIDEGATE_BINDING__USER_AGENT="revoke",
            SIDEGATE_BINDING__HEADER='{"name": "X-Device", "policy": "log"}',
            SIDEGATE_DRAIN__DELAY="0s",
        )
        yield sidegate
        sidegate.server.stop()


async def check(http: ClientSession, sidegate: Sidegate, created: Created, **signals: str) -> int:
    lines = {name.replace("_", "-"): value for name, value in signals.items()}
    headers = {"Authorization": f"Bearer {created.token}", **lines}
    async with http.get(f"http://{sidegate.address}/auth-request", headers=headers) as response:
        return response.status


def metrics(sidegate: Sidegate) -> list[str]:
    with closing(HTTPConnection("127.0.0.1", sidegate.ops_port, timeout=5)) as ops:
        ops.request("GET", "/metrics")
        return ops.getresponse().read().decode().splitlines()


async def test_token_presented_by_another_client_revokes_the_session(
    http: ClientSession, sidegate: Sidegate
) -> None:
    binding = {"user_agent": FIREFOX, "header": "device 7"}
    created = sidegate.create_session(binding=binding)

    own = await check(http, sidegate, created, User_Agent=FIREFOX, X_Device="device 7")
    other_device = await check(http, sidegate, created, User_Agent=FIREFOX, X_Device="device 8")
    other_client = await check(http, sidegate, created, User_Agent="curl/8.5.0")

    assert (own, other_device, other_client) == (200, 200, 401)
    deadline = time.monotonic() + TIMEOUT
    while (shown := sidegate.show_session(created.session_id))["state"] != "revoked":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert (shown["revoked_by"], shown["revoked_reason"]) == ("sidegate", "binding")
    assert await check(http, sidegate, created, User_Agent=FIREFOX, X_Device="device 7") == 401
    lines = metrics(sidegate)
    assert 'sidegate_binding_mismatches_total{policy="log",signal="header"} 2.0' in lines
    assert 'sidegate_binding_mismatches_total{policy="revoke",signal="user_agent"} 1.0' in lines
    assert 'sidegate_binding_revocations_total{outcome="revoked"} 1.0' in lines
