"""One check: whose is this credential, and may the request pass? From a head to an answer.

What this process's memory knows is answered at once, and so is what has been fetched to it; for the
rest the stores are asked. The lane that read the bytes only carries the head here and the answer
back.
"""

import logging
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from time import perf_counter
from typing import Final, Protocol, assert_never

from sidegate.core.binding import Signal
from sidegate.core.clock import Clock
from sidegate.core.session import Session
from sidegate.core.verdict import Allow, Deny, Unavailable, Verdict
from sidegate.services.binding import ClientBinding
from sidegate.services.validator import ExtraCheck, Validator
from sidegate.web.gateways.base import GatewayPolicy, GatewayProtocol
from sidegate.web.server.handler import Prefetched
from sidegate.web.server.header_lines import Roles
from sidegate.web.server.messages import Head, HeaderValue, Response, Subrequest
from sidegate.web.server.response_bytes import Reply, reply_of

_ALLOWED: Final = ("allow", "ok")
# So many bytes of what a client shows are noted; browsers show about half of that. Memory counts on
# no more (stores/local.py).
_NOTED: Final = 400
_log: Final = logging.getLogger("sidegate.gate")


class CheckEvents(Protocol):
    """Whoever counts. Gateway, result and reason come from short fixed lists."""

    def check(self, gateway: str, result: str, reason: str, seconds: float) -> None: ...

    def immediate_checks(self, gateway: str) -> MutableMapping[tuple[str, str], int]:
        """Return where to count, by result and reason, checks that take no time to speak of."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _CachedReply(Reply):
    """What was said of a copy of a session: to whom, and what its client had shown."""

    gateway: GatewayProtocol
    shown: tuple[HeaderValue, ...] | None  # None: the session is bound to nothing
    differing: tuple[Signal, ...]  # what it is bound to and was shown otherwise, and let pass

    def holds(self, gateway: GatewayProtocol, head: Head) -> bool:
        """Say whether it would be said again."""
        return gateway is self.gateway and (self.shown is None or self.shown == head.shown)


class Check:
    """Answers the checks of one gateway protocol."""

    def __init__(
        self,
        gateway: GatewayProtocol,
        manners: GatewayPolicy,
        validator: Validator,
        *,
        events: CheckEvents,
        clock: Clock,
        binding: ClientBinding | None = None,
    ) -> None:
        """`binding` judges the signals that `manners` have read."""
        self.route: str = gateway.route
        self.roles: Roles = gateway.roles
        self.cookie = manners.sources.cookie
        self._gateway = gateway
        self._spelling = manners.sources.token_text
        self._validator = validator
        self._recall, self._saw = validator.check_memory, validator.on_allowed
        self._events = events
        self._tally = events.immediate_checks(gateway.name)
        self._now = clock.now
        self._binding = binding
        # There are as many as there are reasons.
        self._refusal = lru_cache(maxsize=32)(lambda no: reply_of(gateway.write(no)))

    def try_fast(self, head: Head, fetched: Prefetched | None = None) -> Reply | None:
        """Answer from memory, or with what was fetched. None: the stores have to be asked."""
        now, waited = self._now(), None
        if fetched is not None:
            found, waited = self._validator.judge_prefetched(fetched.copy, now), fetched.waited
        else:
            spelling = self._spelling(head)
            found = spelling if isinstance(spelling, Deny) else self._recall(spelling, now)
        if found is None:
            return None
        if isinstance(found, Deny):
            return self._tell(head, found, waited)
        said = found.cached_reply
        if not isinstance(said, _CachedReply) or not said.holds(self._gateway, head):
            return self._conclude(head, found, now, waited)
        self._saw(found, now)
        self._count(_ALLOWED, waited)
        if said.differing and self._binding is not None:
            self._binding.count(said.differing)
        return said

    def prefetch(self, head: Head, then: Callable[[Prefetched], None]) -> bool:
        """Have a hot store asked."""
        spelling, start = self._spelling(head), perf_counter()
        if isinstance(spelling, Deny):  # which is answered already
            return False
        return self._validator.prefetch(
            spelling,
            lambda copy: then(Prefetched(copy, perf_counter() - start)),
            budget=self._gateway.budget(head),
        )

    async def answer(self, head: Head, waited: float | None = None) -> Response:
        """Read, validate, count, write."""
        start = perf_counter() - (waited or 0.0)
        subrequest = self._gateway.read(head)
        verdict = await self._verdict(head, subrequest.credential, waited)
        result, reason = _labels(verdict)
        self._events.check(self._gateway.name, result, reason, perf_counter() - start)
        self._log(subrequest, result, reason)
        return self._gateway.write(verdict)

    def _conclude(self, head: Head, session: Session, now: datetime, waited: float | None) -> Reply:
        """Answer for a session that was found. What may be said again is noted in its margin."""
        differing = self._differing(session, head)
        verdict = (
            self._binding.apply_policy(session, differing) if self._binding else Allow(session)
        )
        reply = self._tell(head, verdict, waited)
        if isinstance(verdict, Allow):
            self._saw(session, now)
            self._note(head, session, differing, reply)
        return reply

    def _differing(self, session: Session, head: Head) -> tuple[Signal, ...]:
        if self._binding is None or (signals := self._gateway.signals(head)) is None:
            return ()
        return self._binding.mismatched(session, signals)

    def _note(
        self, head: Head, session: Session, differing: tuple[Signal, ...], reply: Reply
    ) -> None:
        if _log.isEnabledFor(logging.DEBUG):
            return  # every check stands in the log
        if session.binding and not _is_short(head):
            return  # nobody is to fill memory with what he shows
        shown = tuple(map(_shared, head.shown)) if session.binding else None
        said = _CachedReply(
            reply.common, reply.own, gateway=self._gateway, shown=shown, differing=differing
        )
        session.note_reply(said)

    def _count(self, labels: tuple[str, str], waited: float | None) -> None:
        """None: it took no time to speak of."""
        if waited is None:
            self._tally[labels] += 1
        else:
            self._events.check(self._gateway.name, *labels, waited)

    def _tell(self, head: Head, verdict: Allow | Deny, waited: float | None) -> Reply:
        result, reason = _labels(verdict)
        self._count((result, reason), waited)
        if _log.isEnabledFor(logging.DEBUG):
            self._log(self._gateway.read(head), result, reason)
        if isinstance(verdict, Deny):
            return self._refusal(verdict)
        return reply_of(self._gateway.write(verdict))

    async def _verdict(self, head: Head, credential: str | Deny, waited: float | None) -> Verdict:
        if isinstance(credential, Deny):
            return credential
        return await self._validator.validate(
            credential,
            budget=self._gateway.budget(head),
            waited=waited,
            further=self._further(head),
        )

    def _further(self, head: Head) -> ExtraCheck | None:
        binding = self._binding
        if binding is None:
            return None
        return lambda session: binding.apply_policy(session, self._differing(session, head))

    def _log(self, subrequest: Subrequest, result: str, reason: str) -> None:
        """A query may hold anything, tokens too: of a URI only the path is told."""
        if not _log.isEnabledFor(logging.DEBUG):
            return
        path = None if subrequest.uri is None else subrequest.uri.partition("?")[0]
        facts = {
            "gateway": self._gateway.name,
            "result": result,
            "reason": reason,
            "method": subrequest.method,
            "path": path,
            "client": subrequest.client,
        }
        _log.debug("checked", extra=facts)


def _is_short(head: Head) -> bool:
    return sum(map(len, filter(None, head.shown))) <= _NOTED


@lru_cache(maxsize=4096)
def _shared(line: HeaderValue) -> HeaderValue:
    """Return the first of equal lines: clients are many, their programs and languages few."""
    return line


def _labels(verdict: Verdict) -> tuple[str, str]:
    match verdict:
        case Allow():
            return _ALLOWED
        case Deny(reason):
            return "deny", reason.value
        case Unavailable(store):
            return "unavailable", store
        case never:
            assert_never(never)
