"""A running gate for tests, with a fake backend, known sessions and recorded events."""

import re
from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from ipaddress import ip_network
from typing import Any, Final

from sidegate.core.address import Address
from sidegate.core.clock import SystemClock
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import SessionFinder
from sidegate.core.rules import Rule, RuleTable
from sidegate.core.session import Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, Token, TokenKey
from sidegate.services.binding import ClientBinding
from sidegate.services.rules import Rules, RulesInForce
from sidegate.services.tenants import Tenants
from sidegate.services.validator import Lookup, Validator
from sidegate.stores.client.batching import Batched, BatchedCache
from sidegate.stores.lookup import SessionLookup
from sidegate.stores.memory import MemoryStore
from sidegate.stores.negative_cache import NegativeCache
from sidegate.web.gate.app import build_gate_handler, build_handlers
from sidegate.web.gate.rule_checks import AccessRules
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.fast_path import ConnectionTimeouts, FastPath
from sidegate.web.server.listener import DEFAULT_MAX_CONNECTIONS, Listener
from sidegate.web.server.trusted_peers import TrustedPeers
from tests.contracts.values import build_digest, build_session
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import FakeBackend, FakeLookup, know_idleness
from tests.web.raw_http import RawResponse

RING: Final = KeyRing([TokenKey(7, bytes(range(32)))])
FOREIGN_RING: Final = KeyRing([TokenKey(7, bytes(range(1, 33)))])
ROUTES: Final = ("/auth-request", "/forward-auth", "/ext-authz/app/page")
IDENTITY_HEADERS: Final = (
    "X-Auth-User",
    "X-Auth-Session",
    "X-Auth-Type",
    "X-Auth-Scopes",
    "X-Auth-Time",
    "X-Auth-Expires",
)


def build_token(name: str, ring: KeyRing = RING) -> Token:
    """Return the token of that name, the same in every run."""
    return ring.mint(SessionType.WEB, random=lambda size: sha256(name.encode()).digest()[:size])


ALICE: Final = build_token("alice")
BOB: Final = build_token("bob")
CAROL: Final = build_token("carol")
NEVER_ISSUED: Final = build_token("never issued")
FORGED: Final = build_token("alice", FOREIGN_RING)
EXPIRED: Final = build_token("expired")
IDLE: Final = build_token("idle")
REVOKED: Final = build_token("revoked")
REUSED: Final = build_token("reused")
TOKENS: Final = (ALICE, BOB, CAROL, NEVER_ISSUED, FORGED, EXPIRED, IDLE, REVOKED, REUSED)


def build_sessions() -> tuple[Session, ...]:
    """Return active sessions of alice, bob and carol, and one ended in each way."""
    hour = timedelta(hours=1)
    rotated = build_session(digest=REUSED.digest(), at=NOON - timedelta(minutes=5)).rotated(
        build_digest(), timedelta(seconds=10), at=NOON - timedelta(minutes=1)
    )
    return (
        build_session(user_id="alice", digest=ALICE.digest()),
        build_session(user_id="bob", digest=BOB.digest()),
        build_session(user_id="carol", digest=CAROL.digest()),
        build_session(digest=EXPIRED.digest(), expires_at=NOON),
        build_session(digest=IDLE.digest(), at=NOON - hour),
        build_session(digest=REVOKED.digest()).revoked(NOON),
        *rotated.copies(),
    )


def bearer(token: Token | bytes) -> bytes:
    """Return an Authorization header line."""
    return b"Authorization: Bearer " + _encode_token(token)


def cookie(token: Token | bytes) -> bytes:
    return b"Cookie: __Host-session=" + _encode_token(token)


def build_request(
    *lines: bytes, target: str = "/auth-request", method: bytes = b"GET", end: bytes = b"\r\n\r\n"
) -> bytes:
    """Return the bytes of a request with these header lines besides Host."""
    start = b"%s %s HTTP/1.1" % (method, target.encode("latin-1"))
    return b"\r\n".join((start, b"Host: gateway.test", *lines)) + end


class _ObservedCounts(dict[tuple[str, str], int]):
    """Counts that report each increment to a callback."""

    def __init__(self, on_count: Callable[[tuple[str, str]], None]) -> None:
        self._on_count = on_count

    def __missing__(self, labels: tuple[str, str]) -> int:
        return 0

    def __setitem__(self, labels: tuple[str, str], count: int) -> None:
        self._on_count(labels)
        super().__setitem__(labels, count)


LOOPBACK: Final = Address("127.0.0.1", 0)


@dataclass
class GateHarness:
    """A gate and the events it reported.

    `fast_path`: whether requests can skip aiohttp. `in_memory`: the sessions of the backend are in
    memory, too. `prefetches`: the fast path prefetches from the backend, as from a cache store, and
    does not fill the memory.
    """

    address: Address = LOOPBACK
    fast_path: bool = True
    in_memory: bool = False
    prefetches: bool = False
    clock: FakeClock = field(default_factory=FakeClock)
    backend: FakeBackend = field(default_factory=lambda: FakeBackend(*build_sessions()))
    listener: Listener = field(init=False)
    lookup: FakeLookup = field(init=False)
    checks: list[tuple[str, str, str]] = field(default_factory=list)
    allowed: list[SessionId] = field(default_factory=list)  # whose activity is recorded
    durations: list[float] = field(default_factory=list)  # of timed checks
    rule_checks: list[tuple[str, ...]] = field(default_factory=list)  # the rules of each check
    shadow_checks: list[tuple[str, str, str]] = field(default_factory=list)
    tenants: dict[SessionId, str] = field(default_factory=dict)
    records_down: bool = False
    record_reads: list[SessionId] = field(default_factory=list)
    bad_requests: int = 0
    refused_peers: int = 0
    overloads: int = 0

    def record_check(self, gateway: str, result: str, *, reason: str, seconds: float) -> None:
        assert seconds >= 0
        self.checks.append((gateway, result, reason))
        self.durations.append(seconds)

    def fast_check_counts(self, gateway: str) -> MutableMapping[tuple[str, str], int]:
        return _ObservedCounts(lambda labels: self.checks.append((gateway, *labels)))

    def count_by_rules(self, rules: tuple[str, ...]) -> "RecordedRules":
        return RecordedRules(self, rules)

    def count_shadow(self, rule: str, labels: tuple[str, str]) -> None:
        self.shadow_checks.append((rule, *labels))

    async def get_record(self, session_id: SessionId) -> SessionRecord | None:
        """Return the record of a session, as the database does."""
        self.record_reads.append(session_id)
        if self.records_down:
            raise StoreUnavailable("database", "down on demand")
        session = next((s for s in self.backend.sessions.values() if s.id == session_id), None)
        details = SessionDetails(tenant=self.tenants.get(session_id))
        return None if session is None else SessionRecord(session, details)

    def on_allowed(self, session: Session, _: datetime) -> None:
        self.allowed.append(session.id)

    def on_bad_request(self) -> None:
        self.bad_requests += 1

    def on_refused(self) -> None:
        self.refused_peers += 1

    def on_full(self) -> None:
        self.overloads += 1

    def find_in_memory(self, digest: Digest) -> Session | None:
        return self.backend.sessions.get(digest) if self.in_memory else None

    def build_lookup(
        self,
        finder: SessionFinder | None,
        memory: Callable[[Digest], Session | None] | None,
    ) -> FakeLookup:
        finder, memory = finder or self.backend, memory or self.find_in_memory
        if not self.prefetches:
            self.lookup = FakeLookup(finder, memory=memory)
            return self.lookup
        lookup = build_redis_lookup(self.backend, self.clock)
        self.lookup = FakeLookup(
            finder,
            memory=memory,
            prefetch=lambda digest, on_done, timeout: lookup.prefetch(
                digest, on_done, timeout=timeout
            ),
        )
        return self.lookup


@dataclass
class RecordedRules:
    """Records the checks to which some rules apply."""

    harness: GateHarness
    rules: tuple[str, ...]

    def record_check(self, gateway: str, result: str, *, reason: str, seconds: float) -> None:
        self.harness.rule_checks.append(self.rules)
        self.harness.record_check(gateway, result, reason=reason, seconds=seconds)

    def fast_check_counts(self, gateway: str) -> MutableMapping[tuple[str, str], int]:
        def count(labels: tuple[str, str]) -> None:
            self.harness.rule_checks.append(self.rules)
            self.harness.checks.append((gateway, *labels))

        return _ObservedCounts(count)


def build_redis_lookup(
    backend: FakeBackend, clock: FakeClock, *, memory: MemoryStore | None = None
) -> SessionLookup:
    """Return a lookup with `backend` as Redis and as the database."""
    if memory is None:
        memory = MemoryStore(max_sessions=9, max_bytes=100_000, max_age=5.0, clock=clock)
    return SessionLookup(
        memory,
        redis=BatchedCache(backend),
        redis_deadline=0.025,
        database=Batched(backend),
        negative_cache=NegativeCache(max_digests=9, max_age=1.0, clock=clock),
        deadline=60.0,
        clock=clock,
    )


def build_gate(
    harness: GateHarness,
    *,
    finder: SessionFinder | None = None,
    deadline: float = 60.0,
    trusted: Iterable[str] = ("127.0.0.1/32",),
    policy: GatewayPolicy | None = None,
    binding: ClientBinding | None = None,
    timeouts: ConnectionTimeouts | None = None,
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
    memory: Callable[[Digest], Session | None] | None = None,
    lookup: Lookup | None = None,
    rules: Sequence[Rule] = (),
) -> GateHarness:
    """Build the listener of `harness`, not open. `lookup` replaces `finder` and `memory`."""
    validator = Validator(
        lookup or harness.build_lookup(finder, memory),
        rules=RulesInForce(Rules(ring=RING)),
        clock=harness.clock,
        deadline=deadline,
        require_idle_known=know_idleness,
    )
    handlers = build_handlers(
        validator,
        policy or GatewayPolicy(),
        events=harness,
        clock=harness.clock,
        on_allowed=harness.on_allowed,
        binding=binding,
        rules=_build_access_rules(harness, rules, deadline=deadline) if rules else None,
    )
    peers = TrustedPeers(map(ip_network, trusted), on_refused=harness.on_refused)
    fast_path = FastPath(
        handlers,
        is_trusted=peers.is_trusted,
        clock=SystemClock(),
        timeouts=timeouts,
        sampling_interval=1,
    )
    harness.listener = Listener(
        "gate",
        build_gate_handler(handlers, peers),
        on_bad_request=harness.on_bad_request,
        fast_path=fast_path if harness.fast_path else None,
        peers=peers,
        timeouts=timeouts,
        max_connections=max_connections,
        on_full=harness.on_full,
    )
    return harness


def _build_access_rules(
    harness: GateHarness, rules: Sequence[Rule], *, deadline: float
) -> AccessRules:
    return AccessRules(RuleTable(rules), harness, Tenants(harness.get_record, timeout=deadline))


@asynccontextmanager
async def open_gate(
    address: Address = LOOPBACK,
    *,
    fast_path: bool = True,
    in_memory: bool = False,
    prefetches: bool = False,
    **options: Any,
) -> AsyncIterator[GateHarness]:
    """Open a gate at `address`, and close it afterwards. `options`: see `build_gate`."""
    harness = build_gate(
        GateHarness(address, fast_path=fast_path, in_memory=in_memory, prefetches=prefetches),
        **options,
    )
    harness.address = await harness.listener.open(address)
    try:
        yield harness
    finally:
        harness.backend.unblocked.set()
        await harness.listener.close(drain_timeout=0.2)


def assert_gate_response(response: RawResponse) -> None:
    """Assert what holds for every response of the gate."""
    names = [name.lower() for name, _ in response.fields]
    identity = [name for name in names if name in {each.lower() for each in IDENTITY_HEADERS}]
    assert response.get_one("Cache-Control") == "no-store"
    assert not response.get_all("Server")  # gateways pass it to clients
    assert "set-cookie" not in names
    assert "location" not in names
    assert not contains_token(drop_returned_lines(response.raw))
    assert b"Traceback" not in response.raw
    assert len(response.body) < 1024
    if response.status == 200:
        assert sorted(identity) == sorted(each.lower() for each in IDENTITY_HEADERS)
        assert response.body == b""
    else:
        assert identity == []
        assert response.get_one("Content-Type") == "application/problem+json"
        assert response.get_one("Content-Length") == str(len(response.body))
    assert ("www-authenticate" in names) == (response.status == 401)
    assert ("retry-after" in names) == (response.status == 503)


_RETURNED_LINE: Final = re.compile(
    rb"^(?:Cookie|Authorization|Sec-WebSocket-Protocol|X-Session-Token): .*\r\n", re.MULTILINE
)


def drop_returned_lines(raw: bytes) -> bytes:
    """Return a response without the client's headers in it, which may hold a foreign token."""
    return _RETURNED_LINE.sub(b"", raw)


def contains_token(raw: bytes) -> bool:
    """Return whether `raw` contains 12 consecutive characters of any token."""
    return any(
        token.text[start : start + 12].encode() in raw
        for token in TOKENS
        for start in range(4, len(token.text) - 11)
    )


def _encode_token(token: Token | bytes) -> bytes:
    return token.text.encode("ascii") if isinstance(token, Token) else token
