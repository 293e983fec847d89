"""Every gateway protocol: what is read from a head, and what each verdict is written as."""

import string
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, assert_never
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Allow, Deny, Reason, Unavailable, Verdict
from sidegate.web.gateways.auth_request import AuthRequest
from sidegate.web.gateways.base import GatewayPolicy, GatewayProtocol
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.gateways.ext_authz import ExtAuthz
from sidegate.web.gateways.forward_auth import ForwardAuth
from sidegate.web.gateways.identity_headers import IdentityNames
from sidegate.web.server.header_lines import gather
from sidegate.web.server.messages import Response, Subrequest
from tests.contracts.values import a_session
from tests.web.gate.gate_rig import IDENTITY

Field = tuple[bytes, bytes]
AUTH_REQUEST, FORWARD_AUTH, EXT_AUTHZ = (
    AuthRequest(GatewayPolicy()),
    ForwardAuth(GatewayPolicy()),
    ExtAuthz(GatewayPolicy()),
)
GATEWAYS: tuple[GatewayProtocol, ...] = (AUTH_REQUEST, FORWARD_AUTH, EXT_AUTHZ)
ALLOW = Allow(a_session())
VERDICTS: tuple[Verdict, ...] = (ALLOW, *map(Deny, Reason), Unavailable("redis"))

every_gateway = pytest.mark.parametrize("gateway", GATEWAYS, ids=lambda gateway: gateway.name)
every_verdict = pytest.mark.parametrize("verdict", VERDICTS, ids=str)


def value(answer: Response, name: str) -> str:
    (only,) = [value for each, value in answer.headers if each.lower() == name.lower()]
    return only


def names(answer: Response) -> list[str]:
    return [name.lower() for name, _ in answer.headers]


def read(
    gateway: GatewayProtocol,
    *fields: Field,
    method: bytes = b"GET",
    target: bytes = b"/auth-request",
) -> Subrequest:
    """Return what the gateway's adapter reads of a request with these header lines."""
    return gateway.read(gather(method, target, fields, gateway.roles))


def budget(gateway: GatewayProtocol, *fields: Field) -> float | None:
    return gateway.budget(gather(b"GET", b"/", fields, gateway.roles))


# Writing


@every_gateway
@every_verdict
def test_each_verdict_has_one_status(gateway: GatewayProtocol, verdict: Verdict) -> None:
    assert gateway.write(verdict).status == the_status(verdict)


def the_status(verdict: Verdict) -> int:
    match verdict:
        case Allow():
            return 200
        case Deny(Reason.RULE):
            return 403
        case Deny():
            return 401
        case Unavailable():
            return 503
        case never:
            assert_never(never)


@every_gateway
@every_verdict
def test_no_answer_says_anything_twice_or_may_be_kept(
    gateway: GatewayProtocol, verdict: Verdict
) -> None:
    answer = gateway.write(verdict)

    assert len(set(names(answer))) == len(answer.headers)
    assert value(answer, "Cache-Control") == "no-store"
    assert not {"set-cookie", "location"}.intersection(names(answer))


@every_gateway
@every_verdict
def test_the_identity_is_told_whole_or_not_at_all(
    gateway: GatewayProtocol, verdict: Verdict
) -> None:
    told = {name.lower() for name in IDENTITY}.intersection(names(gateway.write(verdict)))

    assert len(told) == (len(IDENTITY) if isinstance(verdict, Allow) else 0)


@every_gateway
@every_verdict
def test_only_an_allow_has_no_body(gateway: GatewayProtocol, verdict: Verdict) -> None:
    answer = gateway.write(verdict)

    assert (answer.body == b"") == isinstance(verdict, Allow)
    assert ("content-type" in names(answer)) == (answer.body != b"")


@every_gateway
def test_whoever_presented_something_learns_one_thing(gateway: GatewayProtocol) -> None:
    quiet = set(Reason) - {Reason.MISSING, Reason.RULE}

    assert len({gateway.write(Deny(reason)) for reason in quiet}) == 1


@every_gateway
def test_only_a_401_challenges(gateway: GatewayProtocol) -> None:
    challenged = {v: "www-authenticate" in names(gateway.write(v)) for v in VERDICTS}

    assert challenged == {verdict: the_status(verdict) == 401 for verdict in VERDICTS}


@every_gateway
def test_an_error_is_named_to_those_who_presented_something(gateway: GatewayProtocol) -> None:
    nothing = gateway.write(Deny(Reason.MISSING))
    something = gateway.write(Deny(Reason.UNKNOWN))

    assert value(nothing, "WWW-Authenticate") == 'Bearer realm="sidegate"'
    assert value(something, "WWW-Authenticate") == 'Bearer realm="sidegate", error="invalid_token"'
    assert (nothing.status, nothing.body) == (something.status, something.body)


@every_gateway
@pytest.mark.parametrize("store", ["redis", "postgres", "deadline"])
def test_an_outage_says_when_to_come_back_and_not_whose_it_is(
    gateway: GatewayProtocol, store: str
) -> None:
    answer = gateway.write(Unavailable(store))

    assert value(answer, "Retry-After") == "1"
    assert answer == gateway.write(Unavailable("another"))


@every_verdict
def test_only_auth_request_repeats_the_status_in_a_header(verdict: Verdict) -> None:
    told = value(AUTH_REQUEST.write(verdict), "X-Auth-Status")

    assert told == str(the_status(verdict))
    assert "x-auth-status" not in names(FORWARD_AUTH.write(verdict))
    assert "x-auth-status" not in names(EXT_AUTHZ.write(verdict))


@every_verdict
def test_only_envoy_is_told_what_to_remove_and_only_on_an_allow(verdict: Verdict) -> None:
    name = "x-envoy-auth-headers-to-remove"

    assert (name in names(EXT_AUTHZ.write(verdict))) == isinstance(verdict, Allow)
    assert name not in names(AUTH_REQUEST.write(verdict)) + names(FORWARD_AUTH.write(verdict))


def test_envoy_is_to_remove_every_alias_and_nothing_it_was_told() -> None:
    removed = value(EXT_AUTHZ.write(ALLOW), "x-envoy-auth-headers-to-remove").split(",")

    real = [name.lower() for name in IDENTITY]
    dashless = [name.replace("-", other) for name in real for other in "_."]
    assert sorted(removed) == sorted(dashless)
    assert not set(removed).intersection(names(EXT_AUTHZ.write(ALLOW)))


def test_the_facts_of_a_session_are_told_as_they_are() -> None:
    moment = datetime(2026, 3, 4, 12, 0, 0, 999_999, tzinfo=UTC)
    session = a_session(
        user_id="ada@example.org",
        type=SessionType.API,
        scopes=("read", "orders:write"),
        authenticated_at=moment,
        expires_at=moment.replace(hour=13),
    )

    answer = FORWARD_AUTH.write(Allow(session))

    assert dict(answer.headers) == {
        "Cache-Control": "no-store",
        "X-Auth-User": "ada@example.org",
        "X-Auth-Session": session.id,
        "X-Auth-Type": "api",
        "X-Auth-Scopes": "read orders:write",
        "X-Auth-Time": "1772625600",
        "X-Auth-Expires": "1772629200",
    }


def test_where_there_is_nothing_to_say_the_header_is_empty() -> None:
    answer = FORWARD_AUTH.write(Allow(a_session(scopes=())))

    assert value(answer, "X-Auth-Scopes") == ""


VISIBLE = frozenset(string.ascii_letters + string.digits + string.punctuation) - set(',"\\')
anything = st.text(st.characters(exclude_categories=()))  # lone surrogates too


@every_gateway
@pytest.mark.parametrize(
    ("user_id", "told"),
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
def test_a_user_id_is_percent_encoded(gateway: GatewayProtocol, user_id: str, told: str) -> None:
    answer = gateway.write(Allow(a_session(user_id=user_id)))

    assert value(answer, "X-Auth-User") == told


@given(anything)
def test_every_user_id_is_told_in_visible_ascii_and_read_back(user_id: str) -> None:
    told = value(FORWARD_AUTH.write(Allow(a_session(user_id=user_id))), "X-Auth-User")

    assert VISIBLE.issuperset(told)
    assert unquote(told, errors="surrogatepass") == user_id


@given(st.lists(anything.filter(bool)))
def test_scopes_are_told_apart_whatever_is_in_them(scopes: list[str]) -> None:
    told = value(FORWARD_AUTH.write(Allow(a_session(scopes=tuple(scopes)))), "X-Auth-Scopes")

    assert VISIBLE.issuperset(told.replace(" ", ""))
    assert [unquote(scope, errors="surrogatepass") for scope in told.split()] == scopes


def test_identity_names_and_realm_are_the_houses_own() -> None:
    identity = replace(IdentityNames(), user="X-User-Id", scopes="X-Roles")
    gateway = ExtAuthz(GatewayPolicy(identity=identity, realm="shop"))

    allow, deny = gateway.write(ALLOW), gateway.write(Deny(Reason.MISSING))

    assert value(allow, "X-User-Id") == "ada"
    assert {"x-auth-user", "x-auth-scopes"}.isdisjoint(names(allow))
    assert "x_user_id,x.user.id" in value(allow, "x-envoy-auth-headers-to-remove")
    assert value(deny, "WWW-Authenticate") == 'Bearer realm="shop"'


# Reading

CLAIMS: tuple[Field, ...] = (
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
    ("gateway", "facts"),
    [
        (AUTH_REQUEST, Subrequest("t", "PUT", "/original?a=1", "192.0.2.1")),
        (FORWARD_AUTH, Subrequest("t", "PATCH", "/forwarded?b=2", "192.0.2.2, 192.0.2.3")),
        (EXT_AUTHZ, Subrequest("t", "POST", "/app?c=3", "192.0.2.1")),
    ],
)
def test_a_gateway_reads_its_own_headers_and_nobody_elses(
    gateway: GatewayProtocol, facts: Subrequest
) -> None:
    claims = (*CLAIMS, (b"Authorization", b"Bearer t"))

    assert read(gateway, *claims, method=b"POST", target=b"/ext-authz/app?c=3") == facts
    assert budget(gateway, *claims) == (0.25 if gateway is EXT_AUTHZ else None)


@pytest.mark.parametrize(
    ("gateway", "own"),
    [
        (AUTH_REQUEST, {b"X-Original-Method", b"X-Original-URI", b"X-Real-IP"}),
        (FORWARD_AUTH, {b"X-Forwarded-Method", b"X-Forwarded-Uri", b"X-Forwarded-For"}),
        (EXT_AUTHZ, {b"X-Real-IP", b"X-Envoy-Expected-Rq-Timeout-Ms"}),
    ],
)
def test_what_others_are_told_changes_nothing(gateway: GatewayProtocol, own: set[bytes]) -> None:
    foreign = [claim for claim in CLAIMS if claim[0] not in own]

    assert read(gateway, *foreign) == read(gateway)


@every_gateway
def test_a_fact_stated_twice_is_not_stated(gateway: GatewayProtocol) -> None:
    assert read(gateway, *CLAIMS, *CLAIMS) == read(gateway)


@every_gateway
def test_names_are_read_in_any_case(gateway: GatewayProtocol) -> None:
    asked = (*CLAIMS, (b"Authorization", b"Bearer t"))
    shouted = ((name.upper(), value) for name, value in asked)

    assert read(gateway, *shouted) == read(gateway, *asked)


@every_gateway
def test_an_alias_of_a_name_is_another_name(gateway: GatewayProtocol) -> None:
    for other in (b"_", b"."):
        aliases = [(name.replace(b"-", other), value) for name, value in CLAIMS if b"-" in name]
        assert read(gateway, *aliases) == read(gateway)


@every_gateway
def test_bytes_beyond_ascii_are_read_without_complaint(gateway: GatewayProtocol) -> None:
    asked = (*((name, b"\xff\xe9") for name, _ in CLAIMS), (b"Cookie", b"\xff=\xfe"))

    assert read(gateway, *asked).credential == Deny(Reason.MISSING)


@every_gateway
@pytest.mark.parametrize("name", [b"Authorization", b"authorization", b"AUTHORIZATION"])
def test_a_credential_is_read_by_every_gateway(gateway: GatewayProtocol, name: bytes) -> None:
    assert read(gateway, (name, b"Bearer t")).credential == "t"
    assert read(gateway, (b"cookie", b"__Host-session=t")).credential == "t"
    assert read(gateway).credential == Deny(Reason.MISSING)


@pytest.mark.parametrize("kind", [AuthRequest, ForwardAuth, ExtAuthz])
def test_a_configured_header_is_read_by_every_gateway(kind: Any) -> None:
    gateway = kind(GatewayPolicy(CredentialSources(header=b"x-session-token")))

    assert read(gateway, (b"X-Session-Token", b"t")).credential == "t"


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
def test_envoys_prefix_is_taken_off_once(target: str, uri: str) -> None:
    assert read(EXT_AUTHZ, target=target.encode()).uri == uri


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
    asked = (b"x-envoy-expected-rq-timeout-ms", stated)

    assert budget(EXT_AUTHZ, asked) == seconds
    assert budget(FORWARD_AUTH, asked) is budget(AUTH_REQUEST, asked) is None


@given(st.lists(st.tuples(st.sampled_from([name for name, _ in CLAIMS]), st.binary())))
def test_reading_never_fails_and_claims_never_become_a_credential(fields: list[Field]) -> None:
    for gateway in GATEWAYS:
        assert read(gateway, *fields).credential == Deny(Reason.MISSING)
