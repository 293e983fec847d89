"""The size estimate of a cache entry is within 20 % of its real size with its cached reply."""

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pytest

from sidegate.core.binding import BindingPolicy, PrefixLengths, Signal, Signals, bind
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.token import Token
from sidegate.services.binding import ClientBinding
from sidegate.services.rules import Rules, RulesInForce
from sidegate.settings.sections import MemorySection
from sidegate.stores.codec import decode, encode
from sidegate.stores.memory import MemoryStore, estimate_size
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.identity_headers import IdentityNames
from tests.contracts.values import build_session
from tests.support.clock import FakeClock
from tests.support.fakes import raise_on_revocation
from tests.support.replace import replace
from tests.web.fake_transport import FakeTransport
from tests.web.gate.gate_harness import (
    RING,
    GateHarness,
    bearer,
    build_gate,
    build_redis_lookup,
    build_request,
)

TOLERANCE: Final = 0.2
MEASURED: Final = 500

# Equal values of sessions and of clients are interned in caches of 4096 entries. So many sessions
# are put before the measurement that the measured ones evict as many values as they add.
EARLIER: Final = 4100

LONG_NAMES: Final = IdentityNames(*(f"X-{letter * 62}" for letter in "ABCDEF"))
SIGNALS: Final = Signals("192.0.2.1", "curl/8", "de-ch", "device 7")

Shape = Callable[[int], Session]
Client = Callable[[int], list[bytes]]


def plain(number: int) -> Session:
    return build_session(user_id=f"user-{number:08}@example.org")


def long_user_id(number: int) -> Session:
    return build_session(user_id=f"{number:08}" + "x" * 200)


def unique_scopes(number: int) -> Session:
    return build_session(
        user_id=f"{number:08}", scopes=(f"shop:{number}:read", f"shop:{number}:write")
    )


def many_unique_scopes(number: int) -> Session:
    scopes = tuple(f"scope-{number}-{n}:write" for n in range(20))
    return build_session(user_id=f"{number:08}", scopes=scopes)


def one_long_scope(number: int) -> Session:
    return build_session(user_id=f"{number:08}", scopes=(f"{number:08}" + "x" * 2000,))


def bound(number: int) -> Session:
    session = plain(number)
    return replace(session, binding=bind(session.id, SIGNALS, prefixes=PrefixLengths()))


def no_signals(_: int) -> list[bytes]:
    """Return no signals."""
    return []


def shared_signals(number: int) -> list[bytes]:
    """Return signals that many clients share, except for the address."""
    return build_signal_headers(number, b"x" * 110, b"de-CH,de", b"device 7")


def unique_signals(number: int) -> list[bytes]:
    """Return signals of the maximum length that is kept, which no clients share."""
    own = b"%09d" % number
    return build_signal_headers(number, own * 20, own * 10, own * 9)


def oversized_signals(number: int) -> list[bytes]:
    """Return signals longer than what is kept."""
    own = b"%09d" % number
    return build_signal_headers(number, own * 100, own * 100, own * 100)


def build_signal_headers(
    number: int, browser: bytes, language: bytes, device: bytes
) -> list[bytes]:
    return [
        b"X-Real-IP: 192.0.%d.%d" % divmod(number, 200),
        b"User-Agent: " + browser,
        b"Accept-Language: " + language,
        b"X-Device: " + device,
    ]


class NullEvents:
    """Ignores binding events."""

    def binding_mismatch(self, signal: str, policy: str) -> None: ...

    def binding_revocation(self, outcome: str) -> None: ...


@dataclass(frozen=True)
class StoredSession:
    """The record of a session in a store, and a request of its client."""

    record: bytes
    request: bytes


def build_stored_sessions(shape: Shape, client: Client, numbers: range) -> list[StoredSession]:
    def build(number: int, token: Token) -> StoredSession:
        record = encode(replace(shape(number), digest=token.digest()))
        return StoredSession(record, build_request(bearer(token), *client(number)))

    return [build(number, RING.mint(SessionType.WEB)) for number in numbers]


class MemoryGate:
    """A memory store, and a gate that looks up its sessions there."""

    def __init__(self, names: IdentityNames) -> None:
        self.memory = MemoryStore(
            max_sessions=EARLIER + MEASURED,
            max_bytes=2**30,
            max_age=60.0,
            clock=FakeClock(),
        )
        self.memory.set_reply_headers(names.all_names())
        rules = Rules(ring=RING, binding_policies=dict.fromkeys(Signal, BindingPolicy.LOG))
        binding = ClientBinding(
            RulesInForce(rules), events=NullEvents(), revoke=raise_on_revocation
        )
        policy = GatewayPolicy(
            identity=names, signals=SignalSources(rules.watched_signals, b"x-device")
        )
        self._harness = harness = GateHarness()
        lookup = build_redis_lookup(harness.backend, harness.clock, memory=self.memory)
        gate = build_gate(harness, lookup=lookup, policy=policy, binding=binding)
        self._transport = FakeTransport(gate.listener)

    def serve(self, sessions: Sequence[StoredSession]) -> None:
        """Put each session, and send its request, so that the reply is cached with the session."""
        for each in sessions:
            self.memory.put_nowait(decode(each.record))
            self._transport.feed(each.request)
            assert self._transport.sent.startswith(b"HTTP/1.1 200 OK")
            self._transport.sent = b""
        self._harness.allowed.clear()


@pytest.mark.parametrize(
    ("shape", "client", "names"),
    [
        (plain, no_signals, IdentityNames()),
        (plain, no_signals, LONG_NAMES),
        (long_user_id, no_signals, IdentityNames()),
        (unique_scopes, no_signals, IdentityNames()),
        (many_unique_scopes, no_signals, IdentityNames()),
        (one_long_scope, no_signals, IdentityNames()),
        (bound, shared_signals, IdentityNames()),
        (bound, unique_signals, IdentityNames()),
    ],
    ids=lambda each: getattr(each, "__name__", "long names" if each is LONG_NAMES else ""),
)
async def test_estimate_is_within_20_percent_of_the_real_size(
    shape: Shape, client: Client, names: IdentityNames
) -> None:
    assert measure_ratio(MemoryGate(names), shape, client) == pytest.approx(1, abs=TOLERANCE)


async def test_oversized_signals_take_less_than_the_estimate() -> None:
    assert measure_ratio(MemoryGate(IdentityNames()), bound, oversized_signals) < 1


def measure_ratio(gate: MemoryGate, shape: Shape, client: Client) -> float:
    """Return the real size of an entry with its cached reply, divided by the estimate.

    It is the mean of MEASURED entries that are put after the first EARLIER ones.
    """
    earlier = build_stored_sessions(shape, client, range(EARLIER))
    measured = build_stored_sessions(shape, client, range(EARLIER, EARLIER + MEASURED))
    tracemalloc.start()
    try:
        gate.serve(earlier)
        estimated, traced = gate.memory.size_bytes, read_traced_bytes()
        gate.serve(measured)
        return (read_traced_bytes() - traced) / (gate.memory.size_bytes - estimated)
    finally:
        tracemalloc.stop()


def read_traced_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_100_000_plain_sessions_fit_into_120_megabytes() -> None:
    assert 100_000 * estimate_size(plain(1)) < 120_000_000


def test_100_000_bound_sessions_with_scopes_fit_by_default() -> None:
    session = replace(bound(1), scopes=("orders:read", "orders:write"))
    assert 100_000 * estimate_size(session) < MemorySection().max_bytes


def test_non_ascii_user_id_counts_with_its_size_in_the_reply() -> None:
    assert (
        estimate_size(build_session(user_id="ł" * 100))
        > estimate_size(build_session(user_id="l" * 100)) + 1000
    )
