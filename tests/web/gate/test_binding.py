"""Bound sessions at the gate: their own client passes, and whoever differs meets the policy."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

import pytest

from sidegate.core.binding import Policy, Signal, Signals, Widths, bind
from sidegate.core.session import Session
from sidegate.services.binding import ClientBinding
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from tests.contracts.values import a_session, an_id
from tests.support.fakes import Shelf
from tests.web.gate.gate_rig import ALICE, BOB, ROUTES, Gatehouse, bearer, check_manners, open_gate
from tests.web.gate.gate_rig import request as asking
from tests.web.raw_http import Reply, ask

AUTH_REQUEST, FORWARD_AUTH, EXT_AUTHZ = ROUTES
FIREFOX: Final = b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
CLIENT: Final = Signals("192.0.2.7", FIREFOX.decode(), "de-CH,de", "device 7")
ADDRESS: Final = {
    AUTH_REQUEST: b"X-Real-IP",
    FORWARD_AUTH: b"X-Forwarded-For",
    EXT_AUTHZ: b"X-Real-IP",
}

every_route = pytest.mark.parametrize("route", ROUTES)


@dataclass
class Noted:
    """What is told of mismatches, and which sessions are to end."""

    mismatches: list[tuple[str, str]] = field(default_factory=list)
    revoked: list[Session] = field(default_factory=list)

    def taken(self) -> Self:
        """Return what has been noted, and begin anew."""
        told = type(self)(self.mismatches[:], self.revoked[:])
        self.mismatches.clear()
        self.revoked.clear()
        return told

    def binding_mismatch(self, signal: str, policy: str) -> None:
        self.mismatches.append((signal, policy))

    def binding_revocation(self, outcome: str) -> None:
        raise AssertionError(outcome)


@dataclass
class Bound:
    """A gate that holds alice's session, bound to CLIENT, and bob's, bound to nothing."""

    gate: Gatehouse
    alice: Session
    noted: Noted

    async def show(self, route: str, *lines: bytes, token: bytes | None = None) -> Reply:
        """Ask; what is counted is what came of it.

        A gate that remembers is asked twice: the second time it may have noted its answer.
        """
        raw = asking(bearer(token or ALICE.text.encode()), *lines, target=route)
        self._forget()
        reply = await self.ask(raw)
        if self.gate.remembers:
            told, checks = self._forget()
            again = await self.ask(raw)
            assert (again.status, undated(again)) == (reply.status, undated(reply))
            assert (self.noted, self.gate.checks) == (told, checks)
        return reply

    def _forget(self) -> tuple[Noted, list[tuple[str, str, str]]]:
        checks = self.gate.checks[:]
        self.gate.checks.clear()
        return self.noted.taken(), checks

    async def ask(self, raw: bytes) -> Reply:
        reply = await ask(self.gate.address, raw)
        check_manners(reply)
        return reply


def undated(reply: Reply) -> list[tuple[str, str]]:
    return sorted(field for field in reply.fields if field[0] != "Date")


class Bind(Protocol):
    """Opens a gate on one of the lanes."""

    def __call__(
        self,
        policies: Mapping[Signal, Policy],
        client: Signals = CLIENT,
        *,
        trusted_hops: int = 0,
    ) -> AbstractAsyncContextManager[Bound]: ...


@pytest.fixture(params=["aiohttp", "express", "express from memory"])
def bound(request: pytest.FixtureRequest) -> Bind:
    return _bind(express=request.param != "aiohttp", remembers="memory" in request.param)


@pytest.fixture
def from_memory() -> Bind:
    return _bind(express=True, remembers=True)


def _bind(*, express: bool, remembers: bool) -> Bind:
    @asynccontextmanager
    async def bound(
        policies: Mapping[Signal, Policy], client: Signals = CLIENT, *, trusted_hops: int = 0
    ) -> AsyncIterator[Bound]:
        session_id, noted = an_id(), Noted()
        alice = a_session(
            id=session_id,
            user_id="alice",
            digest=ALICE.digest(),
            binding=bind(session_id, client, Widths()),
        )
        shelf = Shelf(alice, a_session(user_id="bob", digest=BOB.digest()))
        binding = ClientBinding(
            policies, widths=Widths(), events=noted, revoke=noted.revoked.append
        )
        sources = SignalSources(binding.watched, b"x-device", trusted_hops)
        async with open_gate(
            express=express,
            remembers=remembers,
            finder=shelf,
            memory=shelf.sessions.get if remembers else None,
            manners=GatewayPolicy(signals=sources),
            binding=binding,
        ) as gatehouse:
            yield Bound(gatehouse, alice, noted)

    return bound


def lines(
    route: str,
    *,
    ip: bytes = b"192.0.2.8",
    user_agent: bytes = FIREFOX,
    language: bytes = b"de-CH",
    header: bytes = b"device 7",
) -> list[bytes]:
    return [
        ADDRESS[route] + b": " + ip,
        b"User-Agent: " + user_agent,
        b"Accept-Language: " + language,
        b"X-Device: " + header,
    ]


def without(shown: list[bytes], name: bytes) -> list[bytes]:
    return [line for line in shown if not line.startswith(name)]


DENY_ALL: Final = dict.fromkeys(Signal, Policy.DENY)


@every_route
async def test_its_own_client_passes(bound: Bind, route: str) -> None:
    async with bound(DENY_ALL) as scene:
        reply = await scene.show(route, *lines(route))

        assert reply.only("X-Auth-User") == "alice"
        assert scene.noted == Noted()


@every_route
@pytest.mark.parametrize(
    ("signal", "other"),
    [
        ("ip", {"ip": b"198.51.100.7"}),
        ("user_agent", {"user_agent": b"curl/8.5.0"}),
        ("accept_language", {"language": b"en"}),
        ("header", {"header": b"device 8"}),
    ],
)
async def test_another_client_is_refused_as_anybody_else_is(
    bound: Bind, route: str, signal: str, other: dict[str, bytes]
) -> None:
    async with bound(DENY_ALL) as scene:
        reply = await scene.show(route, *lines(route, **other))

        assert reply.status == 401
        assert reply.only("WWW-Authenticate") == 'Bearer realm="sidegate", error="invalid_token"'
        assert [(r, why) for _, r, why in scene.gate.checks] == [("deny", "binding")]
        assert scene.noted == Noted([(signal, "deny")])


@every_route
@pytest.mark.parametrize("name", [b"X-Real-IP", b"User-Agent", b"Accept-Language", b"X-Device"])
async def test_what_is_missing_differs(bound: Bind, route: str, name: bytes) -> None:
    missing = ADDRESS[route] if name == b"X-Real-IP" else name
    async with bound(DENY_ALL) as scene:
        assert (await scene.show(route, *without(lines(route), missing))).status == 401


@every_route
@pytest.mark.parametrize("name", [b"X-Real-IP", b"Accept-Language", b"X-Device"])
async def test_what_is_said_twice_differs(bound: Bind, route: str, name: bytes) -> None:
    twice = ADDRESS[route] if name == b"X-Real-IP" else name
    shown = lines(route)
    again = [line for line in shown if line.startswith(twice)]
    async with bound(DENY_ALL) as scene:
        assert (await scene.show(route, *shown, *again)).status == 401


@every_route
async def test_two_user_agents_are_no_request(bound: Bind, route: str) -> None:
    async with bound(DENY_ALL) as scene:
        shown = asking(bearer(ALICE), *lines(route), b"User-Agent: " + FIREFOX, target=route)

        assert (await ask(scene.gate.address, shown)).status == 400


@every_route
async def test_an_address_in_another_gateways_header_is_none(bound: Bind, route: str) -> None:
    foreign = b"X-Real-IP" if ADDRESS[route] == b"X-Forwarded-For" else b"X-Forwarded-For"
    shown = without(lines(route), ADDRESS[route])
    async with bound(DENY_ALL) as scene:
        assert (await scene.show(route, *shown, foreign + b": 192.0.2.7")).status == 401


@every_route
@pytest.mark.parametrize(
    "odd",
    [b"fe80::1%eth0", b"unknown", b"", b"192.0.2.7.", b"\xff\xfe", b"1" * 60_000],
)
async def test_an_address_nobody_can_read_is_refused_and_no_failure(
    bound: Bind, route: str, odd: bytes
) -> None:
    async with bound({Signal.IP: Policy.DENY}) as scene:
        assert (await scene.show(route, *lines(route, ip=odd))).status == 401


@every_route
@pytest.mark.parametrize("odd", [b"x" * 8000, b"curl/8\x01", b"\xe9\xff/1", b"curl/8\t7", b"/"])
async def test_a_user_agent_nobody_can_read_is_refused_and_no_failure(
    bound: Bind, route: str, odd: bytes
) -> None:
    async with bound({Signal.USER_AGENT: Policy.DENY}) as scene:
        reply = await ask(
            scene.gate.address,
            asking(bearer(ALICE), *lines(route, user_agent=odd), target=route),
        )

        assert reply.status in (400, 401)
        assert "X-Auth-User" not in dict(reply.fields)


@every_route
async def test_a_port_is_not_part_of_an_address(bound: Bind, route: str) -> None:
    sixth = Signals(ip="2001:db8::1")
    async with bound(DENY_ALL) as four, bound({Signal.IP: Policy.DENY}, sixth) as six:
        assert (await four.show(route, *lines(route, ip=b"192.0.2.7:5555"))).status == 200
        assert (await six.show(route, *lines(route, ip=b"[2001:db8::1]:80"))).status == 200


@pytest.mark.parametrize(
    ("hops", "shown", "status"),
    [
        (0, b"192.0.2.7", 200),
        (0, b"6.6.6.6, 192.0.2.7", 200),
        (0, b"192.0.2.7, 6.6.6.6", 401),
        (0, b"192.0.2.7,", 401),
        (1, b"192.0.2.7, 6.6.6.6", 200),
        (1, b"6.6.6.6, 192.0.2.7:80, 10.0.0.1", 200),
        (1, b"192.0.2.7", 401),
        (2, b"192.0.2.7, 6.6.6.6", 401),
    ],
)
async def test_of_a_list_of_addresses_the_last_that_is_not_ours_counts(
    bound: Bind, hops: int, shown: bytes, status: int
) -> None:
    async with bound({Signal.IP: Policy.DENY}, trusted_hops=hops) as scene:
        reply = await scene.show(FORWARD_AUTH, *lines(FORWARD_AUTH, ip=shown))

        assert reply.status == status


@pytest.mark.parametrize("route", [AUTH_REQUEST, EXT_AUTHZ])
async def test_hops_are_counted_in_lists_only(bound: Bind, route: str) -> None:
    async with bound({Signal.IP: Policy.DENY}, trusted_hops=1) as scene:
        assert (await scene.show(route, *lines(route))).status == 200


@every_route
async def test_what_is_off_is_not_looked_at(bound: Bind, route: str) -> None:
    async with bound(dict.fromkeys(Signal, Policy.OFF)) as scene:
        assert (await scene.show(route)).only("X-Auth-User") == "alice"
        assert scene.noted == Noted()


@every_route
async def test_log_lets_pass_and_counts(bound: Bind, route: str) -> None:
    policies = {Signal.IP: Policy.LOG, Signal.USER_AGENT: Policy.LOG}
    async with bound(policies) as scene:
        assert (await scene.show(route)).only("X-Auth-User") == "alice"
        assert scene.noted == Noted([("ip", "log"), ("user_agent", "log")])


@every_route
async def test_what_differs_is_counted_again_when_the_answer_is_a_noted_one(
    from_memory: Bind, route: str
) -> None:
    async with from_memory({Signal.IP: Policy.LOG, Signal.USER_AGENT: Policy.LOG}) as scene:
        raw = asking(bearer(ALICE), *lines(route, user_agent=b"curl/8.5.0"), target=route)
        await scene.ask(raw)
        said = scene.alice.cached_reply
        scene.noted.taken()

        assert (await scene.ask(raw)).only("X-Auth-User") == "alice"
        assert said is not None
        assert scene.alice.cached_reply is said
        assert scene.noted == Noted([("user_agent", "log")])


@every_route
@pytest.mark.parametrize(
    "other",
    [
        {"ip": b"198.51.100.7"},
        {"user_agent": b"curl/8.5.0"},
        {"language": b"en"},
        {"header": b"device 8"},
    ],
)
async def test_who_shows_something_else_is_judged_anew_whatever_is_noted(
    from_memory: Bind, route: str, other: dict[str, bytes]
) -> None:
    async with from_memory(DENY_ALL) as scene:
        assert (await scene.show(route, *lines(route))).status == 200
        assert (await scene.show(route, *lines(route, **other))).status == 401
        assert (await scene.show(route, *lines(route))).status == 200


@every_route
async def test_who_comes_back_as_another_is_counted_whatever_is_noted(
    from_memory: Bind, route: str
) -> None:
    async with from_memory({Signal.USER_AGENT: Policy.LOG}) as scene:
        await scene.show(route, *lines(route))
        assert scene.noted == Noted()
        await scene.show(route, *lines(route, user_agent=b"curl/8.5.0"))
        assert scene.noted == Noted([("user_agent", "log")])
        await scene.show(route, *lines(route))
        assert scene.noted == Noted()


@every_route
async def test_of_who_shows_very_much_nothing_is_noted_and_the_answer_is_the_same(
    from_memory: Bind, route: str
) -> None:
    async with from_memory({Signal.HEADER: Policy.LOG}) as scene:
        shown = lines(route, header=b"x" * 500)

        assert (await scene.show(route, *shown)).only("X-Auth-User") == "alice"
        assert scene.noted == Noted([("header", "log")])
        assert scene.alice.cached_reply is None


@every_route
async def test_revoke_refuses_and_ends_the_session(bound: Bind, route: str) -> None:
    async with bound({Signal.IP: Policy.LOG, Signal.HEADER: Policy.REVOKE}) as scene:
        assert (await scene.show(route)).status == 401
        assert scene.noted == Noted([("ip", "log"), ("header", "revoke")], [scene.alice])


@every_route
async def test_a_session_bound_to_nothing_is_everybodys(bound: Bind, route: str) -> None:
    async with bound(dict.fromkeys(Signal, Policy.REVOKE)) as scene:
        reply = await scene.show(route, token=BOB.text.encode())

        assert reply.only("X-Auth-User") == "bob"
        assert scene.noted == Noted()


@every_route
async def test_a_session_is_held_only_to_what_it_is_bound_to(bound: Bind, route: str) -> None:
    async with bound(DENY_ALL, Signals(user_agent=FIREFOX.decode())) as scene:
        assert (await scene.show(route, b"User-Agent: " + FIREFOX)).status == 200


def test_no_header_is_gathered_for_what_nobody_watches() -> None:
    roles = GatewayPolicy(signals=SignalSources(header=b"x-device")).roles(client=b"x-real-ip")

    assert set(roles.values()) == {b"authorization", b"cookie", b"x-real-ip"}
