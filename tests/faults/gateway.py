"""A gateway in front of both instances: tries one, then the other if there is no response."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from tests.faults.client import ConnectionBroken, ConnectionPool, HttpResponse, PendingRequest
from tests.faults.history import Check, HistoryRecorder, Result, TokenCategory, now
from tests.faults.population import ClientToken
from tests.support.sidegate import Sidegate

# Seconds for which an instance is not used after a failure (nginx: fail_timeout).
_FAIL_TIMEOUT: Final = 1.0

# Seconds. Clients that abort do so within the time of a response that misses memory.
_MAX_ABORT_DELAY: Final = 0.004


class Upstream:
    """One instance: connections to its listeners, and whether it is in rotation."""

    def __init__(self, name: str, sidegate: Sidegate) -> None:
        self.name = name
        self.sidegate = sidegate
        self.gate = ConnectionPool(sidegate.server.port)
        self.admin = ConnectionPool(sidegate.admin_port)
        self.ops = ConnectionPool(sidegate.ops_port)
        self.ready = True
        self._down_until: float | None = None

    @property
    def connection_count(self) -> int:
        """Number of connections that the rig keeps open to the instance."""
        return sum(pool.size for pool in (self.gate, self.admin, self.ops))

    def is_available(self) -> bool:
        """Return whether to use it. One that is down gets one request per fail timeout."""
        if self._down_until is None:
            return self.ready
        if now() < self._down_until:
            return False
        self._down_until = now() + _FAIL_TIMEOUT
        return True

    def mark_up(self) -> None:
        self._down_until = None

    def mark_down(self) -> None:
        if self._down_until is None:
            self._down_until = now() + _FAIL_TIMEOUT

    async def get(
        self,
        path: str,
        *,
        timeout: float,  # noqa: ASYNC109  # as in asyncio
    ) -> HttpResponse:
        """Send a request to the ops listener. Raise ConnectionBroken or TimeoutError."""
        request = f"GET {path} HTTP/1.1\r\nHost: ops\r\n\r\n".encode()
        return await self.ops.request(request, timeout=timeout)

    async def close(self) -> None:
        for pool in (self.gate, self.admin, self.ops):
            await pool.close()


class SimulatedGateway:
    """Sends subrequests, and records each attempt however late it ends.

    `abort_share` is the share of clients that disconnect before their response; `after_restart` is
    copied into the recorded checks.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        recorder: HistoryRecorder,
        random: Random,
        *,
        timeout: float,
    ) -> None:
        """`timeout`: seconds after which the other instance is tried."""
        self.upstreams = tuple(upstreams)
        self.abort_share = 0.0
        self.after_restart = False
        self._recorder = recorder
        self._random = random
        self._timeout = timeout

    async def check(self, token: ClientToken, category: TokenCategory) -> Result:
        """Check a token as a gateway does, with one retry, and return the result."""
        first = _Attempt(self.choose(), token, category, requested_at=now(), can_retry=True)
        result = await self._try_instance(first)
        if result is None:
            result = await self._try_instance(
                replace(first, upstream=self._other(first.upstream), can_retry=False, is_retry=True)
            )
        return result or Result.INFO

    async def probe(
        self, token: ClientToken, category: TokenCategory, *, at: Upstream | None = None
    ) -> None:
        """Check a token at every instance, in rotation or not; or at a certain one."""
        await asyncio.gather(
            *(
                self._try_instance(_Attempt(each, token, category, requested_at=now()))
                for each in ([at] if at else self.upstreams)
            )
        )

    def choose(self) -> Upstream:
        """Return an available instance, or any instance if none is available."""
        available = [upstream for upstream in self.upstreams if upstream.is_available()]
        return self._random.choice(available or self.upstreams)

    def _other(self, first: Upstream) -> Upstream:
        return next(each for each in self.upstreams if each is not first)

    async def _try_instance(self, attempt: "_Attempt") -> Result | None:
        """Return the result at one instance, or None without a response in time."""
        start = now()
        response: HttpResponse | None = None
        try:
            pending = await attempt.upstream.gate.send(_format_request(attempt.token))
        except ConnectionBroken:
            pass
        else:
            if self.abort_share and self._random.random() < self.abort_share:
                return await self._abort_early(attempt, start, pending)
            await asyncio.wait((pending.response,), timeout=self._timeout)
            if not pending.response.done():
                attempt.upstream.mark_down()
                pending.response.add_done_callback(
                    lambda done: self._record(
                        attempt, start, _response_of(done), retried=attempt.can_retry
                    )
                )
                return None
            response = _response_of(pending.response)
        self._record(attempt, start, response, retried=attempt.can_retry and response is None)
        if response is None:
            attempt.upstream.mark_down()
            return None
        attempt.upstream.mark_up()
        return _result_of(response)

    async def _abort_early(
        self, attempt: "_Attempt", start: float, pending: PendingRequest
    ) -> Result:
        await asyncio.sleep(self._random.random() * _MAX_ABORT_DELAY)
        aborted = not pending.response.done()
        if aborted:
            pending.abort()
        self._record(
            attempt, start, None if aborted else _response_of(pending.response), aborted=aborted
        )
        return Result.INFO

    def _record(
        self,
        attempt: "_Attempt",
        start: float,
        response: HttpResponse | None,
        *,
        retried: bool = False,
        aborted: bool = False,
    ) -> None:
        token = attempt.token
        self._recorder.add(
            Check(
                start=start,
                end=now(),
                requested_at=attempt.requested_at,
                result=_result_of(response),
                status=0 if response is None else response.status,
                instance=attempt.upstream.name,
                category=attempt.category,
                token=token.number,
                session=token.session,
                user=token.user,
                returned_user=None if response is None else response.header(b"X-Auth-User"),
                returned_session=None if response is None else response.header(b"X-Auth-Session"),
                is_retry=attempt.is_retry,
                retried=retried,
                aborted=aborted,
                after_restart=self.after_restart,
            )
        )


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt at an instance. `can_retry`: the other instance was not tried yet."""

    upstream: Upstream
    token: ClientToken
    category: TokenCategory
    requested_at: float
    can_retry: bool = False
    is_retry: bool = False


def _format_request(token: ClientToken) -> bytes:
    return (
        "GET /forward-auth HTTP/1.1\r\nHost: gate\r\nX-Forwarded-Method: GET\r\n"
        "X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\nX-Forwarded-Uri: /orders\r\n"
        f"X-Forwarded-For: 203.0.113.9\r\nAuthorization: Bearer {token.text}\r\n\r\n"
    ).encode("ascii")


def _response_of(response: asyncio.Future[HttpResponse]) -> HttpResponse | None:
    """Return the response of a completed future, or None if its connection was closed."""
    if response.cancelled() or response.exception() is not None:
        return None
    return response.result()


def _result_of(response: HttpResponse | None) -> Result:
    match response and response.status:
        case 200:
            return Result.OK
        case 401 | 403:
            return Result.FAIL
        case _:
            return Result.INFO
