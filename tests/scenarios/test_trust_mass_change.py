"""An instance catches up with any number of changes that were made while its link was cut."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp

from sidegate.core.condition import Condition
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.bench.connection import Connection, connect
from tests.bench.sessions import create_database
from tests.contracts.values import TESTER
from tests.scenarios.test_pending_revocations import BOUND
from tests.scenarios.trust_sites import (
    FOR_A_BUSY_MACHINE,
    Client,
    disconnect,
    query_through,
)
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.support.processes import Server
from tests.support.sidegate import Sidegate

_SESSIONS: Final = int(os.environ.get("TESTS_MASS_CHANGE", "20000"))

# Sessions that the instance has copies of; the others it reads from the database.
_CACHED: Final = 2_000

# Of these, some are checked again and again, until all are refused: that is hardly any load.
_SAMPLE: Final = 40

# Bytes by which the memory of the process may grow, whatever the number of changes, and for each
# of them: much less than it takes.
_MAX_GROWTH: Final = 16 * 2**20 + 100 * _SESSIONS

_DATABASE: Final = "mass"
_CONNECTIONS: Final = 16


async def test_every_session_of_a_mass_revocation_is_refused_after_the_link_is_back(
    instances: Callable[..., Sidegate],
    shared_settings: dict[str, str],
    own_postgres: Server,
    http: aiohttp.ClientSession,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    """The slowest response meanwhile, which tells how long the loop was blocked, is recorded."""
    ring = KeyRing([TokenKey.parse(shared_settings["SIDEGATE_TOKEN__KEYS"])])
    url, known = await create_database(
        own_postgres.url, _DATABASE, ring, sessions=_SESSIONS, filler=0
    )
    tokens = [session.token.text for session in known[:: max(1, _SESSIONS // _CACHED)]]
    async with TcpProxy(own_postgres.port) as proxy:
        settings = {**FOR_A_BUSY_MACHINE, **query_through(proxy, _DATABASE)}
        settings["SIDEGATE_MEMORY__MAX_SESSIONS"] = str(_CACHED)
        client = Client(await asyncio.to_thread(instances, **settings), http)
        assert len(await list_allowed(client, tokens)) == len(tokens)
        memory = read_memory(client)
        disconnect(proxy)
        await revoke_all(url)
        proxy.refuse_new = False
        since = time.monotonic()
        async with measure_responses(client) as durations:
            await assert_refused(client, tokens[:: _CACHED // _SAMPLE], since=since)
            await assert_refused(client, tokens, since=since)
        record_testsuite_property("slowest_response", max(durations))
        growth = read_memory(client) - memory
        record_testsuite_property("bytes_per_change", growth / _SESSIONS)
        assert growth < _MAX_GROWTH


async def revoke_all(url: str) -> None:
    """Revoke all sessions of a database by one statement."""
    store = await PostgresSessions.open(url)
    now = datetime.now(UTC)
    condition = Condition(type=SessionType.WEB)
    await store.revoke_where(condition, at=now, by=TESTER, reason="leak", limit=_SESSIONS)
    await store.close()


async def list_allowed(client: Client, tokens: Iterable[str]) -> dict[str, float]:
    """Check each token once; return those that are allowed, with the time of the request."""
    waiting, allowed = iter(tokens), dict[str, float]()

    async def check_remaining() -> None:
        async with connect(client.sidegate.server.port) as connection:
            for token in waiting:  # shared by the connections
                now = time.monotonic()
                if await is_allowed(connection, token):
                    allowed[token] = now

    await asyncio.gather(*(check_remaining() for _ in range(_CONNECTIONS)))
    return allowed


async def assert_refused(client: Client, tokens: Iterable[str], *, since: float) -> None:
    """Check until none is allowed. Fail if one is, later than the bound after `since`."""
    while allowed := await list_allowed(client, tokens):
        late = max(allowed.values()) - since
        assert late < BOUND, f"{len(allowed)} are allowed {late:.1f} s later"
        tokens = allowed


async def is_allowed(connection: Connection, token: str) -> bool:
    head = f"GET /forward-auth HTTP/1.1\r\nHost: sidegate\r\nAuthorization: Bearer {token}\r\n\r\n"
    status, _ = await connection.request(head)
    return status == 200


@asynccontextmanager
async def measure_responses(client: Client) -> AsyncIterator[list[float]]:
    """Send a request that needs no store again and again; yield the list of the durations."""
    durations = list[float]()

    async def measure() -> None:
        async with connect(client.sidegate.ops_port) as connection:
            while True:
                start = time.monotonic()
                await connection.request("GET /livez HTTP/1.1\r\nHost: sidegate\r\n\r\n")
                durations.append(time.monotonic() - start)

    measuring = asyncio.create_task(measure())
    try:
        yield durations
    finally:
        measuring.cancel()
        await asyncio.wait([measuring])


def read_memory(client: Client) -> int:
    """Return the resident memory of an instance in bytes."""
    pid = client.sidegate.server.process.pid
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
