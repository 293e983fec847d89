"""What a copy is estimated to take, against what it does: within a fifth, its answer included."""

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pytest

from sidegate.core.binding import Policy, Signal, Signals, Widths, bind
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.token import Token
from sidegate.services.binding import ClientBinding
from sidegate.settings.sections import MemorySection
from sidegate.stores.codec import decode, encode
from sidegate.stores.memory import MemoryStore, size_of
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.identity_headers import IdentityNames
from tests.contracts.values import a_session
from tests.support.clock import FakeClock
from tests.support.fakes import ends_nobody
from tests.web.gate.gate_rig import RING, Gatehouse, bearer, build_gate, request
from tests.web.tape import Tape

TOLERANCE: Final = 0.2
MANY: Final = 500

# What sessions and clients have in common is kept once, of the last 4096 of each. So many are there
# before: what is kept for those who come then replaces what was kept for these.
BEFORE: Final = 4100

LONG_NAMES: Final = IdentityNames(*(f"X-{letter * 62}" for letter in "ABCDEF"))
SHOWN: Final = Signals("192.0.2.1", "curl/8", "de-ch", "device 7")

Shape = Callable[[int], Session]
Client = Callable[[int], list[bytes]]


def plain(number: int) -> Session:
    return a_session(user_id=f"user-{number:08}@example.org")


def with_a_long_name(number: int) -> Session:
    return a_session(user_id=f"{number:08}" + "x" * 200)


def with_scopes_of_its_own(number: int) -> Session:
    return a_session(user_id=f"{number:08}", scopes=(f"shop:{number}:read", f"shop:{number}:write"))


def with_many_scopes_of_its_own(number: int) -> Session:
    scopes = tuple(f"scope-{number}-{n}:write" for n in range(20))
    return a_session(user_id=f"{number:08}", scopes=scopes)


def with_one_long_scope_of_its_own(number: int) -> Session:
    return a_session(user_id=f"{number:08}", scopes=(f"{number:08}" + "x" * 2000,))


def bound(number: int) -> Session:
    session = plain(number)
    return replace(session, binding=bind(session.id, SHOWN, Widths()))


def whoever(_: int) -> list[bytes]:
    """Shows nothing."""
    return []


def like_others(number: int) -> list[bytes]:
    """Shows what many do, but for the address."""
    return shows(number, b"x" * 110, b"de-CH,de", b"device 7")


def like_nobody_else(number: int) -> list[bytes]:
    """Shows as much as is noted, and nothing of it is the same for two of them."""
    own = b"%09d" % number
    return shows(number, own * 20, own * 10, own * 9)


def with_endless_lines(number: int) -> list[bytes]:
    """Shows more than is noted."""
    own = b"%09d" % number
    return shows(number, own * 100, own * 100, own * 100)


def shows(number: int, browser: bytes, language: bytes, device: bytes) -> list[bytes]:
    return [
        b"X-Real-IP: 192.0.%d.%d" % divmod(number, 200),
        b"User-Agent: " + browser,
        b"Accept-Language: " + language,
        b"X-Device: " + device,
    ]


class Nobody:
    """Is told of mismatches."""

    def binding_mismatch(self, signal: str, policy: str) -> None: ...

    def binding_revocation(self, outcome: str) -> None: ...


@dataclass(frozen=True)
class Stored:
    """A session as it comes from a store, and the request of its client."""

    record: bytes
    request: bytes


def stored(shape: Shape, client: Client, numbers: range) -> list[Stored]:
    def one(number: int, token: Token) -> Stored:
        record = encode(replace(shape(number), digest=token.digest()))
        return Stored(record, request(bearer(token), *client(number)))

    return [one(number, RING.mint(SessionType.WEB)) for number in numbers]


class House:
    """A memory, and a gate that answers from it."""

    def __init__(self, names: IdentityNames) -> None:
        self.local = MemoryStore(
            max_sessions=BEFORE + MANY,
            max_bytes=2**30,
            max_age=60.0,
            clock=FakeClock(),
        )
        self.local.set_reply_headers(names.all())
        binding = ClientBinding(
            dict.fromkeys(Signal, Policy.LOG), widths=Widths(), events=Nobody(), revoke=ends_nobody
        )
        manners = GatewayPolicy(identity=names, signals=SignalSources(binding.watched, b"x-device"))
        gate = build_gate(
            Gatehouse(), memory=self.local.get_nowait, manners=manners, binding=binding
        )
        self._tape = Tape(gate.door)

    def meets(self, them: Sequence[Stored]) -> None:
        """Remember them all, answer each from memory, and keep the answers with the copies."""
        for each in them:
            self.local.put_nowait(decode(each.record))
            self._tape.feed(each.request)
            assert self._tape.sent.startswith(b"HTTP/1.1 200 OK")
            self._tape.sent = b""


@pytest.mark.parametrize(
    ("shape", "client", "names"),
    [
        (plain, whoever, IdentityNames()),
        (plain, whoever, LONG_NAMES),
        (with_a_long_name, whoever, IdentityNames()),
        (with_scopes_of_its_own, whoever, IdentityNames()),
        (with_many_scopes_of_its_own, whoever, IdentityNames()),
        (with_one_long_scope_of_its_own, whoever, IdentityNames()),
        (bound, like_others, IdentityNames()),
        (bound, like_nobody_else, IdentityNames()),
    ],
    ids=lambda each: getattr(each, "__name__", "long names" if each is LONG_NAMES else ""),
)
async def test_the_estimate_is_within_a_fifth_of_what_a_copy_takes(
    shape: Shape, client: Client, names: IdentityNames
) -> None:
    assert taken_by(House(names), shape, client) == pytest.approx(1, abs=TOLERANCE)


async def test_whoever_shows_more_than_is_noted_takes_less_than_is_estimated() -> None:
    assert taken_by(House(IdentityNames()), bound, with_endless_lines) < 1


def taken_by(house: House, shape: Shape, client: Client) -> float:
    """Return how many times its estimate a copy takes, its answer included.

    Measured of MANY that come when others are there already.
    """
    first = stored(shape, client, range(BEFORE))
    them = stored(shape, client, range(BEFORE, BEFORE + MANY))
    tracemalloc.start()
    try:
        house.meets(first)
        size, taken = house.local.size, traced()
        house.meets(them)
        return (traced() - taken) / (house.local.size - size)
    finally:
        tracemalloc.stop()


def traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_a_hundred_thousand_ordinary_sessions_fit_into_a_hundred_and_twenty_megabytes() -> None:
    assert 100_000 * size_of(plain(1)) < 120_000_000


def test_a_hundred_thousand_fit_by_default_when_they_are_bound_and_have_scopes_too() -> None:
    session = replace(bound(1), scopes=("orders:read", "orders:write"))
    assert 100_000 * size_of(session) < MemorySection().max_bytes


def test_beyond_ascii_a_name_counts_for_what_it_takes_in_an_answer() -> None:
    assert size_of(a_session(user_id="ł" * 100)) > size_of(a_session(user_id="l" * 100)) + 1000
