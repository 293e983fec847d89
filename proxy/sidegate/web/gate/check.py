"""Session checks: validate the credential of a head and build the gateway's response.

A check is decided by the session in memory, else by a prefetched one, else by the stores. Both HTTP
paths only pass the head in and write the response.
"""

import logging
from collections.abc import Callable, MutableMapping
from datetime import datetime
from functools import lru_cache
from time import perf_counter
from typing import Final, Protocol, TypedDict, Unpack, assert_never

from sidegate.core.binding import BindingMatcher, PrefixLengths, Signal
from sidegate.core.clock import Clock
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.memory_entry import MemoryEntry
from sidegate.core.protocols import OnPrefetched, Prefetched
from sidegate.core.session import Session
from sidegate.core.verdict import Allow, Anonymous, Answer, Deny, Unavailable, Verdict
from sidegate.services.binding import ClientBinding
from sidegate.services.validator import Candidates, Presented, Validator
from sidegate.web.gateways.base import GatewayPolicy, GatewayProtocol
from sidegate.web.server.header_lines import Roles
from sidegate.web.server.messages import Head, HeaderValue, Response
from sidegate.web.server.response_bytes import EncodedResponse, encode_response

Labels = tuple[str, str]
"""The result and the reason of an answer, in metrics."""

_ALLOWED: Final[Labels] = ("allow", "ok")
ANONYMOUS: Final[Labels] = ("allow", "anonymous")
# No response is cached for client signals of more bytes in total; browsers send about half.
# stores/memory.py relies on it for the size of an entry.
_MAX_CACHED_SIGNALS_SIZE: Final = 400
_log: Final = logging.getLogger("sidegate.gate")

OnAllowed = Callable[[Session, datetime], None]
"""Called with each allowed session and the time; must neither wait nor fail."""


class CheckEvents(Protocol):
    """Counters of checks. Gateway, result and reason come from short fixed lists."""

    def record_check(self, gateway: str, result: str, *, reason: str, seconds: float) -> None: ...

    def fast_check_counts(self, gateway: str) -> MutableMapping[Labels, int]:
        """Return the counts, by result and reason, of checks too fast to be timed."""
        ...


class _CachedReply(EncodedResponse, kw_only=True, gc=False):
    """The response to one gateway for a cached session and a client with these signals."""

    gateway: GatewayProtocol
    raw_signals: tuple[HeaderValue, ...] | None  # None: the session has no binding
    mismatched: tuple[Signal, ...]  # allowed by the policy, and counted each time

    def matches(self, gateway: GatewayProtocol, head: Head) -> bool:
        """Return whether `gateway` would get the same response for `head`."""
        return gateway is self.gateway and (
            self.raw_signals is None or self.raw_signals == head.raw_signals
        )


class CheckServices(TypedDict):
    """What a check is built on, whatever its gateway.

    `binding` checks the signals that the policy enables; None: sessions are not bound.
    """

    validator: Validator
    events: CheckEvents
    clock: Clock
    on_allowed: OnAllowed
    binding: ClientBinding | None


class Check:
    """The request handler for the checks of one gateway protocol.

    `try_fast` decides from memory, `conclude` from a prefetched entry, `handle` from the stores.
    All reach their verdict by `_finish`, and write it.
    """

    def __init__(
        self,
        gateway: GatewayProtocol,
        policy: GatewayPolicy,
        **services: Unpack[CheckServices],
    ) -> None:
        validator, events = services["validator"], services["events"]
        self.route: str = gateway.route
        self.roles: Roles = gateway.roles
        self.plain_forms = policy.sources.plain_forms
        self._gateway = gateway
        self._read_credential = policy.sources.read
        # What `try_fast` left undecided: `prefetch` and `handle` need not parse it again. There is
        # no digest of several candidates.
        self._undecided: tuple[Head, Presented | Deny, Digest | None] | None = None
        self._validator = validator
        self._check_memory, self._on_allowed = validator.check_memory, services["on_allowed"]
        self._events = events
        self._fast_counts = events.fast_check_counts(gateway.name)
        self._now = services["clock"].now
        self._binding = services["binding"]
        self._signals = policy.signals
        self._matcher: BindingMatcher | None = None  # for these prefix lengths
        self._matched_prefixes: PrefixLengths | None = None
        self._encode_identity = policy.identity.build_encoder()
        self._allowed_head: bytes | None = None
        # Of answers without a session: at most one entry per reason.
        self._encode = lru_cache(maxsize=32)(lambda answer: encode_response(gateway.write(answer)))

    def try_fast(self, head: Head) -> EncodedResponse | None:
        """Decide from memory; return None if the stores must be queried."""
        try:
            now = self._now()
        except StoreUnavailable:  # until the clock is set, `handle` decides
            return None
        credential = self._read_credential(head)
        if isinstance(credential, Candidates):  # `handle` chooses among them
            self._undecided = head, credential, None
            return None
        if isinstance(credential, Deny):
            return self._refuse(credential, head, elapsed=None)
        found = self._check_memory(credential, now)
        if isinstance(found, MemoryEntry):
            return self._allow(found, head, now=now, elapsed=None)
        if isinstance(found, Deny):
            return self._refuse(found, head, elapsed=None)
        self._undecided = head, credential, found
        return None

    def prefetch(self, head: Head, on_done: OnPrefetched) -> bool:
        """Start to fetch the session from the cache store."""
        undecided = self._undecided
        if undecided is None or undecided[0] is not head or undecided[2] is None:
            return False  # `handle` decides
        budget = self._gateway.read_budget(head)
        is_started = self._validator.prefetch(undecided[2], on_done, budget=budget)
        if is_started:  # it may be decided without `handle`: the token is not kept
            self._undecided = None
        return is_started

    def conclude(self, head: Head, found: Prefetched, *, elapsed: float) -> EncodedResponse | None:
        """Decide from what was prefetched; return None if the stores must be queried."""
        try:
            now = self._now()
        except StoreUnavailable:
            return None
        judged = self._validator.judge_prefetched(found, now)
        if isinstance(judged, MemoryEntry):
            return self._allow(judged, head, now=now, elapsed=elapsed)
        return None if judged is None else self._refuse(judged, head, elapsed=elapsed)

    async def handle(self, head: Head, elapsed: float | None = None) -> Response:
        """Read the subrequest, validate it with the stores, and write the verdict."""
        start = perf_counter() - (elapsed or 0.0)
        verdict: Verdict
        presented = self._read_once(head)
        self._undecided = None
        if isinstance(presented, Deny):
            verdict = presented
        else:
            budget = self._gateway.read_budget(head)
            verdict = await self._validate(presented, budget=budget, elapsed=elapsed)
        now = self._now() if isinstance(verdict, Allow) else None
        answer, _ = self._finish(verdict, head, now=now, elapsed=perf_counter() - start)
        return self._gateway.write(answer)

    async def _validate(
        self, presented: Presented, *, budget: float | None, elapsed: float | None
    ) -> Verdict:
        return await self._validator.validate_presented(presented, budget=budget, elapsed=elapsed)

    def _allow(
        self, entry: MemoryEntry, head: Head, *, now: datetime, elapsed: float | None
    ) -> EncodedResponse | None:
        """Return the response for a valid session; `elapsed` None: it was in memory.

        None: the stores must be queried for something else.
        """
        cached = entry.cached_reply
        if not isinstance(cached, _CachedReply) or not cached.matches(self._gateway, head):
            return self._reply(entry, head, now=now, elapsed=elapsed)
        self._on_allowed(entry.session, now)
        if elapsed is None:
            self._fast_counts[_ALLOWED] += 1
        else:
            self._count(_ALLOWED, elapsed)
        if cached.mismatched and self._binding is not None:
            self._binding.count_mismatches(cached.mismatched)
        return cached

    def _refuse(
        self, refusal: Deny | Unavailable, head: Head, *, elapsed: float | None
    ) -> EncodedResponse:
        """Return the response without a session; `elapsed` None: no store was asked."""
        answer, _ = self._finish(refusal, head, now=None, elapsed=elapsed)
        return self._encode(answer)

    def _read_once(self, head: Head) -> Presented | Deny:
        """Return what is presented, as `try_fast` has read it if this was its last head."""
        if self._undecided is not None and self._undecided[0] is head:
            return self._undecided[1]
        return self._read_credential(head)

    def _finish(
        self,
        verdict: Verdict,
        head: Head,
        *,
        now: datetime | None,
        elapsed: float | None,
    ) -> tuple[Answer, tuple[Signal, ...]]:
        """Apply the binding policy to an allowed session, record activity, count and log.

        Return the answer, and the signals that mismatch and are allowed by the policy. `now` may be
        None, as the time may not be known, unless the verdict is Allow.
        """
        mismatched: tuple[Signal, ...] = ()
        if isinstance(verdict, Allow) and self._binding is not None:
            mismatched = self._find_mismatches(verdict.session, head, binding=self._binding)
            if mismatched:
                verdict = self._binding.apply_policy(verdict.session, mismatched)
        answer = self._decide(verdict, now)
        if isinstance(answer, Allow) and now is not None:
            self._on_allowed(answer.session, now)
        labels = get_labels(answer)
        self._count(labels, elapsed)
        log_check(self._gateway, head, labels=labels)
        return answer, mismatched

    def _decide(self, verdict: Verdict, _: datetime | None) -> Answer:
        """Return the answer to a request with this verdict: without access rules, the same."""
        return verdict

    def _reply(
        self, entry: MemoryEntry, head: Head, *, now: datetime, elapsed: float | None
    ) -> EncodedResponse:
        """Decide about a valid session; cache the response if it is allowed."""
        answer, mismatched = self._finish(Allow(entry.session), head, now=now, elapsed=elapsed)
        if not isinstance(answer, Allow):
            return self._encode(answer)
        session = entry.session
        if self._allowed_head is None:  # it is the same for all sessions
            self._allowed_head = encode_response(self._gateway.write(answer)).shared_head
        lines = self._encode_identity(session)
        if not _is_cacheable(session, head):
            return EncodedResponse(self._allowed_head, lines)
        reply = entry.cached_reply = _CachedReply(
            self._allowed_head,
            lines,
            gateway=self._gateway,
            raw_signals=tuple(map(_intern, head.raw_signals)) if session.binding else None,
            mismatched=mismatched,
        )
        return reply

    def _find_mismatches(
        self, session: Session, head: Head, *, binding: ClientBinding
    ) -> tuple[Signal, ...]:
        if not session.binding:
            return ()
        prefix_lengths = binding.prefix_lengths
        if self._matcher is None or prefix_lengths is not self._matched_prefixes:
            self._matched_prefixes = prefix_lengths
            self._matcher = self._signals.build_matcher(
                prefix_lengths, is_list=self._gateway.lists_addresses
            )
        if self._matcher.matches(session.id, session.binding, raw_values=head.raw_signals):
            return ()
        signals = self._signals.read(head, is_list=self._gateway.lists_addresses)
        if signals is None:
            return ()
        return binding.mismatched(session, signals, watched=self._signals.enabled)

    def _count(self, labels: Labels, elapsed: float | None) -> None:
        """Count a check; `elapsed` None: too fast to be timed."""
        if elapsed is None:
            self._fast_counts[labels] += 1
        else:
            result, reason = labels
            self._events.record_check(self._gateway.name, result, reason=reason, seconds=elapsed)


def log_check(gateway: GatewayProtocol, head: Head, *, labels: Labels) -> None:
    """Log a check at the level debug, without the query of its URI, which may contain a token."""
    if not _log.isEnabledFor(logging.DEBUG):
        return
    subrequest = gateway.read(head)
    result, reason = labels
    path = None if subrequest.uri is None else subrequest.uri.partition("?")[0]
    _log.debug(
        "session checked",
        extra={
            "gateway": gateway.name,
            "result": result,
            "reason": reason,
            "method": subrequest.method,
            "path": path,
            "client": subrequest.client,
        },
    )


def _is_cacheable(session: Session, head: Head) -> bool:
    if _log.isEnabledFor(logging.DEBUG):
        return False  # every check is logged
    # Bounds the memory that a client can use.
    size = sum(map(len, filter(None, head.raw_signals))) if session.binding else 0
    return size <= _MAX_CACHED_SIGNALS_SIZE


@lru_cache(maxsize=4096)
def _intern(value: HeaderValue) -> HeaderValue:
    """Return the first of equal values: many clients share user agents and languages."""
    return value


def get_labels(answer: Answer) -> Labels:
    """Return the labels of an answer in metrics."""
    match answer:
        case Allow():
            return _ALLOWED
        case Anonymous():
            return ANONYMOUS
        case Deny(reason):
            return "deny", reason.value
        case Unavailable(store):
            return "unavailable", store
        case never:
            assert_never(never)
