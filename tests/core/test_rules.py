"""The table of access rules: which apply to a target, and what they make of a verdict."""

from datetime import timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.binding import PrefixLengths, Signals, bind
from sidegate.core.requirement import Access, Requirement, combine
from sidegate.core.rules import DEFAULT_RULE, Decision, Rule, RuleTable, find_unreachable
from sidegate.core.session_type import SessionType
from sidegate.core.target import Readings, StatedTarget, read_target
from sidegate.core.verdict import Allow, Anonymous, Deny, Reason, Unavailable
from tests.contracts.values import build_session
from tests.core.test_target import HOSTILE, PIECES
from tests.support.clock import NOON
from tests.support.replace import replace

PUBLIC, OPTIONAL, SESSION = map(Requirement, Access)
ADMIN = Requirement(scopes=frozenset({"admin"}))

TABLE = RuleTable(
    [
        Rule("health", PUBLIC, paths=("/health",)),
        Rule("static", PUBLIC, paths=("/public/**", "/favicon.ico"), methods=("GET",)),
        Rule("home", OPTIONAL, hosts=("app.test",), paths=("/",)),
        Rule("admin", ADMIN, paths=("/admin/**",)),
        Rule("avatar", PUBLIC, hosts=("*.cdn.test",), paths=("/users/*/avatar", "/img/*.png")),
        Rule("api", Requirement(bound=True), paths=("/api/**",), preflight=True),
    ]
)


def find(
    uri: str | None, *, host: str | None = "app.test", method: str | None = "GET"
) -> list[str]:
    """Return the names of the rules that apply."""
    parts = (None if part is None else part.encode() for part in (host, uri, method))
    return [rule.name for rule in TABLE.find(read_target(StatedTarget(*parts))).rules]


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("/health", "health"),
        ("/health/", "health"),
        ("/health/x", "default"),
        ("/healthz", "default"),
        ("/public", "static"),
        ("/public/", "static"),
        ("/public/a/b", "static"),
        ("/public/a%20b", "static"),
        ("/publicity", "default"),
        ("/x/public/y", "default"),
        ("/favicon.ico", "static"),
        ("/faviconXico", "default"),
        ("/favicon.ico/x", "default"),
        ("/", "home"),
        ("/?admin", "home"),
        ("/admin", "admin"),
        ("/admin/users?x=/public/", "admin"),
        ("/other", "default"),
    ],
)
def test_path_has_the_first_rule_that_matches(uri: str, rule: str) -> None:
    assert find(uri) == [rule]


@pytest.mark.parametrize(
    ("host", "uri", "rule"),
    [
        ("a.cdn.test", "/users/7/avatar", "avatar"),
        ("a.b.CDN.test.:443", "/users/7/avatar", "avatar"),
        ("cdn.test", "/users/7/avatar", "default"),
        ("xcdn.test", "/users/7/avatar", "default"),
        ("a.cdn.test.evil", "/users/7/avatar", "default"),
        ("a.cdn.test", "/users//avatar", "default"),
        ("a.cdn.test", "/users/7/8/avatar", "default"),
        ("a.cdn.test", "/img/a.png", "avatar"),
        ("a.cdn.test", "/img/.png", "avatar"),
        ("a.cdn.test", "/img/a/b.png", "default"),
        ("other.test", "/", "default"),
    ],
)
def test_rule_of_a_host_applies_to_that_host(host: str, uri: str, rule: str) -> None:
    assert find(uri, host=host) == [rule]


@pytest.mark.parametrize(
    ("method", "uri", "rules"),
    [
        ("GET", "/public/x", ["static"]),
        ("HEAD", "/public/x", ["static"]),
        ("POST", "/public/x", ["default"]),
        ("get", "/public/x", ["static", "default"]),
        ("GETz", "/public/x", ["default"]),
        ("OPTIONS", "/api/x", ["api"]),
    ],
)
def test_rule_of_a_method_applies_to_that_method(method: str, uri: str, rules: list[str]) -> None:
    assert find(uri, method=method) == rules


@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
def test_preflight_is_public_for_options_only(method: str) -> None:
    decision = TABLE.find(read_target(StatedTarget(b"app.test", b"/api/x", method.encode())))

    assert decision.requirement == (PUBLIC if method == "OPTIONS" else Requirement(bound=True))


@pytest.mark.parametrize("uri", [uri for uri, readings in HOSTILE if "/admin" in readings])
def test_hostile_form_of_a_path_needs_what_the_path_needs(uri: str) -> None:
    assert "admin" in find(uri)
    assert find_requirement(uri).scopes == ADMIN.scopes


@pytest.mark.parametrize("uri", ["/ADMIN", "/Admin/x", "/%41dmin", "/public/..%2fADMIN"])
def test_path_in_another_case_needs_what_the_path_needs(uri: str) -> None:
    assert "admin" in find(uri)


def test_public_path_in_another_case_is_not_public() -> None:
    assert find("/PUBLIC/x") == ["static", "default"]
    assert find_requirement("/PUBLIC/x").access is Access.SESSION


def find_requirement(uri: str | None, host: str | None = "app.test") -> Requirement:
    parts = (None if part is None else part.encode() for part in (host, uri, "GET"))
    return TABLE.find(read_target(StatedTarget(*parts))).requirement


EVERY_RULE = ["health", "static", "home", "admin", "avatar", "api", "default"]


@pytest.mark.parametrize("uri", [None, "", "*", "public/x", "/a b", "/public/x, /admin"])
def test_path_that_is_not_stated_needs_what_every_rule_needs(uri: str | None) -> None:
    assert find(uri, host="a.cdn.test") == [name for name in EVERY_RULE if name != "home"]
    assert find_requirement(uri) == Requirement(scopes=frozenset({"admin"}), bound=True)


def test_target_of_which_nothing_is_stated_needs_what_every_rule_needs() -> None:
    rules = [rule.name for rule in TABLE.find(Readings(None, None, None)).rules]

    assert list(dict.fromkeys(rules)) == EVERY_RULE
    assert TABLE.find(Readings(None, None, None)) == TABLE.strictest


@pytest.mark.parametrize("host", [None, "", "app.test, other.test", "evil@app.test"])
def test_host_that_is_not_stated_matters_for_rules_of_hosts(host: str | None) -> None:
    assert find("/", host=host) == ["home", "default"]
    assert find("/users/1/avatar", host=host) == ["avatar", "default"]
    assert find("/public/x", host=host) == ["static"]


def test_method_that_is_not_stated_matters_for_rules_of_methods() -> None:
    assert find("/public/x", method=None) == ["static", "default"]
    assert find("/health", method=None) == ["health"]


# Shadow


def test_rule_in_shadow_is_counted_and_not_enforced() -> None:
    shadow = Rule("shadow", PUBLIC, paths=("/x/**",), shadow=True)
    table = RuleTable([shadow, Rule("x", ADMIN, paths=("/x/**",))])

    decision = table.find(Readings("h", (b"/x/y",), ("GET",)))

    assert decision.shadow == (shadow,)
    assert [rule.name for rule in decision.rules] == ["x"]
    assert table.find(Readings("h", (b"/y",), ("GET",))) == Decision((DEFAULT_RULE,))


def test_rule_in_shadow_that_an_earlier_rule_covers_is_not_counted() -> None:
    covered = Rule("shadow", PUBLIC, paths=("/x/y",), shadow=True)
    table = RuleTable([Rule("x", ADMIN, paths=("/x/**",)), covered])

    assert table.find(Readings("h", (b"/x/y",), ("GET",))).shadow == ()


# What a requirement makes of a verdict

SESSION_OF_ALICE = build_session(scopes=("read",), type=SessionType.API)
ALLOW = Allow(SESSION_OF_ALICE)
BOUND = replace(
    SESSION_OF_ALICE,
    binding=bind(SESSION_OF_ALICE.id, Signals("192.0.2.1"), prefixes=PrefixLengths()),
)


@pytest.mark.parametrize("verdict", [ALLOW, Deny(Reason.EXPIRED), Unavailable("redis")])
def test_public_is_anonymous_whatever_the_verdict(
    verdict: Allow | Deny | Unavailable,
) -> None:
    assert PUBLIC.apply(verdict, NOON) == Anonymous()


@pytest.mark.parametrize("reason", Reason)
def test_optional_is_anonymous_after_any_denial(reason: Reason) -> None:
    assert OPTIONAL.apply(Deny(reason), None) == Anonymous()


def test_optional_keeps_a_session_and_an_outage() -> None:
    assert OPTIONAL.apply(ALLOW, NOON) == ALLOW
    assert OPTIONAL.apply(Unavailable("redis"), None) == Unavailable("redis")


@pytest.mark.parametrize("requirement", [SESSION, ADMIN])
def test_needed_session_keeps_denials_and_outages(requirement: Requirement) -> None:
    for verdict in (Deny(Reason.REVOKED), Unavailable("postgres")):
        assert requirement.apply(verdict, None) == verdict


RULE = Deny(Reason.RULE)
MAX_AGE = timedelta(minutes=5)


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        (SESSION, None),
        (Requirement(types=frozenset({SessionType.API})), None),
        (Requirement(types=frozenset({SessionType.WEB, SessionType.SSO})), RULE),
        (Requirement(types=frozenset()), RULE),
        (Requirement(scopes=frozenset({"read"})), None),
        (
            Requirement(scopes=frozenset({"write", "read"})),
            Deny(Reason.SCOPE, scopes=("read", "write")),
        ),
        (Requirement(tenants=frozenset({"acme"})), None),
        (Requirement(tenants=frozenset({"other"})), RULE),
        (Requirement(bound=True), RULE),
        # The first denial is the one that nobody can cure.
        (Requirement(bound=True, scopes=frozenset({"write"})), RULE),
    ],
)
def test_session_has_to_meet_the_conditions(
    requirement: Requirement, expected: Deny | None
) -> None:
    assert requirement.find_denial(SESSION_OF_ALICE, NOON, tenant="acme") == expected
    assert requirement.apply(ALLOW, NOON, tenant="acme") == (expected or ALLOW)


def test_session_without_a_tenant_is_of_none() -> None:
    requirement = Requirement(tenants=frozenset({"acme"}))

    assert requirement.find_denial(SESSION_OF_ALICE, NOON) == RULE


def test_bound_session_meets_bound() -> None:
    assert Requirement(bound=True).find_denial(BOUND, NOON) is None


@pytest.mark.parametrize(
    ("age", "is_denied"),
    [(MAX_AGE, False), (MAX_AGE + timedelta(microseconds=1), True)],
)
def test_authentication_may_be_as_old_as_the_maximum(age: timedelta, is_denied: bool) -> None:
    denial = Requirement(max_age=MAX_AGE).find_denial(
        replace(SESSION_OF_ALICE, authenticated_at=NOON - age), NOON
    )

    assert denial == (Deny(Reason.AUTHENTICATION_AGE, max_age=MAX_AGE) if is_denied else None)


# Several rules

REQUIREMENTS = st.builds(
    Requirement,
    st.sampled_from(Access),
    types=st.none() | st.frozensets(st.sampled_from(SessionType)),
    scopes=st.frozensets(st.sampled_from(["read", "write"])),
    tenants=st.none() | st.frozensets(st.sampled_from(["acme", "other"])),
    max_age=st.none() | st.sampled_from([timedelta(minutes=1), timedelta(hours=1)]),
    bound=st.booleans(),
    counts_activity=st.booleans(),
)
VERDICTS = st.sampled_from(
    [
        ALLOW,
        Allow(BOUND),
        Allow(replace(BOUND, scopes=("read", "write"))),
        Allow(replace(BOUND, authenticated_at=NOON - timedelta(minutes=10))),
        Deny(Reason.MISSING),
        Deny(Reason.REVOKED),
        Unavailable("redis"),
    ]
)


def is_granted(requirement: Requirement, verdict: Allow | Deny | Unavailable) -> bool:
    return isinstance(requirement.apply(verdict, NOON, tenant="acme"), Allow | Anonymous)


@given(one=REQUIREMENTS, other=REQUIREMENTS, verdict=VERDICTS)
def test_combination_grants_only_what_both_grant(
    one: Requirement, other: Requirement, verdict: Allow | Deny | Unavailable
) -> None:
    both = combine([one, other])

    if is_granted(both, verdict):
        assert is_granted(one, verdict)
        assert is_granted(other, verdict)
    assert both == combine([other, one])
    assert both.counts_activity == (one.counts_activity and other.counts_activity)
    assert both.access == max(one.access, other.access)


PATTERNS = ["/**", "/public/**", "/admin/**", "/admin", "/*", "/public/*", "/", "/A/**", "/é"]
RULES = st.lists(
    st.builds(
        Rule,
        st.sampled_from(["a", "b", "c"]),
        REQUIREMENTS,
        hosts=st.none() | st.just(("app.test",)),
        paths=st.none() | st.lists(st.sampled_from(PATTERNS), min_size=1).map(tuple),
        methods=st.none() | st.sampled_from([("GET",), ("POST", "get")]),
    ),
    max_size=6,
)


@given(
    rules=RULES,
    pieces=PIECES,
    host=st.sampled_from([None, b"app.test", b"APP.test.:80", b"other.test", b"a, b"]),
    method=st.sampled_from([None, b"GET", b"get", b"POST", b"HEAD", b"a b"]),
)
def test_no_target_is_granted_under_a_weaker_rule_than_any_of_its_readings(
    rules: list[Rule],
    pieces: list[str],
    host: bytes | None,
    method: bytes | None,
) -> None:
    table = RuleTable(rules)
    readings = read_target(StatedTarget(host, f"/{''.join(pieces)}".encode(), method))
    requirement = table.find(readings).requirement

    for path, single in product(readings.paths or (b"/",), readings.methods or ("GET",)):
        for name in (readings.host,) if readings.host else ("app.test", "other.test"):
            weaker = table.find(Readings(name, (path,), (single,))).requirement
            assert requirement == combine([requirement, weaker])  # it is at least as strict


@given(rules=RULES, readings=st.builds(Readings, st.none(), st.none(), st.none()))
def test_strictest_decision_is_at_least_as_strict_as_every_rule(
    rules: list[Rule], readings: Readings
) -> None:
    table = RuleTable(rules)
    strictest = table.strictest.requirement

    for rule in table.rules:
        assert strictest == combine([strictest, rule.requirement])
    unknown = table.find(readings).requirement
    assert strictest == combine([strictest, unknown])


# Rules that never apply


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (Rule("a"), Rule("b", paths=("/x",))),
        (Rule("a", paths=("/x/**",)), Rule("b", paths=("/x", "/x/y/**", "/x/*"))),
        (Rule("a", paths=("/**",)), Rule("b", paths=("/x",))),
        (Rule("a", hosts=("*.test",)), Rule("b", hosts=("a.test", "*.b.test"))),
        (Rule("a", methods=("GET", "POST")), Rule("b", methods=("POST",))),
        (Rule("a", paths=("/x",)), Rule("b", paths=("/x",), shadow=True)),
    ],
)
def test_rule_that_an_earlier_one_covers_never_applies(earlier: Rule, later: Rule) -> None:
    assert list(find_unreachable([earlier, later])) == [(1, 0)]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (Rule("a", paths=("/x",)), Rule("b")),
        (Rule("a", paths=("/x/**",)), Rule("b", paths=("/x", "/xy"))),
        (Rule("a", paths=("/x",), methods=("GET",)), Rule("b", paths=("/x",))),
        (Rule("a", hosts=("*.test",)), Rule("b", hosts=("test",))),
        (Rule("a", hosts=("a.test",)), Rule("b", paths=("/x",))),
        (Rule("a", shadow=True), Rule("b")),
        (Rule("a", methods=("GET",)), Rule("b", methods=("GET",), preflight=True)),
    ],
)
def test_rule_that_an_earlier_one_does_not_cover_applies(earlier: Rule, later: Rule) -> None:
    assert list(find_unreachable([earlier, later])) == []
