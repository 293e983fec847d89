"""Create, revoke, refresh and list through the admin API, with retries until a response."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from random import Random
from typing import Any, Final

from tests.faults.client import ConnectionBroken, HttpResponse
from tests.faults.gateway import SimulatedGateway, Upstream
from tests.faults.history import (
    Create,
    HistoryRecorder,
    Listing,
    Migrate,
    Refresh,
    Result,
    Revoke,
    now,
)
from tests.faults.population import ClientToken, Population
from tests.faults.rules import Rules

# Seconds: a caller of the admin API waits longer than a gateway, and retries.
_TIMEOUT: Final = 2.0
_RETRY_DELAY: Final = 0.5

# Callers that retry concurrently during an outage; the others wait.
_MAX_RETRYING: Final = 3


class AdminClient:
    """A client of the admin API. Each attempt is an operation of its own in the history."""

    def __init__(
        self,
        gateway: SimulatedGateway,
        recorder: HistoryRecorder,
        population: Population,
        random: Random,
        *,
        admin_key: str,
    ) -> None:
        self._gateway = gateway
        self._recorder = recorder
        self._population = population
        self._random = random
        self._admin_key = admin_key
        self._retry_slots = asyncio.Semaphore(_MAX_RETRYING)

    async def create(
        self, user: str, *, type_: str = "web", limit: int | None = None
    ) -> ClientToken | None:
        """Create a session, with one Idempotency-Key for all attempts; None: it was refused."""
        key = uuid.uuid4().hex
        return await self._retry_until_answered(
            lambda upstream: self._create(upstream, user, type_, limit, key)
        )

    async def revoke(self, token: ClientToken, *, at: Upstream | None = None) -> Result:
        """Revoke a session, with one attempt, at any instance or at a certain one."""
        return await self._revoke(at or self._gateway.choose(), token)

    async def revoke_until_confirmed(self, token: ClientToken) -> None:
        """Revoke a session, with retries until it is acknowledged."""
        await self._retry_until_answered(lambda upstream: self._try_revoke(upstream, token))

    async def refresh(self, token: ClientToken, *, concurrent: bool = False) -> ClientToken | None:
        """Refresh a token, optionally at both instances concurrently; None: no successor is known.

        It is retried until there is an answer, however late: until the successor was used, a token
        that was rotated out gets the same one.
        """
        while True:
            first = self._gateway.choose()
            upstreams = self._gateway.upstreams if concurrent else (first,)
            replies = await asyncio.gather(*(self._refresh(each, token) for each in upstreams))
            if any(answered for answered, _ in replies):
                return next((each for _, each in replies if each is not None), None)
            await asyncio.sleep(2 * _RETRY_DELAY * (0.5 + self._random.random()))

    async def refresh_once(self, token: ClientToken, *, at: Upstream) -> ClientToken | None:
        """Refresh a token at one instance, with one attempt; None: no successor was returned."""
        return (await self._refresh(at, token))[1]

    async def migrate(self, token: ClientToken, *, at: Upstream) -> ClientToken | None:
        """Migrate a session, which gets another token; None: no token was returned."""
        return (await self._migrate(at, token))[1]

    async def reuse(self, token: ClientToken) -> None:
        """Refresh a token after its grace period, when its successor is in use.

        That is what an attacker would do, and ends the session.
        """
        await self._refresh(self._gateway.choose(), token)

    async def list(self, user: str) -> None:
        """List the active sessions of a user."""
        upstream = self._gateway.choose()
        start = now()
        response = await self._request(upstream, "GET", f"/v1/users/{user}/sessions?limit=200")
        listed = (
            () if response is None or response.status != HTTPStatus.OK else _session_ids(response)
        )
        operation = Listing(
            start=start,
            end=now(),
            instance=upstream.name,
            user=user,
            sessions=listed,
            **_outcome_of(response),
        )
        self._recorder.add(operation)

    async def _retry_until_answered(
        self, attempt: Callable[[Upstream], Awaitable[tuple[bool, ClientToken | None]]]
    ) -> ClientToken | None:
        answered, token = await attempt(self._gateway.choose())
        if not answered:
            async with self._retry_slots:
                while not answered:
                    await asyncio.sleep(_RETRY_DELAY * (0.5 + self._random.random()))
                    answered, token = await attempt(self._gateway.choose())
        return token

    async def _create(
        self, upstream: Upstream, user: str, type_: str, limit: int | None, key: str
    ) -> tuple[bool, ClientToken | None]:
        start = now()
        response = await self._request(
            upstream, "POST", "/v1/sessions", {"user_id": user, "type": type_}, key=key
        )
        token = self._read_issued(response, user, HTTPStatus.CREATED)
        outcome = _outcome_of(response)
        if limit is not None and response is not None and response.status == HTTPStatus.CONFLICT:
            outcome["result"] = Result.INFO  # another login has ended it since
        self._recorder.add(
            Create(
                start=start,
                end=now(),
                instance=upstream.name,
                user=user,
                key=key,
                limit=limit,
                grace=Rules().long_grace if type_ == "mobile" else None,
                session=None if token is None else token.session,
                token=None if token is None else token.number,
                **outcome,
            )
        )
        return response is not None and response.status < HTTPStatus.INTERNAL_SERVER_ERROR, token

    async def _try_revoke(
        self, upstream: Upstream, token: ClientToken
    ) -> tuple[bool, ClientToken | None]:
        return await self._revoke(upstream, token) is not Result.INFO, None

    async def _revoke(self, upstream: Upstream, token: ClientToken) -> Result:
        assert token.session is not None
        start = now()
        path = f"/v1/sessions/{token.session}/revoke"
        response = await self._request(upstream, "POST", path, {"reason": "rig"})
        outcome = _outcome_of(response)
        operation = Revoke(
            start=start, end=now(), instance=upstream.name, session=token.session, **outcome
        )
        self._recorder.add(operation)
        return operation.result

    async def _migrate(
        self, upstream: Upstream, token: ClientToken
    ) -> tuple[bool, ClientToken | None]:
        assert token.session is not None
        assert token.user is not None
        start = now()
        path = f"/v1/sessions/{token.session}/sso"
        response = await self._request(upstream, "POST", path, {"provider": "rig"})
        successor = self._read_issued(response, token.user, HTTPStatus.OK)
        operation = Migrate(
            start=start,
            end=now(),
            instance=upstream.name,
            session=token.session,
            successor=None if successor is None else successor.number,
            **_outcome_of(response),
        )
        self._recorder.add(operation)
        return operation.result is not Result.INFO, successor

    async def _refresh(
        self, upstream: Upstream, token: ClientToken
    ) -> tuple[bool, ClientToken | None]:
        assert token.session is not None
        assert token.user is not None
        assert token.number is not None
        start = now()
        response = await self._request(upstream, "POST", "/v1/refresh", {"token": token.text})
        successor = self._read_issued(response, token.user, HTTPStatus.OK)
        operation = Refresh(
            start=start,
            end=now(),
            instance=upstream.name,
            session=token.session,
            token=token.number,
            successor=None if successor is None else successor.number,
            **_outcome_of(response),
        )
        self._recorder.add(operation)
        return operation.result is not Result.INFO, successor

    def _read_issued(
        self, response: HttpResponse | None, user: str, status: HTTPStatus
    ) -> ClientToken | None:
        if response is None or response.status != status:
            return None
        document = json.loads(response.body)
        return self._population.issue(document["token"], document["session"]["id"], user)

    async def _request(
        self,
        upstream: Upstream,
        method: str,
        path: str,
        document: dict[str, Any] | None = None,
        *,
        key: str | None = None,
    ) -> HttpResponse | None:
        body = b"" if document is None else json.dumps(document).encode("ascii")
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {self._admin_key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
        )
        if key is not None:
            head += f"Idempotency-Key: {key}\r\n"
        try:
            return await upstream.admin.request(
                f"{head}\r\n".encode("ascii") + body, timeout=_TIMEOUT
            )
        except (ConnectionBroken, TimeoutError):
            upstream.mark_down()
            return None


def _outcome_of(response: HttpResponse | None) -> dict[str, Any]:
    """Return result and status of an attempt.

    202 is an acknowledgement, too: the ledger knows when it may be lost. A conflict is no refusal.
    """
    status = 0 if response is None else response.status
    if 200 <= status < 300:
        return {"result": Result.OK, "status": status}
    is_conflict = status == HTTPStatus.CONFLICT
    refused = 400 <= status < 500 and not is_conflict
    return {"result": Result.FAIL if refused else Result.INFO, "status": status}


def _session_ids(response: HttpResponse) -> tuple[str, ...]:
    return tuple(session["id"] for session in json.loads(response.body)["sessions"])
