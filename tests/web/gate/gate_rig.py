"""A running gate for tests, on a shelf instead of stores: whom it knows, and what it counts."""

from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from ipaddress import ip_network
from typing import Any, Final

from sidegate.core.address import Address
from sidegate.core.protocols import SessionFinder
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.token import Digest, KeyRing, Token, TokenKey
from sidegate.services.binding import ClientBinding
from sidegate.services.validator import Prefetch, Validator
from sidegate.stores.client.batched import BatchedCache
from sidegate.stores.memory import MemoryStore
from sidegate.stores.prefetch import Prefetcher
from sidegate.web.gate.app import build_handlers, gate_handler
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.fast_path import FastPath, HeadTimeouts
from sidegate.web.server.listener import DEFAULT_MAX_CONNECTIONS, Listener
from sidegate.web.server.trusted_peers import TrustedPeers
from tests.contracts.values import a_digest, a_session
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import Shelf
from tests.web.raw_http import Reply

RING: Final = KeyRing([TokenKey(7, bytes(range(32)))])
STRANGERS: Final = KeyRing([TokenKey(7, bytes(range(1, 33)))])
ROUTES: Final = ("/auth-request", "/forward-auth", "/ext-authz/app/page")
IDENTITY: Final = (
    "X-Auth-User",
    "X-Auth-Session",
    "X-Auth-Type",
    "X-Auth-Scopes",
    "X-Auth-Time",
    "X-Auth-Expires",
)


def a_token(name: str, ring: KeyRing = RING) -> Token:
    """Return the token of that name, the same in every run."""
    return ring.mint(SessionType.WEB, random=lambda size: sha256(name.encode()).digest()[:size])


ALICE: Final = a_token("alice")
BOB: Final = a_token("bob")
CAROL: Final = a_token("carol")
NEVER_ISSUED: Final = a_token("nobody")
FORGED: Final = a_token("alice", STRANGERS)
EXPIRED: Final = a_token("expired")
IDLE: Final = a_token("idle")
REVOKED: Final = a_token("revoked")
REUSED: Final = a_token("reused")
TOKENS: Final = (ALICE, BOB, CAROL, NEVER_ISSUED, FORGED, EXPIRED, IDLE, REVOKED, REUSED)


def known_sessions() -> tuple[Session, ...]:
    """Alice, Bob and Carol live; of every way to have ended there is one."""
    hour = timedelta(hours=1)
    rotated = a_session(digest=REUSED.digest(), at=NOON - timedelta(minutes=5)).rotated(
        a_digest(), timedelta(seconds=10), NOON - timedelta(minutes=1)
    )
    return (
        a_session(user_id="alice", digest=ALICE.digest()),
        a_session(user_id="bob", digest=BOB.digest()),
        a_session(user_id="carol", digest=CAROL.digest()),
        a_session(digest=EXPIRED.digest(), expires_at=NOON),
        a_session(digest=IDLE.digest(), at=NOON - hour),
        a_session(digest=REVOKED.digest()).revoked(NOON),
        *rotated.copies(),
    )


def bearer(token: Token | bytes) -> bytes:
    """Return a request's line."""
    return b"Authorization: Bearer " + _text(token)


def cookie(token: Token | bytes) -> bytes:
    return b"Cookie: __Host-session=" + _text(token)


def request(
    *lines: bytes, target: str = "/auth-request", method: bytes = b"GET", end: bytes = b"\r\n\r\n"
) -> bytes:
    """Return the bytes of a request with these header lines besides Host."""
    start = b"%s %s HTTP/1.1" % (method, target.encode("latin-1"))
    return b"\r\n".join((start, b"Host: gateway.test", *lines)) + end


class _Tally(dict[tuple[str, str], int]):
    """Tells of each count."""

    def __init__(self, tell: Callable[[tuple[str, str]], None]) -> None:
        self._tell = tell

    def __missing__(self, labels: tuple[str, str]) -> int:
        return 0

    def __setitem__(self, labels: tuple[str, str], count: int) -> None:
        self._tell(labels)
        super().__setitem__(labels, count)


LOOPBACK: Final = Address("127.0.0.1", 0)


@dataclass
class Gatehouse:
    """A gate and everything that can be seen of it.

    `express` is the lane in front of aiohttp's, if there is one; `remembers`: what is on the shelf
    is in memory too; `fetches`: the lane fetches from the shelf, as from a hot store, and what it
    has fetched is not remembered.
    """

    address: Address = LOOPBACK
    fast_path: bool = True
    remembers: bool = False
    fetches: bool = False
    clock: FakeClock = field(default_factory=FakeClock)
    shelf: Shelf = field(default_factory=lambda: Shelf(*known_sessions()))
    door: Listener = field(init=False)
    checks: list[tuple[str, str, str]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of those that took some
    bad_requests: int = 0
    untrusted: int = 0
    turned_away: int = 0

    def __post_init__(self) -> None:
        near = MemoryStore(max_sessions=9, max_bytes=100_000, max_age=5.0, clock=self.clock)
        self._fetcher = Prefetcher(
            BatchedCache(self.shelf), near, deadline=0.025, useless=lambda _: False
        )

    def check(self, gateway: str, result: str, reason: str, seconds: float) -> None:
        assert seconds >= 0
        self.checks.append((gateway, result, reason))
        self.seconds.append(seconds)

    def immediate_checks(self, gateway: str) -> MutableMapping[tuple[str, str], int]:
        return _Tally(lambda labels: self.checks.append((gateway, *labels)))

    def bad_request(self) -> None:
        self.bad_requests += 1

    def refused(self) -> None:
        self.untrusted += 1

    def full(self) -> None:
        self.turned_away += 1

    def memory(self, digest: Digest) -> Session | None:
        return self.shelf.sessions.get(digest) if self.remembers else None

    @property
    def fetch(self) -> Prefetch | None:
        return self._fetcher.prefetch if self.fetches else None


def build_gate(
    house: Gatehouse,
    *,
    finder: SessionFinder | None = None,
    deadline: float = 60.0,
    trusted: Iterable[str] = ("127.0.0.1/32",),
    manners: GatewayPolicy | None = None,
    binding: ClientBinding | None = None,
    patience: HeadTimeouts | None = None,
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
    memory: Callable[[Digest], Session | None] | None = None,
) -> Gatehouse:
    """Give the house its door, shut."""
    validator = Validator(
        finder or house.shelf,
        ring=RING,
        clock=house.clock,
        deadline=deadline,
        memory=memory or house.memory,
        fetch=house.fetch,
    )
    among = build_handlers(
        validator, manners or GatewayPolicy(), events=house, clock=house.clock, binding=binding
    )
    peers = TrustedPeers(map(ip_network, trusted), refused=house.refused)
    lane = FastPath(among, trust=peers.trust, clock=house.clock, patience=patience, learn_every=1)
    house.door = Listener(
        "gate",
        gate_handler(among, peers),
        on_bad_request=house.bad_request,
        express=lane if house.fast_path else None,
        peers=peers,
        patience=patience,
        max_connections=max_connections,
        on_full=house.full,
    )
    return house


@asynccontextmanager
async def open_gate(
    address: Address = LOOPBACK,
    *,
    express: bool = True,
    remembers: bool = False,
    fetches: bool = False,
    **how: Any,
) -> AsyncIterator[Gatehouse]:
    """Open a gate at `address`, and close it in the end. `how` is what `build_gate` wants."""
    house = build_gate(
        Gatehouse(address, fast_path=express, remembers=remembers, fetches=fetches), **how
    )
    house.address = await house.door.open(address)
    try:
        yield house
    finally:
        house.shelf.open.set()
        await house.door.close(patience=0.2)


def check_manners(reply: Reply) -> None:
    """Assert what holds for every answer of the gate, whatever was asked."""
    names = [name.lower() for name, _ in reply.fields]
    identity = [name for name in names if name in {each.lower() for each in IDENTITY}]
    assert reply.only("Cache-Control") == "no-store"
    assert reply.only("Server") == "sidegate"  # no versions of anything
    assert "set-cookie" not in names
    assert "location" not in names
    assert not spells_a_token(reply.raw)
    assert b"Traceback" not in reply.raw
    assert len(reply.body) < 1024
    if reply.status == 200:
        assert sorted(identity) == sorted(each.lower() for each in IDENTITY)
        assert reply.body == b""
    else:
        assert identity == []
        assert reply.only("Content-Type") == "application/problem+json"
        assert reply.only("Content-Length") == str(len(reply.body))
    assert ("www-authenticate" in names) == (reply.status == 401)
    assert ("retry-after" in names) == (reply.status == 503)


def spells_a_token(raw: bytes) -> bool:
    """Say whether any piece of a dozen characters of any of our tokens stands in `raw`."""
    return any(
        token.text[start : start + 12].encode() in raw
        for token in TOKENS
        for start in range(4, len(token.text) - 11)
    )


def _text(token: Token | bytes) -> bytes:
    return token.text.encode("ascii") if isinstance(token, Token) else token
