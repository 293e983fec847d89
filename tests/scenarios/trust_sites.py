"""Instances, their stores and faults of these, for the tests of trust in Redis.

A test starts instances as processes, reaches them through HTTP only, and puts a TCP proxy in front
of each store whose faults it needs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self, TypeVar

import aiohttp
import redis

from tests.faults.resources import Series, parse_series
from tests.scenarios.test_outages import CHECK_INTERVAL, check
from tests.scenarios.test_pending_revocations import BOUND, post
from tests.stores.sql.tcp_proxy import ProxiedConnection, TcpProxy
from tests.stores.waiting import wait_until_async
from tests.support.processes import Server, temporary_directory
from tests.support.servers import start_redis
from tests.support.sidegate import Created, Sidegate

_T = TypeVar("_T")
_R = TypeVar("_R")

FOR_A_BUSY_MACHINE: Final = {
    "SIDEGATE_GATE__DEADLINE": "5s",
    "SIDEGATE_REDIS__DEADLINE": "1s",
    "SIDEGATE_POSTGRES__DEADLINE": "2s",
}

READ_REDIS: Final = {
    **FOR_A_BUSY_MACHINE,
    # Each check reads Redis or the database, and memory keeps no tombstone to compare with.
    "SIDEGATE_MEMORY__MAX_AGE": "1ms",
    "SIDEGATE_MEMORY__MAX_SESSIONS": "1",
    "SIDEGATE_NEGATIVE_CACHE__MAX_AGE": "1ms",
}

READ_MEMORY: Final = {
    **FOR_A_BUSY_MACHINE,
    # Only a change that an instance learns of removes a session from its memory.
    "SIDEGATE_MEMORY__MAX_AGE": "1h",
}

# Seconds in which no refused token may be allowed again: two rounds of each background task.
_SETTLED: Final = 1.0
# Seconds without a write after which a Redis is quiet: nothing is written later than that.
_QUIET: Final = 2.0
# Seconds in which Redis must have answered everything; the metrics may be half a second old.
_SERVED: Final = 1.5
_TIMEOUT: Final = 15.0


@dataclass(frozen=True)
class Client:
    """The requests of a test to one instance."""

    sidegate: Sidegate
    http: aiohttp.ClientSession

    async def create(self, user: str = "alice") -> Created:
        status, document = await self.post("/v1/sessions", {"user_id": user, "type": "web"})
        assert status == 201, document
        return Created(document["token"], document["session"]["id"])

    async def refresh(self, token: str) -> str:
        """Rotate, and return the new token."""
        status, document = await self.post("/v1/refresh", {"token": token})
        assert status == 200, document
        return str(document["token"])

    async def migrate(self, session_id: str) -> str:
        """Make it an SSO session, and return the new token."""
        path = f"/v1/sessions/{session_id}/sso"
        status, document = await self.post(path, {"provider": "https://id.example"})
        assert status == 200, document
        return str(document["token"])

    async def revoke(self, session_id: str) -> float:
        """Revoke a session, and return the monotonic time of the acknowledgement."""
        status, document = await self.post(f"/v1/sessions/{session_id}/revoke")
        assert status == 200, document
        return time.monotonic()

    async def check(self, token: str) -> int:
        """Return the status of a check."""
        return await check(self.http, self.sidegate, token)

    async def post(self, path: str, document: object = None) -> tuple[int, Any]:
        """Send a request to the admin API."""
        return await post(self.http, self.sidegate, path, document)

    async def read_counter(self, name: str, **labels: str) -> float:
        """Return a counter, summed over the series that have these labels."""
        return _sum_series(await self._read_metrics(), name, **labels)

    async def count_lookups(self) -> tuple[float, float]:
        """Return the numbers of lookups that hit in Redis, and of those that Redis did not answer.

        They may be half a second old.
        """
        name, series = "sidegate_lookup_duration_seconds_count", await self._read_metrics()
        hits = _sum_series(series, name, store="redis", outcome="hit")
        return hits, _sum_series(series, name, store="postgres")

    async def _read_metrics(self) -> Series:
        async with self.http.get(f"http://127.0.0.1:{self.sidegate.ops_port}/metrics") as response:
            return parse_series(await response.text())

    async def restart(self) -> None:
        """Stop the instance gracefully, if it is running, and start it again."""
        await asyncio.to_thread(self.sidegate.server.restart)

    async def stop(self) -> None:
        await asyncio.to_thread(self.sidegate.server.stop)

    async def kill(self) -> None:
        await asyncio.to_thread(self.sidegate.server.kill)


def _sum_series(series: Series, name: str, **labels: str) -> float:
    return sum(
        value
        for (key, has), value in series.items()
        if key == name and labels.items() <= dict(has).items()
    )


@dataclass(frozen=True)
class SessionSet:
    """A session that stays, and one for each way to end a token. There must be no grace."""

    kept: Created
    revoked: Created
    rotated: Created
    migrated: Created

    @classmethod
    async def create(cls, client: Client) -> Self:
        return cls(*[await client.create() for _ in range(4)])

    async def end(self, client: Client) -> "Ended":
        """End them, the rotated one by two rotations."""
        await client.migrate(self.migrated.session_id)
        second = await client.refresh(self.rotated.token)
        await client.refresh(second)
        since = await client.revoke(self.revoked.session_id)
        tokens = {
            "revoked": self.revoked.token,
            "rotated": self.rotated.token,
            "second": second,
            "migrated": self.migrated.token,
        }
        return Ended(tokens, since)


class Ended(NamedTuple):
    """Tokens, by name, that must be refused; and the monotonic time since when."""

    tokens: Mapping[str, str]
    since: float


NO_GRACE: Final = {"SIDEGATE_SESSIONS__WEB__GRACE": "0s"}


async def assert_refused(
    clients: Sequence[Client], tokens: Mapping[str, str], *, since: float
) -> None:
    """Check the tokens until all have been refused for a while.

    Fail if one is allowed later than the bound after `since`. `tokens` have names, for the report.
    """
    start = allowed_at = time.monotonic()
    while True:
        now = time.monotonic()
        statuses = {
            (name, number): await client.check(token)  # one after another, on one connection
            for name, token in tokens.items()
            for number, client in enumerate(clients)
        }
        allowed = sorted(key for key, status in statuses.items() if status == 200)
        if allowed:
            assert now < since + BOUND, f"allowed {now - since:.1f} s later: {allowed}"
            allowed_at = now
        elif now - allowed_at >= _SETTLED and set(statuses.values()) == {401}:
            return
        assert now < start + _TIMEOUT, f"not decided: {statuses}"
        await asyncio.sleep(CHECK_INTERVAL)


async def map_concurrently(
    function: Callable[[_T], Awaitable[_R]], values: Iterable[_T], *, concurrency: int = 16
) -> list[_R]:
    """Return the results for all values, in their order."""
    limit = asyncio.Semaphore(concurrency)

    async def call(value: _T) -> _R:
        async with limit:
            return await function(value)

    return list(await asyncio.gather(*map(call, values)))


async def wait_until_served_from_redis(client: Client, token: str) -> None:
    """Return when only Redis, which is trusted then, has answered checks of a token for a while."""
    since = time.monotonic()
    hits, others = 0.0, -1.0

    async def is_served() -> bool:
        nonlocal hits, others, since
        await client.check(token)
        from_redis, elsewhere = await client.count_lookups()
        if elsewhere != others:
            hits, others, since = from_redis, elsewhere, time.monotonic()
        return time.monotonic() - since >= _SERVED and from_redis > hits

    await wait_until_async(is_served, within=_TIMEOUT)


def lead_to(proxy: TcpProxy) -> Mapping[str, str]:
    """Return the settings of an instance that reaches its Redis through a proxy."""
    return {"SIDEGATE_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0"}


def query_through(proxy: TcpProxy, database: str = "postgres") -> Mapping[str, str]:
    """Return the settings of an instance that reaches its Postgres through a proxy."""
    return {"SIDEGATE_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}"}


def disconnect(proxy: TcpProxy) -> None:
    """Cut the link: every connection is reset, and no new one is accepted."""
    proxy.refuse_new = True
    proxy.reset_connections()


@contextmanager
def open_redis(kind: str | None = None, extra_args: Sequence[str] = ()) -> Iterator[Server]:
    """Start an empty Redis, and stop it in the end. `kind`: see start_redis."""
    with temporary_directory() as directory:
        server = start_redis(directory, None, extra_args, kind=kind)
        try:
            yield server
        finally:
            server.kill()


async def execute(server: Server, *command: str | int) -> Any:
    """Send a command directly to a Redis, and return its reply."""

    def run() -> Any:
        with redis.Redis(port=server.port, decode_responses=True, protocol=2) as client:
            return client.execute_command(*command)

    return await asyncio.to_thread(run)


async def wait_until_quiet(server: Server) -> None:
    """Return when nothing has been written to a Redis for a while."""
    changes, since = -1, time.monotonic()

    async def is_quiet() -> bool:
        nonlocal changes, since
        before, changes = changes, (await execute(server, "INFO"))["rdb_changes_since_last_save"]
        if changes != before:
            since = time.monotonic()
        return time.monotonic() - since >= _QUIET

    await wait_until_async(is_quiet, within=_TIMEOUT)


async def wait_until_linked(replica: Server) -> None:
    """Return when a replica has the data of its primary, and follows it."""

    async def is_linked() -> bool:
        return bool((await execute(replica, "INFO"))["master_link_status"] == "up")

    await wait_until_async(is_linked, within=_TIMEOUT)


class Subscriptions:
    """A filter for a proxy in front of Redis: knows which connections are subscriptions."""

    def __init__(self, proxy: TcpProxy) -> None:
        self._proxy = proxy
        self._subscribed: set[ProxiedConnection] = set()
        proxy.client_filter = self._on_request

    def reset_others(self) -> None:
        """Reset the connections for commands, as an idle timeout does."""
        for connection in self._proxy.connections - self._subscribed:
            connection.reset()

    def _on_request(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        if b"SUBSCRIBE" in chunk:
            self._subscribed.add(connection)
        return chunk
