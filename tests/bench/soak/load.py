"""Checks, logins, refreshes and revocations at constant rates, far below saturation."""

import asyncio
import json
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

from tests.bench.connection import Connection, connect
from tests.bench.errors import UnexpectedResponses
from tests.bench.http_requests import (
    COOKIE,
    build_create_request,
    build_refresh_request,
    build_revoke_request,
)
from tests.bench.sidegate_targets import ROUTE
from tests.support.sidegate import Sidegate

# Each second, each on a connection of its own.
CHECKS: Final = 400
LOGINS: Final = 20
REFRESHES: Final = 10
REVOCATIONS: Final = 8

# Tokens of ended sessions that are still sent; one check in ten is of one of them.
_ENDED: Final = 1000
_ENDED_SHARE: Final = 0.1

# Seconds before its end from which a session is left alone.
_MARGIN: Final = 3.0
_MAX_FAILURE_SHARE: Final = 0.01


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that the load has created, and its newest token."""

    session_id: str
    token: str
    ends_at: float


class Load:
    """The load, and how it went. `lifetime`: of the sessions, in seconds."""

    def __init__(self, sidegate: Sidegate, *, lifetime: float, now: Callable[[], float]) -> None:
        self.requests = 0
        self.failures = 0
        self.issued = 0
        self._sidegate = sidegate
        self._lifetime = lifetime
        self._now = now
        self._random = random.Random(1)
        self._live: deque[LiveSession] = deque()  # in the order of their ends
        self._ended: deque[str] = deque(maxlen=_ENDED)

    def count_live(self) -> int:
        """Return the number of sessions that have neither ended nor will in a moment."""
        while self._live and self._live[0].ends_at <= self._now() + _MARGIN:
            self._live.popleft()
        return len(self._live)

    def verify(self) -> None:
        """Raise UnexpectedResponses if more than one request in a hundred has failed."""
        if self.failures > self.requests * _MAX_FAILURE_SHARE or not self.requests:
            log = self._sidegate.server.log[-2000:]
            raise UnexpectedResponses(f"{self.failures} of {self.requests} requests failed\n{log}")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Generate the load in this block."""
        gate, admin = self._sidegate.server.port, self._sidegate.admin_port
        operations = (
            (CHECKS, gate, self.check),
            (LOGINS, admin, self.log_in),
            (REFRESHES, admin, self.refresh),
            (REVOCATIONS, admin, self.revoke),
        )
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    self._repeat(rate, operation, await stack.enter_async_context(connect(port)))
                )
                for rate, port, operation in operations
            ]
            yield
            for task in tasks:
                task.cancel()

    async def _repeat(
        self,
        rate: float,
        operation: Callable[[Connection], Awaitable[None]],
        connection: Connection,
    ) -> NoReturn:
        due = self._now()
        while True:
            due += 1 / rate
            await asyncio.sleep(due - self._now())
            await operation(connection)

    async def check(self, connection: Connection) -> None:
        """Check a session that is live, or one that is not."""
        if self._ended and self._random.random() < _ENDED_SHARE:
            token, expected = self._random.choice(self._ended), 401
        elif self.count_live():
            token, expected = self._random.choice(self._live).token, 200
        else:
            return
        status, _ = await connection.request(_build_check(token))
        self._count(status == expected)

    async def log_in(self, connection: Connection) -> None:
        request = build_create_request(self._random.randrange(1000), self._sidegate.admin_key)
        status, body = await connection.fetch(request)
        if self._count(status == 201):
            self._add(body, self._now() + self._lifetime)

    async def refresh(self, connection: Connection) -> None:
        """Rotate the token of a session. The old one is not used any more."""
        session = self._take()
        if session is not None:
            request = build_refresh_request(session.token, self._sidegate.admin_key)
            status, body = await connection.fetch(request)
            if self._count(status == 200):
                self._add(body, session.ends_at)

    async def revoke(self, connection: Connection) -> None:
        session = self._take()
        if session is not None:
            request = build_revoke_request(session.session_id, self._sidegate.admin_key)
            status, _ = await connection.fetch(request)
            if self._count(status == 200):
                self._ended.append(session.token)

    def _take(self) -> LiveSession | None:
        """Return a live session that no check uses from now on."""
        count = self.count_live()
        if not count:
            return None
        index = self._random.randrange(count)
        session = self._live[index]
        del self._live[index]
        return session

    def _add(self, body: bytes, ends_at: float) -> None:
        issued = json.loads(body)
        self.issued += 1
        session = LiveSession(issued["session"]["id"], issued["token"], ends_at)
        index = len(self._live)
        while index and self._live[index - 1].ends_at > ends_at:
            index -= 1
        self._live.insert(index, session)

    def _count(self, succeeded: bool) -> bool:
        self.requests += 1
        self.failures += not succeeded
        return succeeded


def _build_check(token: str) -> str:
    lines = (
        f"GET {ROUTE} HTTP/1.1",
        "Host: sidegate",
        "X-Original-Method: GET",
        "X-Original-URI: /shop/orders",
        "X-Real-IP: 203.0.113.9",
        f"Cookie: {COOKIE}={token}",
    )
    return "\r\n".join(lines) + "\r\n\r\n"
