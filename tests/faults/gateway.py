"""The two instances as a gateway sees them: ask one, and the other if that one does not answer."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from tests.faults.client import Answer, Broken, Lines, Sent
from tests.faults.history import Check, Record, Result, Road, now
from tests.faults.population import Held
from tests.support.sidegate import Sidegate

# An instance that let somebody down gets nothing but one request in so many seconds, until it
# answers: what nginx calls fail_timeout.
_AVOIDED: Final = 1.0

# Clients that leave do so within the time an answer takes when it does not come from memory.
_LEAVING: Final = 0.004


class Upstream:
    """One instance: its doors, and whether a gateway would ask it now."""

    def __init__(self, name: str, sidegate: Sidegate) -> None:
        self.name = name
        self.sidegate = sidegate
        self.gate = Lines(sidegate.server.port)
        self.admin = Lines(sidegate.admin_port)
        self.ops = Lines(sidegate.ops_port)
        self.ready = True
        self._avoided_until: float | None = None

    @property
    def open(self) -> int:
        """How many connections to it are kept open here."""
        return sum(lines.open for lines in (self.gate, self.admin, self.ops))

    def admits(self) -> bool:
        """Say whether to ask it. One that is avoided is tried now and then."""
        if self._avoided_until is None:
            return self.ready
        if now() < self._avoided_until:
            return False
        self._avoided_until = now() + _AVOIDED
        return True

    def answered(self) -> None:
        self._avoided_until = None

    def let_down(self) -> None:
        if self._avoided_until is None:
            self._avoided_until = now() + _AVOIDED

    async def look(self, path: str, *, patience: float) -> Answer:
        """Ask its ops door. Broken, TimeoutError: no answer."""
        request = f"GET {path} HTTP/1.1\r\nHost: ops\r\n\r\n".encode()
        return await self.ops.ask(request, patience=patience)

    async def close(self) -> None:
        for lines in (self.gate, self.admin, self.ops):
            await lines.close()


class Gateway:
    """Asks about requests, and notes each try, however late it ends.

    `leaving` is the share of clients that hang up before their answer; `last` is for the checks.
    """

    def __init__(
        self, upstreams: Sequence[Upstream], record: Record, random: Random, *, patience: float
    ) -> None:
        """`patience`: seconds after which the other instance is asked."""
        self.upstreams = tuple(upstreams)
        self.leaving = 0.0
        self.last = False
        self._record = record
        self._random = random
        self._patience = patience

    async def check(self, held: Held, road: Road) -> Result:
        """Let a client with this token come, and return what came of it."""
        first = _Try(self.choose(), held, road, asked=now(), spare=True)
        came = await self._made(first)
        if came is None:
            came = await self._made(
                replace(first, at=self._beside(first.at), spare=False, again=True)
            )
        return came or Result.INFO

    async def probe(self, held: Held, road: Road) -> None:
        """Ask every instance, whatever a gateway would think of it."""
        await asyncio.gather(
            *(self._made(_Try(each, held, road, asked=now())) for each in self.upstreams)
        )

    def choose(self) -> Upstream:
        """Return whom to ask first; when nobody seems well, anybody."""
        well = [upstream for upstream in self.upstreams if upstream.admits()]
        return self._random.choice(well or self.upstreams)

    def _beside(self, first: Upstream) -> Upstream:
        return next(each for each in self.upstreams if each is not first)

    async def _made(self, attempt: "_Try") -> Result | None:
        """Ask one instance; None: it did not answer in time, or not at all."""
        start = now()
        answer: Answer | None = None
        try:
            sent = await attempt.at.gate.send(_request(attempt.held))
        except Broken:
            pass
        else:
            if self.leaving and self._random.random() < self.leaving:
                return await self._left(attempt, start, sent)
            await asyncio.wait((sent.answer,), timeout=self._patience)
            if not sent.answer.done():
                attempt.at.let_down()
                sent.answer.add_done_callback(
                    lambda done: self._note(attempt, start, _came(done), retried=attempt.spare)
                )
                return None
            answer = _came(sent.answer)
        self._note(attempt, start, answer, retried=attempt.spare and answer is None)
        if answer is None:
            attempt.at.let_down()
            return None
        attempt.at.answered()
        return _result(answer)

    async def _left(self, attempt: "_Try", start: float, sent: Sent) -> Result:
        await asyncio.sleep(self._random.random() * _LEAVING)
        left = not sent.answer.done()
        if left:
            sent.leave()
        self._note(attempt, start, None if left else _came(sent.answer), left=left)
        return Result.INFO

    def _note(
        self,
        attempt: "_Try",
        start: float,
        answer: Answer | None,
        *,
        retried: bool = False,
        left: bool = False,
    ) -> None:
        held = attempt.held
        self._record.note(
            Check(
                start=start,
                end=now(),
                asked=attempt.asked,
                result=_result(answer),
                status=0 if answer is None else answer.status,
                at=attempt.at.name,
                road=attempt.road,
                token=held.number,
                session=held.session,
                user=held.user,
                named=None if answer is None else answer.field(b"X-Auth-User"),
                named_session=None if answer is None else answer.field(b"X-Auth-Session"),
                again=attempt.again,
                retried=retried,
                left=left,
                last=self.last,
            )
        )


@dataclass(frozen=True, slots=True)
class _Try:
    """A request that is put to an instance. `spare`: there is still the other one to ask."""

    at: Upstream
    held: Held
    road: Road
    asked: float
    spare: bool = False
    again: bool = False


def _request(held: Held) -> bytes:
    return (
        "GET /forward-auth HTTP/1.1\r\nHost: gate\r\nX-Forwarded-Method: GET\r\n"
        "X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\nX-Forwarded-Uri: /orders\r\n"
        f"X-Forwarded-For: 203.0.113.9\r\nAuthorization: Bearer {held.text}\r\n\r\n"
    ).encode("ascii")


def _came(answer: asyncio.Future[Answer]) -> Answer | None:
    """Return the answer of a future that is done, or None if its connection ended first."""
    if answer.cancelled() or answer.exception() is not None:
        return None
    return answer.result()


def _result(answer: Answer | None) -> Result:
    match answer and answer.status:
        case 200:
            return Result.OK
        case 401 | 403:
            return Result.FAIL
        case _:
            return Result.INFO
