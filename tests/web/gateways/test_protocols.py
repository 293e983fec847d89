"""Every gateway protocol: reading a subrequest from a head, writing a verdict."""

import string
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core import target as readings
from sidegate.core.session_type import SessionType
from sidegate.core.target import StatedTarget
from sidegate.core.token import TokenText
from sidegate.core.verdict import Allow, Anonymous, Deny, Reason, Unavailable, Verdict
from sidegate.web.gateways.auth_request import AuthRequest
from sidegate.web.gateways.base import GatewayPolicy, GatewayProtocol
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.gateways.ext_authz import ExtAuthz
from sidegate.web.gateways.forward_auth import ForwardAuth
from sidegate.web.gateways.identity_headers import IdentityNames
from sidegate.web.server.header_lines import build_head
from sidegate.web.server.messages import Response, Subrequest
from sidegate.web.server.response_bytes import encode_response
from tests.contracts.values import build_session
from tests.web.gate.gate_harness import ALICE, IDENTITY_HEADERS

Field = tuple[bytes, bytes]
AUTH_REQUEST, FORWARD_AUTH, EXT_AUTHZ = (
    AuthRequest(GatewayPolicy()),
    ForwardAuth(GatewayPolicy()),
    ExtAuthz(GatewayPolicy()),
)
GATEWAYS: tuple[GatewayProtocol, ...] = (AUTH_REQUEST, FORWARD_AUTH, EXT_AUTHZ)
ALLOW = Allow(build_session())
TOKEN = TokenText(ALICE.text.encode("ascii"))
# The reasons to deny a valid session.
RULES = {
    Reason.RULE: Deny(Reason.RULE),
    Reason.SCOPE: Deny(Reason.SCOPE, scopes=("read", "write")),
    Reason.AUTHENTICATION_AGE: Deny(Reason.AUTHENTICATION_AGE, max_age=timedelta(minutes=5)),
}
DENIALS = tuple(RULES.get(reason, Deny(reason)) for reason in Reason)
VERDICTS: tuple[Verdict, ...] = (ALLOW, *DENIALS, Unavailable("redis"))

every_gateway = pytest.mark.parametrize("gateway", GATEWAYS, ids=lambda gateway: gateway.name)
every_verdict = pytest.mark.parametrize("verdict", VERDICTS, ids=["allow", *Reason, "unavailable"])


def value(response: Response, name: str) -> str:
    (only,) = [value for each, value in response.headers if each.lower() == name.lower()]
    return only


def names(response: Response) -> list[str]:
    return [name.lower() for name, _ in response.headers]


def read_subrequest(
    gateway: GatewayProtocol,
    *fields: Field,
    method: bytes = b"GET",
    target: bytes = b"/auth-request",
) -> Subrequest:
    """Return the subrequest that `gateway` reads from these header lines."""
    return gateway.read(build_head(method, target, fields=fields, roles=gateway.roles))


def read_budget(gateway: GatewayProtocol, *fields: Field) -> float | None:
    return gateway.read_budget(build_head(b"GET", b"/", fields=fields, roles=gateway.roles))


# Writing


@every_gateway
@every_verdict
def test_each_verdict_has_one_status(gateway: GatewayProtocol, verdict: Verdict) -> None:
    assert gateway.write(verdict).status == expected_status(verdict)


def expected_status(verdict: Verdict) -> int:
    match verdict:
        case Allow():
            return 200
        case Deny(Reason.RULE | Reason.SCOPE):
            return 403
        case Deny():
            return 401
        case Unavailable():
            return 503
        case never:
            assert_never(never)


@every_gateway
@every_verdict
def test_headers_are_unique_and_responses_not_cacheable(
    gateway: GatewayProtocol, verdict: Verdict
) -> None:
    response = gateway.write(verdict)

    assert len(set(names(response))) == len(response.headers)
    assert value(response, "Cache-Control") == "no-store"
    assert not {"set-cookie", "location"}.intersection(names(response))


@every_gateway
@every_verdict
def test_identity_headers_are_complete_or_absent(
    gateway: GatewayProtocol, verdict: Verdict
) -> None:
    present = {name.lower() for name in IDENTITY_HEADERS}.intersection(
        names(gateway.write(verdict))
    )

    assert len(present) == (len(IDENTITY_HEADERS) if isinstance(verdict, Allow) else 0)


@every_gateway
@every_verdict
def test_only_an_allow_has_no_body(gateway: GatewayProtocol, verdict: Verdict) -> None:
    response = gateway.write(verdict)

    assert (response.body == b"") == isinstance(verdict, Allow)
    assert ("content-type" in names(response)) == (response.body != b"")


@every_gateway
def test_all_denials_of_a_credential_are_equal(gateway: GatewayProtocol) -> None:
    reasons = set(Reason) - {Reason.MISSING, *RULES}

    assert len({gateway.write(Deny(reason)) for reason in reasons}) == 1


@every_gateway
def test_a_401_and_a_missing_scope_have_a_challenge(gateway: GatewayProtocol) -> None:
    challenged = {v for v in VERDICTS if "www-authenticate" in names(gateway.write(v))}

    assert challenged == {v for v in VERDICTS if expected_status(v) == 401} | {RULES[Reason.SCOPE]}


@every_gateway
def test_challenge_says_what_a_valid_session_lacks(gateway: GatewayProtocol) -> None:
    scope, age = RULES[Reason.SCOPE], RULES[Reason.AUTHENTICATION_AGE]

    assert value(gateway.write(scope), "WWW-Authenticate") == (
        'Bearer realm="sidegate", error="insufficient_scope", scope="read write"'
    )
    assert value(gateway.write(age), "WWW-Authenticate") == (
        'Bearer realm="sidegate", error="insufficient_user_authentication", max_age="300"'
    )


@every_gateway
def test_anonymous_answer_has_every_identity_header_empty(gateway: GatewayProtocol) -> None:
    response, allowed = gateway.write(Anonymous()), gateway.write(ALLOW)

    assert response.status == 200
    assert response.body == b""
    assert names(response) == names(allowed)
    assert {value for _, value in response.identity} == {""}
    assert response.fields == allowed.fields


@every_gateway
def test_challenge_has_an_error_only_with_a_credential(gateway: GatewayProtocol) -> None:
    nothing = gateway.write(Deny(Reason.MISSING))
    something = gateway.write(Deny(Reason.UNKNOWN))

    assert value(nothing, "WWW-Authenticate") == 'Bearer realm="sidegate"'
    assert value(something, "WWW-Authenticate") == 'Bearer realm="sidegate", error="invalid_token"'
    assert (nothing.status, nothing.body) == (something.status, something.body)


@every_gateway
@pytest.mark.parametrize("store", ["redis", "postgres", "deadline"])
def test_outage_has_retry_after_and_does_not_name_the_store(
    gateway: GatewayProtocol, store: str
) -> None:
    response = gateway.write(Unavailable(store))

    assert value(response, "Retry-After") == "1"
    assert response == gateway.write(Unavailable("another"))


@every_verdict
def test_only_auth_request_repeats_the_status_in_a_header(verdict: Verdict) -> None:
    status = value(AUTH_REQUEST.write(verdict), "X-Auth-Status")

    assert status == str(expected_status(verdict))
    assert "x-auth-status" not in names(FORWARD_AUTH.write(verdict))
    assert "x-auth-status" not in names(EXT_AUTHZ.write(verdict))


def request_lines(gateway: GatewayProtocol, *fields: Field) -> dict[bytes, bytes]:
    """Return the lines that depend on the request, by name."""
    assert gateway.build_request_lines is not None
    lines = gateway.build_request_lines(
        build_head(b"GET", b"/", fields=fields, roles=gateway.roles)
    ).splitlines()
    assert len({line.partition(b": ")[0].lower() for line in lines}) == len(lines)
    return dict(line.split(b": ", 1) for line in lines)


def removed_names(gateway: GatewayProtocol, *fields: Field) -> list[str]:
    line = request_lines(gateway, *fields)[b"x-envoy-auth-headers-to-remove"]
    return line.decode("ascii").split(",")


BASIC = b"Basic " + b64encode(b"ada:" + TOKEN)


def test_envoy_removes_every_alias_and_no_identity_header() -> None:
    removed = removed_names(EXT_AUTHZ)

    real = [name.lower() for name in IDENTITY_HEADERS]
    aliases = [name.replace("-", other) for name in real for other in "_."]
    assert sorted(removed) == sorted([*aliases, "authorization", "cookie"])
    assert not set(removed).intersection(names(EXT_AUTHZ.write(ALLOW)))


ALL_SOURCES = CredentialSources(header=b"x-session-token", basic=True, websocket_protocol=True)
RETURNED = ("authorization", "cookie", "sec-websocket-protocol", "x-session-token")


@pytest.mark.parametrize("returned", [frozenset[str](), frozenset({"cookie"}), frozenset(RETURNED)])
def test_envoy_removes_the_headers_of_the_client_that_are_not_returned(
    returned: frozenset[str],
) -> None:
    gateway = ExtAuthz(GatewayPolicy(ALL_SOURCES))
    fields = [(name.encode(), b"a=1" if name in returned else b"") for name in RETURNED]

    removed = set(removed_names(gateway, *fields)).intersection(RETURNED)

    assert removed == set(RETURNED) - returned
    assert {name.decode().lower() for name in request_lines(gateway, *fields)} == {
        "x-envoy-auth-headers-to-remove",
        *returned,
    }


@pytest.mark.parametrize("gateway", [FORWARD_AUTH, EXT_AUTHZ], ids=lambda gateway: gateway.name)
def test_headers_of_the_client_are_returned_without_the_credential(
    gateway: GatewayProtocol,
) -> None:
    cookies = (b"Cookie", b"a=1; __Host-session=%b; b=2" % TOKEN)

    lines = request_lines(gateway, (b"Authorization", b"Basic YTpi"), cookies)

    assert lines[b"Cookie"] == b"a=1; b=2"
    assert lines[b"Authorization"] == b"Basic YTpi"


@pytest.mark.parametrize("protocol", [ForwardAuth, ExtAuthz])
def test_header_of_a_disabled_source_is_not_returned(protocol: Any) -> None:
    fields = [(name.encode(), b"x") for name in RETURNED]
    for sources, expected in (
        (CredentialSources(), {"authorization", "cookie"}),
        (CredentialSources(bearer=False), {"cookie"}),
        (CredentialSources(bearer=False, basic=True, cookie=None), {"authorization"}),
        (ALL_SOURCES, set(RETURNED)),
    ):
        lines = request_lines(protocol(GatewayPolicy(sources)), *fields)
        assert set(RETURNED).intersection(name.decode().lower() for name in lines) == expected


def test_auth_request_returns_no_header_of_the_client() -> None:
    assert AUTH_REQUEST.build_request_lines is None
    gateway = AuthRequest(GatewayPolicy(ALL_SOURCES))
    fields = [(name.encode(), b"a=1") for name in RETURNED]
    assert request_lines(gateway, *fields) == {}


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (BASIC, {b"X-Auth-Source": b"basic"}),
        (b"Basic YTpi", {}),
        (b"Bearer " + TOKEN, {}),
        (b"", {}),
    ],
)
def test_auth_request_says_that_the_password_is_a_token(
    authorization: bytes, expected: dict[bytes, bytes]
) -> None:
    gateway = AuthRequest(GatewayPolicy(ALL_SOURCES))
    cookies = (b"Cookie", b"__Host-session=" + TOKEN)

    assert request_lines(gateway, (b"Authorization", authorization), cookies) == expected


def test_identity_headers_have_the_values_of_the_session() -> None:
    timestamp = datetime(2026, 3, 4, 12, 0, 0, 999_999, tzinfo=UTC)
    session = build_session(
        user_id="ada@example.org",
        type=SessionType.API,
        scopes=("read", "orders:write"),
        authenticated_at=timestamp,
        expires_at=timestamp.replace(hour=13),
    )

    response = FORWARD_AUTH.write(Allow(session))

    assert dict(response.headers) == {
        "Cache-Control": "no-store",
        "X-Auth-User": "ada@example.org",
        "X-Auth-Session": session.id,
        "X-Auth-Type": "api",
        "X-Auth-Scopes": "read orders:write",
        "X-Auth-Time": "1772625600",
        "X-Auth-Expires": "1772629200",
    }


def test_missing_value_is_an_empty_identity_header() -> None:
    response = FORWARD_AUTH.write(Allow(build_session(scopes=())))

    assert value(response, "X-Auth-Scopes") == ""


VISIBLE = frozenset(string.ascii_letters + string.digits + string.punctuation) - set(',"\\')
any_text = st.text(st.characters(exclude_categories=()))  # lone surrogates, too


@every_gateway
@pytest.mark.parametrize(
    ("user_id", "encoded"),
    [
        ("ada", "ada"),
        ("ada@example.org", "ada@example.org"),
        ("https://id.test/ada?x=1&y[]=2#me", "https://id.test/ada?x=1&y[]=2#me"),
        ("Ada Lovelace", "Ada%20Lovelace"),
        (" ada ", "%20ada%20"),
        ("100%", "100%25"),
        ("%41da", "%2541da"),
        ("a,b", "a%2Cb"),
        ('"ada"\\', "%22ada%22%5C"),
        ("ada\r\nX-Auth-User: root", "ada%0D%0AX-Auth-User:%20root"),
        ("ada\0", "ada%00"),
        ("ada\x7f", "ada%7F"),
        ("Zoë", "Zo%C3%AB"),
        ("\u2028", "%E2%80%A8"),
        ("\udce9", "%ED%B3%A9"),
        ("ｒｏｏｔ", "%EF%BD%92%EF%BD%8F%EF%BD%8F%EF%BD%94"),  # noqa: RUF001  # the point of it
    ],
)
def test_user_id_is_percent_encoded(gateway: GatewayProtocol, user_id: str, encoded: str) -> None:
    response = gateway.write(Allow(build_session(user_id=user_id)))

    assert value(response, "X-Auth-User") == encoded


@given(any_text)
def test_every_user_id_is_visible_ascii_and_decodable(user_id: str) -> None:
    encoded = value(FORWARD_AUTH.write(Allow(build_session(user_id=user_id))), "X-Auth-User")

    assert VISIBLE.issuperset(encoded)
    assert unquote(encoded, errors="surrogatepass") == user_id


@given(st.lists(any_text.filter(bool)))
def test_all_scopes_are_separable_and_decodable(scopes: list[str]) -> None:
    encoded = value(FORWARD_AUTH.write(Allow(build_session(scopes=tuple(scopes)))), "X-Auth-Scopes")

    assert VISIBLE.issuperset(encoded.replace(" ", ""))
    assert [unquote(scope, errors="surrogatepass") for scope in encoded.split()] == scopes


def test_identity_names_and_realm_are_configurable() -> None:
    identity = replace(IdentityNames(), user="X-User-Id", scopes="X-Roles")
    gateway = ExtAuthz(GatewayPolicy(identity=identity, realm="shop"))

    allow, deny = gateway.write(ALLOW), gateway.write(Deny(Reason.MISSING))

    assert value(allow, "X-User-Id") == "ada"
    assert {"x-auth-user", "x-auth-scopes"}.isdisjoint(names(allow))
    assert {"x_user_id", "x.user.id"} <= set(removed_names(gateway))
    assert value(deny, "WWW-Authenticate") == 'Bearer realm="shop"'


@every_gateway
@given(
    user_id=any_text,
    scopes=st.lists(any_text),
    type_=st.sampled_from(SessionType),
    expires_at=st.datetimes(timezones=st.just(UTC)),
)
def test_identity_lines_are_the_identity_fields(
    gateway: AuthRequest | ForwardAuth | ExtAuthz,
    user_id: str,
    scopes: list[str],
    type_: SessionType,
    expires_at: datetime,
) -> None:
    """The fast path encodes them directly, and writes them after the shared head of a 200."""
    session = build_session(
        user_id=user_id, scopes=tuple(scopes), type=type_, expires_at=expires_at
    )
    identity = IdentityNames(user="X-100%s-User", session="X%%")
    other = type(gateway)(replace(gateway.policy, identity=identity))
    for each in (gateway, other):
        written = encode_response(each.write(Allow(session)))
        names = each.policy.identity
        assert dict(names.build_fields(session))[names.expires] == str(int(expires_at.timestamp()))
        assert names.build_encoder()(session) == written.identity_lines
        assert written.shared_head == encode_response(each.write(ALLOW)).shared_head


def test_identity_name_without_a_dash_is_not_its_own_alias() -> None:
    names = IdentityNames(user="User", session="X_Session", scopes="X.Session")

    assert {"user", "x_session", "x.session"}.isdisjoint(names.generate_aliases())
    assert "x_auth_type" in names.generate_aliases()


# Reading

GATEWAY_HEADERS: tuple[Field, ...] = (
    (b"X-Original-Method", b"PUT"),
    (b"X-Original-URI", b"/original?a=1"),
    (b"X-Original-URL", b"http://spoof/"),
    (b"X-Real-IP", b"192.0.2.1"),
    (b"X-Forwarded-Method", b"PATCH"),
    (b"X-Forwarded-Uri", b"/forwarded?b=2"),
    (b"X-Forwarded-For", b"192.0.2.2, 192.0.2.3"),
    (b"X-Forwarded-Host", b"evil.test"),
    (b"X-Rewrite-Url", b"/rewritten"),
    (b"X-Envoy-Original-Path", b"/envoy"),
    (b"X-Envoy-Expected-Rq-Timeout-Ms", b"250"),
    (b"X-HTTP-Method-Override", b"DELETE"),
    (b"Forwarded", b"for=192.0.2.4"),
    (b"X-Auth-User", b"root"),
)


@pytest.mark.parametrize(
    ("gateway", "expected"),
    [
        (AUTH_REQUEST, Subrequest(TOKEN, "PUT", "/original?a=1", "192.0.2.1")),
        (FORWARD_AUTH, Subrequest(TOKEN, "PATCH", "/forwarded?b=2", "192.0.2.2, 192.0.2.3")),
        (EXT_AUTHZ, Subrequest(TOKEN, "POST", "/app?c=3", "192.0.2.1")),
    ],
)
def test_protocol_reads_its_own_headers_only(
    gateway: GatewayProtocol, expected: Subrequest
) -> None:
    headers = (*GATEWAY_HEADERS, (b"Authorization", b"Bearer " + TOKEN))

    assert (
        read_subrequest(gateway, *headers, method=b"POST", target=b"/ext-authz/app?c=3") == expected
    )
    assert read_budget(gateway, *headers) == (0.25 if gateway is EXT_AUTHZ else None)


@pytest.mark.parametrize(
    ("gateway", "own"),
    [
        (AUTH_REQUEST, {b"X-Original-Method", b"X-Original-URI", b"X-Real-IP"}),
        (FORWARD_AUTH, {b"X-Forwarded-Method", b"X-Forwarded-Uri", b"X-Forwarded-For"}),
        (EXT_AUTHZ, {b"X-Real-IP", b"X-Envoy-Expected-Rq-Timeout-Ms"}),
    ],
)
def test_headers_of_other_gateways_are_ignored(gateway: GatewayProtocol, own: set[bytes]) -> None:
    other_headers = [header for header in GATEWAY_HEADERS if header[0] not in own]

    assert read_subrequest(gateway, *other_headers) == read_subrequest(gateway)


@every_gateway
def test_repeated_header_is_ignored(gateway: GatewayProtocol) -> None:
    assert read_subrequest(gateway, *GATEWAY_HEADERS, *GATEWAY_HEADERS) == read_subrequest(gateway)


@every_gateway
def test_header_names_are_case_insensitive(gateway: GatewayProtocol) -> None:
    fields = (*GATEWAY_HEADERS, (b"Authorization", b"Bearer " + TOKEN))
    upper_case = ((name.upper(), value) for name, value in fields)

    assert read_subrequest(gateway, *upper_case) == read_subrequest(gateway, *fields)


@every_gateway
def test_alias_of_a_header_name_is_ignored(gateway: GatewayProtocol) -> None:
    for other in (b"_", b"."):
        aliases = [
            (name.replace(b"-", other), value) for name, value in GATEWAY_HEADERS if b"-" in name
        ]
        assert read_subrequest(gateway, *aliases) == read_subrequest(gateway)


@every_gateway
def test_bytes_outside_ascii_are_no_error(gateway: GatewayProtocol) -> None:
    fields = (*((name, b"\xff\xe9") for name, _ in GATEWAY_HEADERS), (b"Cookie", b"\xff=\xfe"))

    assert read_subrequest(gateway, *fields).credential == Deny(Reason.MISSING)


@every_gateway
@pytest.mark.parametrize("name", [b"Authorization", b"authorization", b"AUTHORIZATION"])
def test_credential_is_read_by_every_protocol(gateway: GatewayProtocol, name: bytes) -> None:
    assert read_subrequest(gateway, (name, b"Bearer " + TOKEN)).credential == TOKEN
    assert read_subrequest(gateway, (b"cookie", b"__Host-session=" + TOKEN)).credential == TOKEN
    assert read_subrequest(gateway).credential == Deny(Reason.MISSING)


@pytest.mark.parametrize("protocol", [AuthRequest, ForwardAuth, ExtAuthz])
def test_configured_header_is_read_by_every_protocol(protocol: Any) -> None:
    gateway = protocol(GatewayPolicy(CredentialSources(header=b"x-session-token")))

    assert read_subrequest(gateway, (b"X-Session-Token", TOKEN)).credential == TOKEN


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        ("/ext-authz/app", "/app"),
        ("/ext-authz/", "/"),
        ("/ext-authz", "/"),
        ("/ext-authz/ext-authz/x", "/ext-authz/x"),
        ("/ext-authz//evil.test/../x?y=/z", "//evil.test/../x?y=/z"),
    ],
)
def test_envoys_prefix_is_removed_once(target: str, uri: str) -> None:
    assert read_subrequest(EXT_AUTHZ, target=target.encode()).uri == uri


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [
        (b"200", 0.2),
        (b"0", 0.0),
        (b"00250", 0.25),
        (b"999999999", 999_999.999),
        (b"", None),
        (b"-1", None),
        (b"+1", None),
        (b"1.5", None),
        (b"1e3", None),
        (b"1_0", None),
        (b" 1", None),
        (b"0x10", None),
        (b"200, 300", None),
        (b"9999999999", None),
        (b"1" * 5000, None),
        (b"\xb2", None),
        (b"inf", None),
        (b"nan", None),
    ],
)
def test_a_budget_is_a_plain_number_of_milliseconds(stated: bytes, seconds: float | None) -> None:
    field = (b"x-envoy-expected-rq-timeout-ms", stated)

    assert read_budget(EXT_AUTHZ, field) == seconds
    assert read_budget(FORWARD_AUTH, field) is read_budget(AUTH_REQUEST, field) is None


@given(st.lists(st.tuples(st.sampled_from([name for name, _ in GATEWAY_HEADERS]), st.binary())))
def test_gateway_headers_never_fail_nor_become_a_credential(fields: list[Field]) -> None:
    for gateway in GATEWAYS:
        assert read_subrequest(gateway, *fields).credential == Deny(Reason.MISSING)


# The target


def read_target(
    gateway: GatewayProtocol,
    *fields: Field,
    method: bytes = b"POST",
    target: bytes = b"/auth-request?x=/public/",
) -> StatedTarget:
    head = build_head(method, target, fields=fields, roles=gateway.roles)
    host, uri, stated = (getattr(head, name) for name in gateway.target_fields)
    return StatedTarget(host, uri and uri.removeprefix(gateway.target_prefix), stated)


# Every header in which some gateway states a part of the target.
ALL_STATED = [
    (b"Host", b"host.test"),
    (b"X-Original-Host", b"original.test"),
    (b"X-Original-Method", b"PUT"),
    (b"X-Original-URI", b"/original"),
    (b"X-Forwarded-Host", b"forwarded.test"),
    (b"X-Forwarded-Method", b"PATCH"),
    (b"X-Forwarded-Uri", b"/forwarded"),
    (b"X-Original-URL", b"http://url.test/url"),
    (b"X-Rewrite-URL", b"/rewrite"),
    (b"X-HTTP-Method-Override", b"DELETE"),
    (b"X-Envoy-Original-Path", b"/envoy"),
    (b"Forwarded", b"host=f.test"),
]


@pytest.mark.parametrize(
    ("gateway", "target", "expected"),
    [
        (AUTH_REQUEST, b"/auth-request?a", (b"original.test", b"/original", b"PUT")),
        (FORWARD_AUTH, b"/forward-auth?a", (b"forwarded.test", b"/forwarded", b"PATCH")),
        (EXT_AUTHZ, b"/ext-authz/a?b", (b"host.test", b"/a?b", b"POST")),
        (EXT_AUTHZ, b"/ext-authz", (b"host.test", b"", b"POST")),
    ],
)
def test_target_is_read_where_the_gateway_states_it(
    gateway: GatewayProtocol, target: bytes, expected: StatedTarget
) -> None:
    assert read_target(gateway, *ALL_STATED, target=target) == expected
    assert read_target(gateway, *reversed(ALL_STATED), target=target) == expected


@pytest.mark.parametrize("gateway", [AUTH_REQUEST, FORWARD_AUTH], ids=lambda gateway: gateway.name)
def test_target_that_the_gateway_does_not_state_is_none(gateway: GatewayProtocol) -> None:
    own = {*gateway.roles.values()}

    assert read_target(gateway) == (None, None, None)
    others = [field for field in ALL_STATED if field[0].lower() not in own]
    assert read_target(gateway, *others) == (None, None, None)


@every_gateway
@pytest.mark.parametrize("role", ["host", "uri", "method"])
def test_part_of_a_target_that_is_stated_twice_is_not_readable(
    gateway: GatewayProtocol, role: str
) -> None:
    name = gateway.roles.get(f"original_{role}")
    if name is None:
        return  # of the request line, or Host, of which both HTTP paths accept one only
    once, twice = (
        readings.read_target(read_target(gateway, *ALL_STATED, *((name, b"/x"),) * more))
        for more in (0, 1)
    )

    assert once is not None
    assert None not in once
    assert [part for part, reading in twice._asdict().items() if reading is None] == [
        {"host": "host", "uri": "paths", "method": "methods"}[role]
    ]
