"""Sessions that a command line without Redis revokes are not allowed from Redis."""

import asyncio
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp
import pytest

from tests.scenarios.test_pending_revocations import BOUND
from tests.scenarios.trust_sites import FOR_A_BUSY_MACHINE, Client, map_concurrently
from tests.support.processes import module_command
from tests.support.sidegate import Sidegate

# More than an instance reads at once, and than any list of the last changes has.
_SESSIONS: Final = 1_500


def revoke_all(user: str, settings: dict[str, str]) -> None:
    """Revoke a user's sessions by command line, with these settings but without Redis."""
    done = subprocess.run(
        module_command("sidegate", "session", "revoke", "--user", user),
        env={name: value for name, value in settings.items() if name != "SIDEGATE_REDIS_URL"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, f"revoked {_SESSIONS}\n"), done.stderr


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
async def test_sessions_revoked_without_redis_are_not_allowed_from_redis(
    running: bool,
    instances: Callable[..., Sidegate],
    shared_settings: dict[str, str],
    http: aiohttp.ClientSession,
) -> None:
    settings = {**FOR_A_BUSY_MACHINE, "SIDEGATE_MEMORY__MAX_SESSIONS": "1"}
    client = Client(await asyncio.to_thread(instances, **settings), http)
    kept = await client.create("bob")
    sessions = await map_concurrently(lambda _: client.create("alice"), range(_SESSIONS))
    tokens = [session.token for session in sessions]
    assert set(await map_concurrently(client.check, tokens)) == {200}
    if not running:
        await client.stop()
    await asyncio.to_thread(revoke_all, "alice", shared_settings)
    since = time.monotonic()
    if not running:
        since -= BOUND
        await client.restart()
    await assert_none_allowed(client, tokens, since=since)
    assert await client.check(kept.token) == 200


async def assert_none_allowed(client: Client, tokens: Sequence[str], *, since: float) -> None:
    """Check all tokens until none is allowed. Fail if one is later than the bound after `since`."""
    while True:
        now = time.monotonic()
        allowed = (await map_concurrently(client.check, tokens)).count(200)
        if not allowed:
            return
        assert now < since + BOUND, f"{allowed} of {len(tokens)} are allowed"
