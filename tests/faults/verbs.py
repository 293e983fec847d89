"""Create, revoke, refresh and list through the admin API, tried until somebody answers."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from random import Random
from typing import Any, Final

from tests.faults.client import Answer, Broken
from tests.faults.gateway import Gateway, Upstream
from tests.faults.history import Create, Listing, Record, Refresh, Result, Revoke, now
from tests.faults.population import Held, Population

# A caller of the admin API is more patient than a gateway, and comes back.
_PATIENCE: Final = 2.0
_PAUSE: Final = 0.5

# While nobody can write, so many callers try again and again; the others wait behind them.
_AT_ONCE: Final = 3


class Verbs:
    """Each attempt is an operation of its own in the history."""

    def __init__(
        self,
        gateway: Gateway,
        record: Record,
        population: Population,
        random: Random,
        *,
        admin_key: str,
        grace: float,
    ) -> None:
        self._gateway = gateway
        self._record = record
        self._population = population
        self._random = random
        self._admin_key = admin_key
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._grace = grace

    async def create(
        self, user: str, *, type_: str = "web", limit: int | None = None
    ) -> Held | None:
        """Log a user in, with one Idempotency-Key however often it takes; None: it was refused."""
        key = uuid.uuid4().hex
        return await self._until_answered(lambda at: self._create(at, user, type_, limit, key))

    async def revoke(self, held: Held) -> Result:
        """Ask once to end a session."""
        return await self._revoke(self._gateway.choose(), held)

    async def revoke_after_all(self, held: Held) -> None:
        """Ask to end a session until somebody says that it has ended."""
        await self._until_answered(lambda at: self._revoked(at, held))

    async def refresh(self, held: Held, *, racing: bool = False) -> Held | None:
        """Exchange a token, perhaps at both instances at once; None: nobody knows what came of it.

        What had no answer is asked for again while the grace lasts, and then no more: a token that
        was rotated out longer ago would end its session.
        """
        until = now() + self._grace / 2
        while True:
            first = self._gateway.choose()
            asked = self._gateway.upstreams if racing else (first,)
            got = await asyncio.gather(*(self._refresh(each, held) for each in asked))
            successor = next((each for _, each in got if each is not None), None)
            if any(answered for answered, _ in got) or now() > until:
                return successor
            await asyncio.sleep(_PAUSE / 2)

    async def use_again(self, held: Held) -> None:
        """Present a token to refresh long after it was rotated out, as a thief would."""
        await self._refresh(self._gateway.choose(), held)

    async def list(self, user: str) -> None:
        """List a user's living sessions."""
        upstream = self._gateway.choose()
        start = now()
        answer = await self._ask(upstream, "GET", f"/v1/users/{user}/sessions?limit=200")
        listed = () if answer is None or answer.status != HTTPStatus.OK else _ids(answer)
        operation = Listing(
            start=start, end=now(), at=upstream.name, user=user, sessions=listed, **_came_to(answer)
        )
        self._record.note(operation)

    async def _until_answered(
        self, attempt: Callable[[Upstream], Awaitable[tuple[bool, Held | None]]]
    ) -> Held | None:
        answered, held = await attempt(self._gateway.choose())
        if not answered:
            async with self._turns:
                while not answered:
                    await asyncio.sleep(_PAUSE * (0.5 + self._random.random()))
                    answered, held = await attempt(self._gateway.choose())
        return held

    async def _create(
        self, upstream: Upstream, user: str, type_: str, limit: int | None, key: str
    ) -> tuple[bool, Held | None]:
        start = now()
        answer = await self._ask(
            upstream, "POST", "/v1/sessions", {"user_id": user, "type": type_}, key=key
        )
        held = self._issued(answer, user, HTTPStatus.CREATED)
        came_to = _came_to(answer)
        if limit is not None and answer is not None and answer.status == HTTPStatus.CONFLICT:
            came_to["result"] = Result.INFO  # it has ended for another one since
        self._record.note(
            Create(
                start=start,
                end=now(),
                at=upstream.name,
                user=user,
                key=key,
                limit=limit,
                session=None if held is None else held.session,
                token=None if held is None else held.number,
                **came_to,
            )
        )
        return answer is not None and answer.status < HTTPStatus.INTERNAL_SERVER_ERROR, held

    async def _revoked(self, upstream: Upstream, held: Held) -> tuple[bool, Held | None]:
        return await self._revoke(upstream, held) is not Result.INFO, None

    async def _revoke(self, upstream: Upstream, held: Held) -> Result:
        assert held.session is not None
        start = now()
        path = f"/v1/sessions/{held.session}/revoke"
        answer = await self._ask(upstream, "POST", path, {"reason": "rig"})
        came_to = _came_to(answer)
        operation = Revoke(
            start=start, end=now(), at=upstream.name, session=held.session, **came_to
        )
        self._record.note(operation)
        return operation.result

    async def _refresh(self, upstream: Upstream, held: Held) -> tuple[bool, Held | None]:
        assert held.session is not None
        assert held.user is not None
        assert held.number is not None
        start = now()
        answer = await self._ask(upstream, "POST", "/v1/refresh", {"token": held.text})
        successor = self._issued(answer, held.user, HTTPStatus.OK)
        operation = Refresh(
            start=start,
            end=now(),
            at=upstream.name,
            session=held.session,
            token=held.number,
            successor=None if successor is None else successor.number,
            **_came_to(answer),
        )
        self._record.note(operation)
        return operation.result is not Result.INFO, successor

    def _issued(self, answer: Answer | None, user: str, status: HTTPStatus) -> Held | None:
        if answer is None or answer.status != status:
            return None
        document = json.loads(answer.body)
        return self._population.issue(document["token"], document["session"]["id"], user)

    async def _ask(
        self,
        upstream: Upstream,
        method: str,
        path: str,
        document: dict[str, Any] | None = None,
        *,
        key: str | None = None,
    ) -> Answer | None:
        body = b"" if document is None else json.dumps(document).encode("ascii")
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {self._admin_key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
        )
        if key is not None:
            head += f"Idempotency-Key: {key}\r\n"
        try:
            return await upstream.admin.ask(
                f"{head}\r\n".encode("ascii") + body, patience=_PATIENCE
            )
        except (Broken, TimeoutError):
            upstream.let_down()
            return None


def _came_to(answer: Answer | None) -> dict[str, Any]:
    """Return how an attempt ended. 202 is an acknowledgement, too (the
    ledger knows when it may be lost); a conflict is nobody's fault."""
    status = 0 if answer is None else answer.status
    if 200 <= status < 300:
        return {"result": Result.OK, "status": status}
    lost_a_race = status == HTTPStatus.CONFLICT
    refused = 400 <= status < 500 and not lost_a_race
    return {"result": Result.FAIL if refused else Result.INFO, "status": status}


def _ids(answer: Answer) -> tuple[str, ...]:
    return tuple(session["id"] for session in json.loads(answer.body)["sessions"])
