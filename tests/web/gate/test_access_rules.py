"""Access rules in a running gate: the same on both HTTP paths and for every gateway protocol."""

import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from itertools import combinations
from typing import Any

import pytest

from sidegate.core.binding import BindingPolicy, PrefixLengths, Signal, Signals, bind
from sidegate.core.requirement import Access, Requirement
from sidegate.core.rules import Decision, Rule, RuleTable
from sidegate.core.session_type import SessionType
from sidegate.services.binding import ClientBinding
from sidegate.services.rules import Rules, RulesInForce
from sidegate.web.gate.check_by_rule import CheckByRule
from sidegate.web.gateways.auth_request import AuthRequest
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.server.header_lines import PlainForms
from sidegate.web.server.messages import Head
from tests.core.test_target import HOSTILE
from tests.support.clock import NOON
from tests.support.fakes import FakeBackend, raise_on_revocation
from tests.support.replace import replace
from tests.web.gate.gate_harness import (
    ALICE,
    BOB,
    EXPIRED,
    FORGED,
    IDENTITY_HEADERS,
    NEVER_ISSUED,
    REVOKED,
    RING,
    GateHarness,
    assert_gate_response,
    bearer,
    build_request,
    build_sessions,
    cookie,
    open_gate,
)
from tests.web.raw_http import RawResponse, connect, send_request

PUBLIC, OPTIONAL = Requirement(Access.PUBLIC), Requirement(Access.OPTIONAL)
MAX_AGE = timedelta(minutes=5)
RULES = (
    Rule("static", PUBLIC, paths=("/public/**",), methods=("GET",)),
    Rule("home", OPTIONAL, paths=("/",)),
    Rule("admin", Requirement(scopes=frozenset({"admin", "audit"})), paths=("/admin/**",)),
    Rule("services", Requirement(types=frozenset({SessionType.SERVICE})), paths=("/internal/**",)),
    Rule("payment", Requirement(max_age=MAX_AGE), paths=("/pay",)),
    Rule("bound", Requirement(bound=True), paths=("/device",)),
    Rule("acme", Requirement(tenants=frozenset({"acme"})), paths=("/acme/**",)),
    Rule("poll", Requirement(counts_activity=False), paths=("/poll",)),
    Rule("api", paths=("/api/**",), preflight=True),
    Rule("intranet", PUBLIC, hosts=("intranet.test",)),
)

PROTOCOLS = ("auth-request", "forward-auth", "ext-authz")
PATHS: Mapping[str, Mapping[str, Any]] = {
    "aiohttp": {"fast_path": False},
    "fast path": {},
    "memory": {"in_memory": True},
    "prefetch": {"prefetches": True},
}

OpenGate = Callable[..., AbstractAsyncContextManager[GateHarness]]


def build_subrequest(
    protocol: str,
    uri: str,
    *lines: bytes,
    host: str | None = "app.test",
    method: str = "GET",
) -> bytes:
    """Return the subrequest of a gateway for a request with these credentials."""
    if protocol == "ext-authz":
        target = f"/ext-authz{uri}"
        raw = build_request(*lines, target=target, method=method.encode())
        return raw.replace(b"gateway.test", (host or "").encode("latin-1"))
    prefix = "X-Original" if protocol == "auth-request" else "X-Forwarded"
    name = "URI" if protocol == "auth-request" else "Uri"
    stated = [f"{prefix}-{name}: {uri}", f"{prefix}-Method: {method}"]
    stated += [] if host is None else [f"{prefix}-Host: {host}"]
    encoded = (line.encode("latin-1") for line in stated)
    return build_request(*lines, *encoded, target=f"/{protocol}")


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=PATHS)
def open_with_rules(request: pytest.FixtureRequest) -> OpenGate:
    """A function that opens a gate on one of the paths."""

    def open_it(**options: Any) -> AbstractAsyncContextManager[GateHarness]:
        return open_gate(**{"rules": RULES, **PATHS[request.param], **options})

    return open_it


@pytest.fixture
async def gate(open_with_rules: OpenGate) -> AsyncIterator[GateHarness]:
    async with open_with_rules() as harness:
        yield harness


async def ask(
    gate: GateHarness, protocol: str, uri: str, *lines: bytes, **stated: Any
) -> RawResponse:
    """Return the answer to two equal requests: the second may come from a cache."""
    raw = build_subrequest(protocol, uri, *lines, **stated)
    first, second = [await send_request(gate.address, raw) for _ in range(2)]
    assert_same_answer(first, second)
    if first.status != 403:
        assert_gate_response(first)
    return first


def assert_same_answer(first: RawResponse, second: RawResponse) -> None:
    assert second.status == first.status
    kept = [[f for f in each.fields if f[0].lower() != "date"] for each in (first, second)]
    assert kept[0] == kept[1]


def read_identity(response: RawResponse) -> list[str]:
    """Return the values of the identity headers of a 200, each of which it has once."""
    assert response.status == 200
    return [response.get_one(name) for name in IDENTITY_HEADERS]


def is_anonymous(response: RawResponse) -> bool:
    return set(read_identity(response)) == {""}


# Public

CREDENTIALS = {
    "no credential": (),
    "a valid bearer": (bearer(ALICE),),
    "a valid cookie": (cookie(ALICE),),
    "a forged token": (bearer(FORGED),),
    "an unknown token": (cookie(NEVER_ISSUED),),
    "an ended session": (bearer(REVOKED),),
    "junk": (b"Authorization: Bearer x",),
    "two Authorization lines": (bearer(ALICE), bearer(BOB)),
    "two sessions": (cookie(ALICE), bearer(BOB)),
    "a quoted cookie": (b'Cookie: a="x; __Host-session=' + ALICE.text.encode() + b'; b"',),
}


async def test_public_path_is_allowed_without_a_lookup_whatever_the_credential(
    gate: GateHarness, protocol: str
) -> None:
    gate.backend.down, gate.clock.is_set = True, False

    for name, lines in CREDENTIALS.items():
        assert is_anonymous(await ask(gate, protocol, "/public/style.css", *lines)), name

    number = 2 * len(CREDENTIALS)
    assert gate.backend.lookups == []
    assert gate.checks == [(protocol, "allow", "anonymous")] * number
    assert gate.rule_checks == [("static",)] * number
    assert gate.allowed == []


async def test_other_paths_need_a_session(gate: GateHarness, protocol: str) -> None:
    response = await ask(gate, protocol, "/other")
    allowed = await ask(gate, protocol, "/other", bearer(ALICE))

    assert response.status == 401
    assert read_identity(allowed)[0] == "alice"
    assert gate.rule_checks == [("default",)] * 4
    assert [check[1:] for check in gate.checks] == [("deny", "missing")] * 2 + [("allow", "ok")] * 2


HOSTILE_URIS = [
    "/admin%00/../public/x",
    "/public/..%2f%00admin",
    *(
        uri
        for uri, readings in HOSTILE
        if "/admin" in readings and uri.isascii() and uri.isprintable()
    ),
]


async def test_hostile_form_of_a_protected_path_is_not_public(
    gate: GateHarness, protocol: str
) -> None:
    is_in_target = protocol == "ext-authz"  # as a part of the request line
    uris = [uri for uri in HOSTILE_URIS if not is_in_target or uri.startswith("/")]

    async with connect(gate.address) as connection:
        for uri in uris:
            for lines, status in (((), 401), ((bearer(ALICE),), 403)):
                await connection.send(build_subrequest(protocol, uri, *lines))
                response = await connection.read_response()
                assert response.status == status, uri
    assert gate.allowed == []
    assert len(uris) > 40


# What nginx may state, and the status without a session.
UNSTATED: list[tuple[tuple[bytes, ...], int]] = [
    ((b"X-Original-URI: /public/x", b"X-Original-Method: GET"), 200),
    ((b"X-Original-URI: /public/x", b"X-Original-Method: HEAD"), 200),
    ((b"X-Original-URI: /public/x",), 401),
    ((b"X-Original-Method: GET",), 401),
    ((b"X-Original-URI:", b"X-Original-Method: GET"), 401),
    ((), 401),
    ((b"X-Forwarded-Uri: /public/x", b"X-Forwarded-Method: GET"), 401),
    (
        (
            b"X-Original-URI: /admin",
            b"X-Original-Method: GET",
            b"X-Forwarded-Uri: /public/x",
            b"X-Forwarded-Method: GET",
        ),
        401,
    ),
    (
        (b"X-Original-URI: /admin", b"X-Original-URI: /public/x", b"X-Original-Method: GET"),
        401,
    ),
    (
        (b"X-Original-URI: /public/x", b"X-Original-URI: /public/x", b"X-Original-Method: GET"),
        401,
    ),
    (
        (b"X-Original-URI: /public/x?", b"X-Original-URI: /admin", b"X-Original-Method: GET"),
        401,
    ),
    ((b"X-Original-URI: /public/x", b"X-Original-Method: GET", b"X-Original-Method: GET"), 401),
    ((b"X-Original-URI: /public/x", b"X-Original-Method: POST"), 401),
    ((b"X-Original-URI: /public/x", b"X-Original-Method: get"), 401),
    ((b"X-Original-URI: /public/x", b"X-Original-Method: GETz"), 401),
    (
        (
            b"X-Original-URI: /public/x",
            b"X-Original-Method: GET",
            b"X-HTTP-Method-Override: POST",
            b"X-Original-URL: http://app.test/admin",
            b"X-Rewrite-Url: /admin",
        ),
        200,
    ),
    ((b"X-Original-URI: http://evil.test/public/x", b"X-Original-Method: GET"), 401),
    ((b"X-Original-URI: *", b"X-Original-Method: GET"), 401),
    ((b"X-Original-URI: public/x", b"X-Original-Method: GET"), 401),
    ((b"X-Original-URI: /publicity", b"X-Original-Method: GET"), 401),
    ((b"X-Original-URI: /PUBLIC/x", b"X-Original-Method: GET"), 401),
    ((b"X-Original-URI: /admin?x=/public/y", b"X-Original-Method: GET"), 401),
    ((b"X-Original-URI: /public/x, /admin", b"X-Original-Method: GET"), 401),
    ((b"X-Original-URI: /public/x%00.html", b"X-Original-Method: GET"), 401),
]


async def test_only_a_target_that_the_gateway_states_once_is_public(gate: GateHarness) -> None:
    for lines, status in UNSTATED:
        for _ in range(2):
            response = await send_request(gate.address, build_request(*lines))
            assert response.status == status, lines


async def test_target_that_is_not_stated_needs_what_every_rule_needs(gate: GateHarness) -> None:
    response = await send_request(gate.address, build_request(bearer(ALICE)))

    assert response.status == 403
    assert set(gate.rule_checks[0]) == {*(rule.name for rule in RULES), "default"} - {
        "intranet"
    } | {"intranet"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("intranet.test", 200),
        ("INTRANET.test", 200),
        ("intranet.test.:8443", 200),
        ("other.test", 401),
        ("intranet.test.evil", 401),
    ],
)
async def test_rule_of_a_host_applies_to_every_form_of_it(
    gate: GateHarness, protocol: str, host: str, status: int
) -> None:
    response = await ask(gate, protocol, "/other", host=host)

    assert response.status == status


@pytest.mark.parametrize("host", [None, "", "intranet.test, other.test", "a@intranet.test"])
async def test_host_that_is_not_stated_is_not_public(gate: GateHarness, host: str | None) -> None:
    response = await ask(gate, "forward-auth", "/other", host=host)

    assert response.status == 401


# Optional


async def test_optional_session_gives_its_identity(gate: GateHarness, protocol: str) -> None:
    response = await ask(gate, protocol, "/", bearer(ALICE))

    assert read_identity(response)[0] == "alice"
    assert len(set(gate.allowed)) == 1


async def test_optional_path_without_a_valid_session_is_anonymous(
    gate: GateHarness, protocol: str
) -> None:
    invalid = [lines for name, lines in CREDENTIALS.items() if not name.startswith("a valid")]
    for lines in (*invalid, (bearer(EXPIRED),)):
        assert is_anonymous(await ask(gate, protocol, "/", *lines)), lines

    number = 2 * len(CREDENTIALS) - 2
    assert gate.allowed == []
    assert [check[1:] for check in gate.checks] == [("allow", "anonymous")] * number
    assert gate.rule_checks == [("home",)] * number


async def test_optional_path_in_an_outage_is_unavailable(protocol: str) -> None:
    for fast_path in (False, True):
        async with open_gate(rules=RULES, fast_path=fast_path) as gate:
            gate.backend.down = True
            assert (await ask(gate, protocol, "/", bearer(ALICE))).status == 503
            assert is_anonymous(await ask(gate, protocol, "/"))


# What a session needs


async def test_missing_scope_is_forbidden(gate: GateHarness, protocol: str) -> None:
    denied = await ask(gate, protocol, "/admin/users", bearer(ALICE))
    allowed = await ask(gate, protocol, "/other", bearer(ALICE))
    again = await ask(gate, protocol, "/admin/users", bearer(ALICE))

    assert (denied.status, allowed.status, again.status) == (403, 200, 403)
    assert denied.get_one("WWW-Authenticate") == (
        'Bearer realm="sidegate", error="insufficient_scope", scope="admin audit"'
    )
    assert not any(denied.get_all(name) for name in IDENTITY_HEADERS)
    assert [check[1:] for check in gate.checks[:2]] == [("deny", "scope")] * 2
    assert gate.rule_checks[:2] == [("admin",)] * 2
    assert len(gate.allowed) == 2  # of the request for /other, and of the same again


def with_alice(**changes: Any) -> FakeBackend:
    """Return a backend in which the session of alice has these values."""
    alice, *others = build_sessions()
    return FakeBackend(replace(alice, **changes), *others)


@pytest.mark.parametrize(
    ("uri", "changes"),
    [
        ("/admin", {"scopes": ("audit", "read", "admin")}),
        ("/internal/x", {"type": SessionType.SERVICE}),
        ("/pay", {"authenticated_at": NOON - MAX_AGE}),
    ],
)
async def test_session_that_meets_the_conditions_is_allowed(
    open_with_rules: OpenGate, protocol: str, uri: str, changes: dict[str, Any]
) -> None:
    async with open_with_rules() as gate:
        gate.backend.sessions = with_alice(**changes).sessions
        response = await ask(gate, protocol, uri, bearer(ALICE))

        assert read_identity(response)[0] == "alice"


@pytest.mark.parametrize("uri", ["/internal/x", "/device", "/acme/x"])
async def test_session_of_another_kind_is_forbidden(
    gate: GateHarness, protocol: str, uri: str
) -> None:
    response = await ask(gate, protocol, uri, bearer(ALICE))

    assert response.status == 403
    assert response.get_all("WWW-Authenticate") == []
    assert [check[1:] for check in gate.checks] == [("deny", "rule")] * 2
    assert (await ask(gate, protocol, uri)).status == 401


async def test_old_authentication_gets_a_challenge_with_its_maximal_age(
    open_with_rules: OpenGate, protocol: str
) -> None:
    async with open_with_rules() as gate:
        gate.backend.sessions = with_alice(
            authenticated_at=NOON - MAX_AGE - timedelta(seconds=1)
        ).sessions
        response = await ask(gate, protocol, "/pay", bearer(ALICE))

        assert response.status == 401
        assert response.get_one("WWW-Authenticate") == (
            'Bearer realm="sidegate", error="insufficient_user_authentication", max_age="300"'
        )
        assert [check[1:] for check in gate.checks] == [("deny", "authentication_age")] * 2


async def test_authentication_becomes_too_old_while_the_reply_is_cached(protocol: str) -> None:
    async with open_gate(rules=RULES, in_memory=True) as gate:
        assert (await ask(gate, protocol, "/pay", bearer(ALICE))).status == 200
        gate.clock.advance(MAX_AGE.total_seconds() + 1)
        assert (await ask(gate, protocol, "/pay", bearer(ALICE))).status == 401
        assert (await ask(gate, protocol, "/other", bearer(ALICE))).status == 200


async def test_request_that_does_not_count_as_activity_is_not_recorded(
    gate: GateHarness, protocol: str
) -> None:
    assert (await ask(gate, protocol, "/poll", bearer(ALICE))).status == 200
    assert gate.allowed == []
    assert (await ask(gate, protocol, "/other", bearer(ALICE))).status == 200
    assert len(gate.allowed) == 2


async def test_preflight_is_allowed_and_other_methods_need_a_session(
    gate: GateHarness, protocol: str
) -> None:
    assert is_anonymous(await ask(gate, protocol, "/api/orders", method="OPTIONS"))
    assert (await ask(gate, protocol, "/api/orders")).status == 401
    assert (await ask(gate, protocol, "/other", method="OPTIONS")).status == 401


# Tenants


async def test_tenant_is_read_once_for_each_session(gate: GateHarness, protocol: str) -> None:
    alice, bob, *_ = gate.backend.sessions.values()
    gate.tenants = {alice.id: "acme", bob.id: "other"}

    for _ in range(2):
        assert (await ask(gate, protocol, "/acme/x", bearer(ALICE))).status == 200
        assert (await ask(gate, protocol, "/acme/x", bearer(BOB))).status == 403

    assert gate.record_reads == [alice.id, bob.id]


async def test_tenant_that_is_not_known_in_an_outage_is_unavailable(protocol: str) -> None:
    for fast_path in (False, True):
        async with open_gate(rules=RULES, in_memory=True, fast_path=fast_path) as gate:
            gate.records_down = True
            response = await ask(gate, protocol, "/acme/x", bearer(ALICE))

            assert response.status == 503
            assert gate.checks[0][1:] == ("unavailable", "database")


# Binding


async def test_policy_of_a_mismatch_applies_before_the_rule(
    open_with_rules: OpenGate, protocol: str
) -> None:
    policies = {Signal.USER_AGENT: BindingPolicy.DENY}
    mismatches = list[tuple[str, str]]()

    class Events:
        def binding_mismatch(self, signal: str, policy: str) -> None:
            mismatches.append((signal, policy))

        def binding_revocation(self, outcome: str) -> None:
            raise AssertionError(outcome)

    rules = RulesInForce(Rules(ring=RING, binding_policies=policies))
    binding = ClientBinding(rules, events=Events(), revoke=raise_on_revocation)
    policy = GatewayPolicy(signals=SignalSources(frozenset(policies)))
    async with open_with_rules(binding=binding, policy=policy) as gate:
        alice = gate.backend.sessions[ALICE.digest()]
        bound = bind(alice.id, Signals(user_agent="curl/8"), prefixes=PrefixLengths())
        gate.backend.sessions[ALICE.digest()] = replace(alice, binding=bound)
        own, other = b"User-Agent: curl/8", b"User-Agent: other/1"

        assert (await ask(gate, protocol, "/device", bearer(ALICE), own)).status == 200
        assert (await ask(gate, protocol, "/device", bearer(ALICE), other)).status == 401
        assert (await ask(gate, protocol, "/admin", bearer(ALICE), other)).status == 401
        assert is_anonymous(await ask(gate, protocol, "/", bearer(ALICE), other))
        assert mismatches == [("user_agent", "deny")] * 6


# Shadow

SHADOW = (
    Rule("new", Requirement(scopes=frozenset({"admin"})), paths=("/x/**",), shadow=True),
    Rule("open", PUBLIC, paths=("/x/public/**",)),
    Rule("opening", PUBLIC, paths=("/y/**",), shadow=True),
)


async def test_rule_in_shadow_is_counted_and_not_enforced(
    open_with_rules: OpenGate, protocol: str
) -> None:
    async with open_with_rules(rules=SHADOW) as gate:
        assert (await ask(gate, protocol, "/x/1", bearer(ALICE))).status == 200
        assert (await ask(gate, protocol, "/x/1")).status == 401
        assert (await ask(gate, protocol, "/x/public/1")).status == 200
        assert (await ask(gate, protocol, "/y/1")).status == 401

        assert gate.shadow_checks == [
            *[("new", "deny", "scope")] * 2,
            *[("new", "deny", "missing")] * 2,
            *[("new", "unchecked", "public")] * 2,
            *[("opening", "allow", "anonymous")] * 2,
        ]
        assert gate.rule_checks[:4] == [("default",)] * 4


async def test_rule_in_shadow_changes_no_answer_in_an_outage(protocol: str) -> None:
    acme = Rule("acme", Requirement(tenants=frozenset({"acme"})), paths=("/x/**",), shadow=True)
    for fast_path in (False, True):
        async with open_gate(rules=[acme], in_memory=True, fast_path=fast_path) as gate:
            gate.records_down = True
            assert (await ask(gate, protocol, "/x/1", bearer(ALICE))).status == 200
            assert gate.shadow_checks == [("acme", "unchecked", "tenant")] * 2

            gate.records_down = False
            assert (await ask(gate, protocol, "/x/1", bearer(ALICE))).status == 200
            assert gate.shadow_checks[2:] == [("acme", "deny", "rule")] * 2


# The application never sees the token

A = ALICE.text.encode()
ALL_SOURCES = GatewayPolicy(
    CredentialSources(header=b"x-session-token", basic=True, websocket_protocol=True)
)


@pytest.mark.parametrize("uri", ["/public/x", "/"])
@pytest.mark.parametrize("protocol", ["forward-auth", "ext-authz"])
@pytest.mark.parametrize(
    ("lines", "returned"),
    [
        ((cookie(A) + b"; a=1",), {"Cookie": "a=1"}),
        ((b"Cookie: a=1; b=2",), {"Cookie": "a=1; b=2"}),
        ((bearer(A), b"Cookie: a=1"), {"Cookie": "a=1"}),
        ((bearer(b"e.y.J"), cookie(A)), {"Authorization": "Bearer e.y.J"}),
        ((bearer(A), bearer(A)), {}),
        ((bearer(b"x"), bearer(b"y")), {}),
        ((b"Authorization: Token " + A,), {}),
        ((b"Authorization: Bearer " + A + b", x",), {}),
        ((b"Authorization: Basic dXNlcjp4",), {"Authorization": "Basic dXNlcjp4"}),
        ((b'Cookie: a="x; __Host-session=' + A + b'; y"',), {"Cookie": 'a="x; y"'}),
        ((b"Cookie: other=" + A,), {}),
        ((b"X-Session-Token: x" + A,), {}),
        ((b"X-Session-Token: mine",), {"X-Session-Token": "mine"}),
        ((b"Sec-WebSocket-Protocol: chat, " + A,), {}),
    ],
)
async def test_request_without_a_session_never_returns_a_token(
    open_with_rules: OpenGate,
    protocol: str,
    uri: str,
    lines: tuple[bytes, ...],
    returned: dict[str, str],
) -> None:
    async with open_with_rules(policy=ALL_SOURCES) as gate:
        gate.backend.sessions.clear()
        raw = build_subrequest(protocol, uri, *lines)
        response = await send_request(gate.address, raw)

        assert is_anonymous(response)
        assert A not in response.raw
        names = ("Cookie", "Authorization", "X-Session-Token", "Sec-WebSocket-Protocol")
        assert {name: response.get_one(name) for name in names if response.get_all(name)} == (
            returned
        )


async def test_auth_request_says_of_a_public_request_that_its_password_is_a_token(
    open_with_rules: OpenGate,
) -> None:
    async with open_with_rules(policy=ALL_SOURCES) as gate:
        line = b"Authorization: Basic " + b64encode(b"ada:" + A)
        response = await ask(gate, "auth-request", "/public/x", line)

        assert response.get_one("X-Auth-Source") == "basic"


# Connections, logs, and what is remembered


async def test_requests_of_one_connection_have_the_rule_of_their_own_target(
    gate: GateHarness, protocol: str
) -> None:
    uris = {"/public/x": 200, "/other": 401, "/": 200, "/admin": 401}
    async with connect(gate.address) as connection:
        for _ in range(3):
            for uri in uris:
                await connection.send(build_subrequest(protocol, uri))
            statuses = [(await connection.read_response()).status for _ in uris]
            assert statuses == [*uris.values()]


async def test_public_request_is_logged_without_its_query(
    gate: GateHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sidegate.gate")

    await ask(gate, "auth-request", "/public/x?secret=1")

    logged = [record.__dict__ for record in caplog.records if record.message == "session checked"]
    assert [(each["path"], each["result"], each["reason"]) for each in logged] == [
        ("/public/x", "allow", "anonymous")
    ] * 2


class CountedTable(RuleTable):
    """A table that counts what is looked up in it."""

    lookups = 0

    def find(self, readings: Any) -> Decision:
        self.lookups += 1
        return super().find(readings)


class NamedCheck:
    """A check that does nothing but have its decision."""

    route = "/auth-request"
    roles: Mapping[str, bytes] = {}
    plain_forms = PlainForms()

    def __init__(self, decision: Decision) -> None:
        self.decision = decision

    def try_fast(self, _: Head) -> Any:
        return self.decision


def select(check: CheckByRule, uri: str) -> tuple[str, ...]:
    """Return the names of the rules whose check was selected."""
    decision: Any = check.try_fast(
        Head(b"GET", b"", original_uri=uri.encode(), original_method=b"GET")
    )
    return tuple(rule.name for rule in decision.rules)


def build_check_by_rule(table: RuleTable) -> CheckByRule:
    build: Any = NamedCheck
    return CheckByRule(AuthRequest(GatewayPolicy()), table, build_check=build)


def test_rules_of_a_target_are_looked_up_once_whatever_its_query() -> None:
    table = CountedTable(RULES[:3])
    check = build_check_by_rule(table)

    for number in range(10):
        assert select(check, f"/public/x?{number}") == ("static",)
        assert select(check, "/other") == ("default",)
    assert table.lookups == 2


def test_long_targets_are_not_remembered() -> None:
    table = CountedTable(RULES[:3])
    check = build_check_by_rule(table)

    for _ in range(2):
        assert select(check, "/public/" + "x" * 600) == ("static",)
    assert table.lookups == 2


def test_number_of_remembered_targets_is_bounded() -> None:
    table = CountedTable(RULES[:3])
    check = build_check_by_rule(table)

    for number in range(4_097):
        select(check, f"/public/{number}")
    lookups = table.lookups
    select(check, "/public/4096")
    assert table.lookups == lookups
    select(check, "/public/0")
    assert table.lookups == lookups + 1


def test_too_many_combinations_of_rules_get_the_strictest_check() -> None:
    """`/a%23b%3fc;d` reads as paths that end with `a`, `b`, `c` and `d`."""
    rules = [Rule(f"r{digit}", PUBLIC, paths=(f"/*{digit}",)) for digit in range(10)]
    check = build_check_by_rule(RuleTable(rules))
    strictest = (*(rule.name for rule in rules), "default")

    selected = [
        select(check, "/{}%23{}%3f{};{}".format(*digits)) for digits in combinations(range(10), 4)
    ]
    selected += [
        select(check, "/{}%23{}%3f{}".format(*digits)) for digits in combinations(range(10), 3)
    ]

    assert selected[0] == ("r0", "r1", "r2", "r3")
    assert set(selected[256:]) == {strictest}
    assert strictest not in selected[:256]
    assert select(check, "/x1") == ("r1",)


def test_rule_in_shadow_is_not_enforced_after_too_many_combinations() -> None:
    rules = [Rule(f"r{digit}", PUBLIC, paths=(f"/*{digit}",)) for digit in range(10)]
    new = Rule("new", Requirement(scopes=frozenset({"admin"})), paths=("/new/**",), shadow=True)
    check = build_check_by_rule(RuleTable([new, *rules]))

    for size, path in ((4, "/{}%23{}%3f{};{}"), (3, "/{}%23{}%3f{}")):
        for digits in combinations(range(10), size):
            select(check, path.format(*digits))

    assert select(check, "/new/x") == ("default",)
