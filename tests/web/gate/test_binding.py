"""Bound sessions at the gate: their own client passes; the policy applies to others."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, Self

import pytest

from sidegate.core.binding import BindingPolicy, PrefixLengths, Signal, Signals, bind
from sidegate.core.session import Session
from sidegate.services.binding import ClientBinding
from sidegate.services.rules import Rules, RulesInForce
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from tests.contracts.values import build_session, build_session_id
from tests.support.fakes import FakeBackend
from tests.web.gate.gate_harness import (
    ALICE,
    BOB,
    RING,
    ROUTES,
    GateHarness,
    assert_gate_response,
    bearer,
    build_request,
    open_gate,
)
from tests.web.raw_http import RawResponse, send_request

AUTH_REQUEST, FORWARD_AUTH, EXT_AUTHZ = ROUTES
FIREFOX: Final = b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
CLIENT: Final = Signals("192.0.2.7", FIREFOX.decode(), "de-CH,de", "device 7")
ADDRESS_HEADERS: Final = {
    AUTH_REQUEST: b"X-Real-IP",
    FORWARD_AUTH: b"X-Forwarded-For",
    EXT_AUTHZ: b"X-Real-IP",
}

every_route = pytest.mark.parametrize("route", ROUTES)


@dataclass
class RecordedEvents:
    """Recorded mismatches, and sessions to revoke."""

    mismatches: list[tuple[str, str]] = field(default_factory=list)
    revoked: list[Session] = field(default_factory=list)

    def take(self) -> Self:
        """Return the recorded events and clear them."""
        events = type(self)(self.mismatches[:], self.revoked[:])
        self.mismatches.clear()
        self.revoked.clear()
        return events

    def binding_mismatch(self, signal: str, policy: str) -> None:
        self.mismatches.append((signal, policy))

    def binding_revocation(self, outcome: str) -> None:
        raise AssertionError(outcome)


@dataclass
class BoundGate:
    """A gate with alice's session, bound to a client, and bob's, which is not bound."""

    gate: GateHarness
    alice: Session
    events: RecordedEvents
    rules: RulesInForce

    @property
    def cached_reply(self) -> object:
        """What is cached with alice's entry in memory."""
        return self.gate.lookup.entries[self.alice.digest].cached_reply

    async def check(self, route: str, *lines: bytes, token: bytes | None = None) -> RawResponse:
        """Send a check and keep only its events; with memory, repeat it for the cached reply."""
        raw = build_request(bearer(token or ALICE.text.encode()), *lines, target=route)
        self._take_events()
        response = await self.send(raw)
        if self.gate.in_memory:
            events, checks = self._take_events()
            again = await self.send(raw)
            assert (again.status, fields_without_date(again)) == (
                response.status,
                fields_without_date(response),
            )
            assert (self.events, self.gate.checks) == (events, checks)
        return response

    def _take_events(self) -> tuple[RecordedEvents, list[tuple[str, str, str]]]:
        checks = self.gate.checks[:]
        self.gate.checks.clear()
        return self.events.take(), checks

    async def send(self, raw: bytes) -> RawResponse:
        response = await send_request(self.gate.address, raw)
        assert_gate_response(response)
        return response


def fields_without_date(response: RawResponse) -> list[tuple[str, str]]:
    return sorted(field for field in response.fields if field[0] != "Date")


class OpenBoundGate(Protocol):
    """Opens a gate on one of the HTTP paths."""

    def __call__(
        self,
        policies: Mapping[Signal, BindingPolicy],
        client: Signals = CLIENT,
        *,
        trusted_hops: int = 0,
    ) -> AbstractAsyncContextManager[BoundGate]: ...


@pytest.fixture(params=["aiohttp", "fast path", "fast path from memory"])
def open_bound(request: pytest.FixtureRequest) -> OpenBoundGate:
    return _build_opener(fast_path=request.param != "aiohttp", in_memory="memory" in request.param)


@pytest.fixture
def open_in_memory() -> OpenBoundGate:
    return _build_opener(fast_path=True, in_memory=True)


def _build_opener(*, fast_path: bool, in_memory: bool) -> OpenBoundGate:
    @asynccontextmanager
    async def open_gate_with(
        policies: Mapping[Signal, BindingPolicy], client: Signals = CLIENT, *, trusted_hops: int = 0
    ) -> AsyncIterator[BoundGate]:
        session_id, events = build_session_id(), RecordedEvents()
        alice = build_session(
            id=session_id,
            user_id="alice",
            digest=ALICE.digest(),
            binding=bind(session_id, client, prefixes=PrefixLengths()),
        )
        backend = FakeBackend(alice, build_session(user_id="bob", digest=BOB.digest()))
        rules = RulesInForce(Rules(ring=RING, binding_policies=policies))
        binding = ClientBinding(rules, events=events, revoke=events.revoked.append)
        sources = SignalSources(rules.current.watched_signals, b"x-device", trusted_hops)
        async with open_gate(
            fast_path=fast_path,
            in_memory=in_memory,
            finder=backend,
            memory=backend.sessions.get if in_memory else None,
            policy=GatewayPolicy(signals=sources),
            binding=binding,
        ) as harness:
            yield BoundGate(harness, alice, events, rules)

    return open_gate_with


def signal_lines(
    route: str,
    *,
    ip: bytes = b"192.0.2.8",
    user_agent: bytes = FIREFOX,
    language: bytes = b"de-CH",
    header: bytes = b"device 7",
) -> list[bytes]:
    return [
        ADDRESS_HEADERS[route] + b": " + ip,
        b"User-Agent: " + user_agent,
        b"Accept-Language: " + language,
        b"X-Device: " + header,
    ]


def without(lines: list[bytes], name: bytes) -> list[bytes]:
    return [line for line in lines if not line.startswith(name)]


DENY_ALL: Final = dict.fromkeys(Signal, BindingPolicy.DENY)


@every_route
async def test_denied_client_records_no_activity(open_bound: OpenBoundGate, route: str) -> None:
    async with open_bound(DENY_ALL) as bound:
        await bound.check(route, *signal_lines(route, user_agent=b"curl/8.5.0"))
        assert bound.gate.allowed == []
        await bound.check(route, *signal_lines(route))
        assert set(bound.gate.allowed) == {bound.alice.id}


@every_route
async def test_own_client_is_allowed(open_bound: OpenBoundGate, route: str) -> None:
    async with open_bound(DENY_ALL) as bound:
        response = await bound.check(route, *signal_lines(route))

        assert response.get_one("X-Auth-User") == "alice"
        assert bound.events == RecordedEvents()


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
async def test_other_client_gets_the_401_of_an_invalid_token(
    open_bound: OpenBoundGate, route: str, signal: str, other: dict[str, bytes]
) -> None:
    async with open_bound(DENY_ALL) as bound:
        response = await bound.check(route, *signal_lines(route, **other))

        assert response.status == 401
        assert (
            response.get_one("WWW-Authenticate") == 'Bearer realm="sidegate", error="invalid_token"'
        )
        assert [(result, reason) for _, result, reason in bound.gate.checks] == [
            ("deny", "binding")
        ]
        assert bound.events == RecordedEvents([(signal, "deny")])


@every_route
@pytest.mark.parametrize("name", [b"X-Real-IP", b"User-Agent", b"Accept-Language", b"X-Device"])
async def test_missing_signal_is_a_mismatch(
    open_bound: OpenBoundGate, route: str, name: bytes
) -> None:
    missing = ADDRESS_HEADERS[route] if name == b"X-Real-IP" else name
    async with open_bound(DENY_ALL) as bound:
        assert (await bound.check(route, *without(signal_lines(route), missing))).status == 401


@every_route
@pytest.mark.parametrize("name", [b"X-Real-IP", b"Accept-Language", b"X-Device"])
async def test_repeated_signal_is_a_mismatch(
    open_bound: OpenBoundGate, route: str, name: bytes
) -> None:
    header = ADDRESS_HEADERS[route] if name == b"X-Real-IP" else name
    lines = signal_lines(route)
    again = [line for line in lines if line.startswith(header)]
    async with open_bound(DENY_ALL) as bound:
        assert (await bound.check(route, *lines, *again)).status == 401


@every_route
async def test_two_user_agents_get_400(open_bound: OpenBoundGate, route: str) -> None:
    async with open_bound(DENY_ALL) as bound:
        raw = build_request(
            bearer(ALICE), *signal_lines(route), b"User-Agent: " + FIREFOX, target=route
        )

        assert (await send_request(bound.gate.address, raw)).status == 400


@every_route
async def test_address_in_another_gateways_header_is_ignored(
    open_bound: OpenBoundGate, route: str
) -> None:
    other_header = (
        b"X-Real-IP" if ADDRESS_HEADERS[route] == b"X-Forwarded-For" else b"X-Forwarded-For"
    )
    lines = without(signal_lines(route), ADDRESS_HEADERS[route])
    async with open_bound(DENY_ALL) as bound:
        assert (await bound.check(route, *lines, other_header + b": 192.0.2.7")).status == 401


@every_route
@pytest.mark.parametrize(
    "invalid",
    [b"fe80::1%eth0", b"unknown", b"", b"192.0.2.7.", b"\xff\xfe", b"1" * 60_000],
)
async def test_invalid_address_gets_401(
    open_bound: OpenBoundGate, route: str, invalid: bytes
) -> None:
    async with open_bound({Signal.IP: BindingPolicy.DENY}) as bound:
        assert (await bound.check(route, *signal_lines(route, ip=invalid))).status == 401


@every_route
@pytest.mark.parametrize("invalid", [b"x" * 8000, b"curl/8\x01", b"\xe9\xff/1", b"curl/8\t7", b"/"])
async def test_invalid_user_agent_is_denied(
    open_bound: OpenBoundGate, route: str, invalid: bytes
) -> None:
    async with open_bound({Signal.USER_AGENT: BindingPolicy.DENY}) as bound:
        response = await send_request(
            bound.gate.address,
            build_request(bearer(ALICE), *signal_lines(route, user_agent=invalid), target=route),
        )

        assert response.status in (400, 401)
        assert "X-Auth-User" not in dict(response.fields)


@every_route
async def test_port_is_not_part_of_an_address(open_bound: OpenBoundGate, route: str) -> None:
    ipv6_client = Signals(ip="2001:db8::1")
    async with (
        open_bound(DENY_ALL) as four,
        open_bound({Signal.IP: BindingPolicy.DENY}, ipv6_client) as six,
    ):
        assert (await four.check(route, *signal_lines(route, ip=b"192.0.2.7:5555"))).status == 200
        assert (await six.check(route, *signal_lines(route, ip=b"[2001:db8::1]:80"))).status == 200


@pytest.mark.parametrize(
    ("hops", "addresses", "status"),
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
async def test_last_address_before_the_trusted_proxies_counts(
    open_bound: OpenBoundGate, hops: int, addresses: bytes, status: int
) -> None:
    async with open_bound({Signal.IP: BindingPolicy.DENY}, trusted_hops=hops) as bound:
        response = await bound.check(FORWARD_AUTH, *signal_lines(FORWARD_AUTH, ip=addresses))

        assert response.status == status


@pytest.mark.parametrize("route", [AUTH_REQUEST, EXT_AUTHZ])
async def test_trusted_hops_apply_to_lists_only(open_bound: OpenBoundGate, route: str) -> None:
    async with open_bound({Signal.IP: BindingPolicy.DENY}, trusted_hops=1) as bound:
        assert (await bound.check(route, *signal_lines(route))).status == 200


@every_route
@pytest.mark.parametrize("fast_path", [False, True])
async def test_prefix_lengths_of_a_reload_apply_to_the_next_check(
    route: str, fast_path: bool
) -> None:
    async with _build_opener(fast_path=fast_path, in_memory=False)(DENY_ALL) as bound:
        assert (await bound.check(route, *signal_lines(route))).status == 200
        bound.rules.current = replace(bound.rules.current, prefix_lengths=PrefixLengths(32, 128))
        assert (await bound.check(route, *signal_lines(route))).status == 401


@every_route
async def test_policy_off_ignores_mismatches(open_bound: OpenBoundGate, route: str) -> None:
    async with open_bound(dict.fromkeys(Signal, BindingPolicy.OFF)) as bound:
        assert (await bound.check(route)).get_one("X-Auth-User") == "alice"
        assert bound.events == RecordedEvents()


@every_route
async def test_policy_log_allows_and_counts_mismatches(
    open_bound: OpenBoundGate, route: str
) -> None:
    policies = {Signal.IP: BindingPolicy.LOG, Signal.USER_AGENT: BindingPolicy.LOG}
    async with open_bound(policies) as bound:
        assert (await bound.check(route)).get_one("X-Auth-User") == "alice"
        assert bound.events == RecordedEvents([("ip", "log"), ("user_agent", "log")])


@every_route
async def test_cached_reply_counts_its_mismatches_again(
    open_in_memory: OpenBoundGate, route: str
) -> None:
    async with open_in_memory(
        {Signal.IP: BindingPolicy.LOG, Signal.USER_AGENT: BindingPolicy.LOG}
    ) as bound:
        raw = build_request(
            bearer(ALICE), *signal_lines(route, user_agent=b"curl/8.5.0"), target=route
        )
        await bound.send(raw)
        cached = bound.cached_reply
        bound.events.take()

        assert (await bound.send(raw)).get_one("X-Auth-User") == "alice"
        assert cached is not None
        assert bound.cached_reply is cached
        assert bound.events == RecordedEvents([("user_agent", "log")])


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
async def test_cached_reply_is_not_used_for_other_signals(
    open_in_memory: OpenBoundGate, route: str, other: dict[str, bytes]
) -> None:
    async with open_in_memory(DENY_ALL) as bound:
        assert (await bound.check(route, *signal_lines(route))).status == 200
        assert (await bound.check(route, *signal_lines(route, **other))).status == 401
        assert (await bound.check(route, *signal_lines(route))).status == 200


@every_route
async def test_cached_reply_does_not_hide_new_mismatches(
    open_in_memory: OpenBoundGate, route: str
) -> None:
    async with open_in_memory({Signal.USER_AGENT: BindingPolicy.LOG}) as bound:
        await bound.check(route, *signal_lines(route))
        assert bound.events == RecordedEvents()
        await bound.check(route, *signal_lines(route, user_agent=b"curl/8.5.0"))
        assert bound.events == RecordedEvents([("user_agent", "log")])
        await bound.check(route, *signal_lines(route))
        assert bound.events == RecordedEvents()


@every_route
async def test_reply_for_long_signals_is_not_cached(
    open_in_memory: OpenBoundGate, route: str
) -> None:
    async with open_in_memory({Signal.HEADER: BindingPolicy.LOG}) as bound:
        lines = signal_lines(route, header=b"x" * 500)

        assert (await bound.check(route, *lines)).get_one("X-Auth-User") == "alice"
        assert bound.events == RecordedEvents([("header", "log")])
        assert bound.cached_reply is None


@every_route
async def test_policy_revoke_denies_and_revokes_the_session(
    open_bound: OpenBoundGate, route: str
) -> None:
    async with open_bound(
        {Signal.IP: BindingPolicy.LOG, Signal.HEADER: BindingPolicy.REVOKE}
    ) as bound:
        assert (await bound.check(route)).status == 401
        assert bound.events == RecordedEvents([("ip", "log"), ("header", "revoke")], [bound.alice])


@every_route
async def test_session_without_binding_is_allowed_for_every_client(
    open_bound: OpenBoundGate, route: str
) -> None:
    async with open_bound(dict.fromkeys(Signal, BindingPolicy.REVOKE)) as bound:
        response = await bound.check(route, token=BOB.text.encode())

        assert response.get_one("X-Auth-User") == "bob"
        assert bound.events == RecordedEvents()


@every_route
async def test_only_the_bound_signals_are_compared(open_bound: OpenBoundGate, route: str) -> None:
    async with open_bound(DENY_ALL, Signals(user_agent=FIREFOX.decode())) as bound:
        assert (await bound.check(route, b"User-Agent: " + FIREFOX)).status == 200


def test_headers_of_disabled_signals_are_not_gathered() -> None:
    roles = GatewayPolicy(signals=SignalSources(header=b"x-device")).build_roles(
        client=b"x-real-ip"
    )

    assert set(roles.values()) == {b"authorization", b"cookie", b"x-real-ip"}
