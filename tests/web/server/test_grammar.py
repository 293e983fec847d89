"""The strict grammar: which requests are plain, and the heads parsed from them."""

import re

import pytest

from sidegate.web.gateways.auth_request import AuthRequest
from sidegate.web.gateways.base import GatewayPolicy, GatewayProtocol
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.gateways.ext_authz import ExtAuthz
from sidegate.web.gateways.forward_auth import ForwardAuth
from sidegate.web.server.grammar import Grammar
from sidegate.web.server.head_templates import HeadTemplates
from sidegate.web.server.header_lines import PlainForms, build_head
from sidegate.web.server.messages import Head
from tests.web.gate.gate_harness import ALICE, bearer, build_request, cookie

GATEWAYS: tuple[GatewayProtocol, ...] = (
    AuthRequest(GatewayPolicy()),
    ForwardAuth(GatewayPolicy()),
    ExtAuthz(GatewayPolicy()),
)
every_gateway = pytest.mark.parametrize("gateway", GATEWAYS, ids=lambda gateway: gateway.name)


PLAIN_FORMS = GatewayPolicy().sources.plain_forms


def build_templates(gateway: GatewayProtocol, plain: PlainForms = PLAIN_FORMS) -> HeadTemplates:
    return HeadTemplates(Grammar(gateway.route, gateway.roles, plain=plain), sampling_interval=1)


def parse_twice(
    raw: bytes, policy: GatewayPolicy | None = None, *, all_cookies: bool = False
) -> Head | None:
    """Return the head of a plain request to AuthRequest, or None.

    It is parsed twice: by the grammar, and by the template added then.
    """
    policy = policy or GatewayPolicy()
    plain = policy.sources.plain_forms._replace(all_cookies=all_cookies)
    templates = build_templates(AuthRequest(policy), plain)
    head = templates.parse(raw)
    assert templates.parse(raw) == head
    return head


def test_head_is_parsed_by_role() -> None:
    head = parse_twice(
        build_request(
            cookie(b"x"),
            b"X-Original-URI: /a b",
            b"x-original-METHOD:PUT",
            b"X-REAL-IP: \t 192.0.2.1",
            b"X-Forwarded-For: 192.0.2.9",
            b"Content-Type: text/plain",
        )
    )

    assert head is not None
    assert head._asdict() == Head(b"GET", b"/auth-request")._asdict() | {
        "host": b"gateway.test",
        "cookie": b"__Host-session=x",
        "original_uri": b"/a b",
        "original_method": b"PUT",
        "client": b"192.0.2.1",
        "content_type": b"text/plain",
    }


def test_bearer_token_is_captured_without_its_scheme() -> None:
    head = parse_twice(build_request(bearer(ALICE)))

    assert head is not None
    assert (head.bearer, head.authorization) == (ALICE.text.encode(), None)


@pytest.mark.parametrize("value", [b"", b"Bearer x", b"Basic YTpi", b"BEARER " + b"a" * 60])
def test_other_authorization_is_captured_whole(value: bytes) -> None:
    head = parse_twice(build_request(b"Authorization: " + value))

    assert head is not None
    assert (head.bearer, head.authorization) == (None, value)


def test_session_cookie_is_captured_among_plain_ones() -> None:
    head = parse_twice(
        build_request(b"Cookie: a=1;b=; " + cookie(ALICE)[8:] + b"; c=__Host-session=x; d")
    )

    assert head is not None
    assert (head.session_cookie, head.cookie) == (ALICE.text.encode(), None)


def test_other_cookies_are_not_captured() -> None:
    head = parse_twice(build_request(b"Cookie: a=1; session=x; c=__Host-session=y"))

    assert head is not None
    assert (head.session_cookie, head.cookie) == (None, None)


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (b"a=1;b=; __Host-session=" + ALICE.text.encode() + b"; c", ALICE.text.encode()),
        (b"__Host-session=" + ALICE.text.encode(), ALICE.text.encode()),
        (b"a=1; b=\xe9", None),
        (b"", None),
    ],
)
def test_all_cookies_in_the_plain_form_are_captured_if_wanted(
    value: bytes, token: bytes | None
) -> None:
    head = parse_twice(build_request(b"Cookie: " + value), all_cookies=True)

    assert head is not None
    assert (head.cookies, head.session_cookie, head.cookie) == (value, token, None)


def test_cookies_not_in_the_plain_form_are_captured_once() -> None:
    value = b'__Host-session=%b; a="b"' % ALICE.text.encode()
    head = parse_twice(build_request(b"Cookie: " + value), all_cookies=True)

    assert head is not None
    assert (head.cookies, head.session_cookie, head.cookie) == (None, None, value)


@pytest.mark.parametrize(("count", "is_plain"), [(250, True), (251, False), (9_000, False)])
def test_cookies_are_plain_up_to_more_than_browsers_have(count: int, is_plain: bool) -> None:
    own = b"__Host-session=" + ALICE.text.encode()
    for value in (b"a=1; " * count + own, own + b"; a=1" * count):
        head = parse_twice(build_request(b"Cookie: " + value), all_cookies=True)

        assert head is not None
        assert (head.cookies == value, head.cookie == value) == (is_plain, not is_plain)


def test_bearer_is_captured_whole_while_only_basic_is_enabled() -> None:
    policy = GatewayPolicy(CredentialSources(bearer=False, basic=True))

    head = parse_twice(build_request(bearer(ALICE)), policy)

    assert head is not None
    assert (head.bearer, head.authorization) == (None, b"Bearer " + ALICE.text.encode())


def test_websocket_protocols_are_captured_if_enabled() -> None:
    policy = GatewayPolicy(CredentialSources(websocket_protocol=True))
    raw = build_request(b"Sec-WebSocket-Protocol: sidegate, x")

    enabled, disabled = parse_twice(raw, policy), parse_twice(raw)

    assert enabled is not None
    assert disabled is not None
    assert (enabled.websocket_protocol, disabled.websocket_protocol) == (b"sidegate, x", None)


@pytest.mark.parametrize(
    "value",
    [
        b"__Host-session=x",
        b"__Host-session",
        b"__Host-session=" + ALICE.text.encode() + b" ; a=1",
        b"__Host-session=" + ALICE.text.encode() + b"; __Host-session=" + ALICE.text.encode(),
        b"__Host-session=" + ALICE.text.encode() + b'; a="b"',
        b'a="b"; __Host-session=' + ALICE.text.encode(),
        b"__Host-sessions=1; __Host-session=" + ALICE.text.encode(),
    ],
)
def test_cookies_not_in_the_plain_form_are_captured_whole(value: bytes) -> None:
    head = parse_twice(build_request(b"Cookie: " + value))

    assert head is not None
    assert (head.session_cookie, head.cookie) == (None, value)


def test_disabled_source_is_not_captured() -> None:
    off = GatewayPolicy(CredentialSources(bearer=False, cookie=None))

    head = parse_twice(build_request(bearer(ALICE), cookie(ALICE)), off)

    assert head is not None
    assert (head.bearer, head.authorization, head.cookie) == (None, None, None)


@every_gateway
def test_both_http_paths_build_the_same_head(gateway: GatewayProtocol) -> None:
    names = [name for name in gateway.roles.values() if name != b"host"]
    fields = [(name, b"value of " + name) for name in names]
    lines = [name + b": " + value for name, value in fields]
    fields.append((b"host", b"gateway.test"))
    route = gateway.route.rstrip("/")

    head = build_templates(gateway).parse(build_request(*lines, target=route))
    built = build_head(b"GET", route.encode(), fields=fields, roles=gateway.roles)

    assert head is not None
    assert gateway.read(head) == gateway.read(built)
    for name in gateway.target_fields:
        assert getattr(head, name) == getattr(built, name)
    assert head.raw_signals == built.raw_signals


PLAIN = {
    "no header but Host": build_request(),
    "an empty Host": build_request().replace(b" gateway.test", b""),
    "a query": build_request(target="/auth-request?a=1&b=/?"),
    "an empty query": build_request(target="/auth-request?"),
    "bytes outside ASCII in a value": build_request(b"X: \xe9\xff\x80"),
    "a tab in a value": build_request(b"X: a\tb"),
    "blanks after an unused value": build_request(b"X: a \t "),
    "blanks after a used value": build_request(bearer(ALICE) + b" \t"),
    "no blank before a value": build_request(b"X:a"),
    "an empty value": build_request(b"X:"),
    "an empty body": build_request(b"Content-Length: 0"),
    "a persistent connection": build_request(b"Connection: keep-alive"),
    "a closing connection": build_request(b"connection: Close"),
    "a closing connection of HTTP/1.0": build_request(b"Connection: close").replace(b"1.1", b"1.0"),
    "one rare header": build_request(b"ETag: x"),
    "the same unknown header twice": build_request(b"X: 1", b"X: 2"),
    "a hundred lines": build_request(*(b"X-%d: 1" % number for number in range(100))),
    "forty kilobytes of cookies": build_request(b"Cookie: " + b"x" * 40_000),
}


@pytest.mark.parametrize("raw", PLAIN.values(), ids=PLAIN.keys())
def test_request_is_plain(raw: bytes) -> None:
    assert parse_twice(raw) is not None


NOT_PLAIN = {
    "nothing": b"",
    "half a head": build_request()[:-2],
    "more than a head": build_request() + b"x",
    "a method that is no token": build_request(method=b"GE(T"),
    "a tunnel": build_request(method=b"CONNECT"),
    "a host with a user": build_request().replace(b"Host: ", b"Host: a@"),
    "two hosts in a line": build_request().replace(b"Host: ", b"Host: a, "),
    "another path": build_request(target="/auth-request/"),
    "a path below": build_request(target="/auth-request/x"),
    "a fragment": build_request(target="/auth-request?a#b"),
    "a blank in the query": build_request(target="/auth-request?a b"),
    "an absolute target": build_request(target="http://gateway.test/auth-request"),
    "HTTP/1.0 with keep-alive": build_request(b"Connection: keep-alive").replace(b"1.1", b"1.0"),
    "HTTP/1.0 without Connection": build_request().replace(b"1.1", b"1.0"),
    "HTTP/1.2": build_request().replace(b"1.1", b"1.2"),
    "HTTP/2.0": build_request().replace(b"1.1", b"2.0"),
    "no host": build_request().replace(b"Host: gateway.test\r\n", b"X: 1\r\n"),
    "no header at all": b"GET /auth-request HTTP/1.1\r\n\r\n",
    "two hosts": build_request(b"host: a"),
    "a bare line feed": build_request(b"X: 1\nY: 2"),
    "a bare carriage return": build_request(b"X: 1\rY: 2"),
    "bare line feeds": build_request().replace(b"\r\n", b"\n"),
    "a folded line": build_request(b"X: 1", b" 2"),
    "a blank before the colon": build_request(b"X : 1"),
    "a line without a colon": build_request(b"X"),
    "a line without a name": build_request(b": 1"),
    "a name outside ASCII": build_request(b"\xe9: 1"),
    "NUL": build_request(b"X: \0"),
    "DEL": build_request(b"X: \x7f"),
    "a body": build_request(b"Content-Length: 1"),
    "a length of 00": build_request(b"Content-Length: 00"),
    "a length of 0 twice": build_request(b"Content-Length: 0", b"Content-Length: 0"),
    "chunks": build_request(b"Transfer-Encoding: chunked"),
    "an upgrade": build_request(b"Upgrade: websocket"),
    "an expectation": build_request(b"Expect: 100-continue"),
    "a connection with two options": build_request(b"Connection: keep-alive, X-Auth-User"),
    "two connections": build_request(b"Connection: close", b"Connection: keep-alive"),
    "Proxy-Connection": build_request(b"Proxy-Connection: close"),
    "two rare headers": build_request(b"ETag: x", b"Server: y"),
    "two bearers": build_request(bearer(ALICE), bearer(ALICE)),
    "a bearer and another scheme": build_request(bearer(ALICE), b"Authorization: Basic x"),
    "another scheme and a bearer": build_request(b"Authorization: Basic x", bearer(ALICE)),
    "two cookie lines": build_request(cookie(b"x"), b"Cookie: a=1"),
    "two addresses": build_request(b"X-Real-IP: 192.0.2.1", b"X-Real-IP: 192.0.2.1"),
    "two user agents": build_request(b"User-Agent: x", b"User-Agent: x"),
    "three hundred lines": build_request(*(b"X-%d: 1" % number for number in range(300))),
    "seventy kilobytes of cookies": build_request(b"Cookie: " + b"x" * 70_000),
    "a query of forty kilobytes": build_request(target="/auth-request?" + "x" * 40_000),
}


@pytest.mark.parametrize("raw", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_request_is_not_plain(raw: bytes) -> None:
    assert parse_twice(raw) is None


@pytest.mark.parametrize(
    "target", ["/ext-authz", "/ext-authz/", "/ext-authz/a/../b", "/ext-authz//", "/ext-authz?x"]
)
def test_every_path_below_envoys_prefix_is_plain(target: str) -> None:
    envoy = ExtAuthz(GatewayPolicy())

    head = build_templates(envoy).parse(build_request(target=target))

    assert head is not None
    assert head.target == target.encode()


@pytest.mark.parametrize("header", [b"x-real-ip", b"user-agent", b"connection", b"etag", b"host"])
def test_header_with_two_roles_is_an_error(header: bytes) -> None:
    gateway = AuthRequest(GatewayPolicy(CredentialSources(header=header)))

    with pytest.raises(ValueError, match="two roles"):
        Grammar(gateway.route, gateway.roles, plain=PlainForms())


def test_repr_of_a_head_hides_credentials() -> None:
    head = parse_twice(build_request(bearer(ALICE), cookie(ALICE)))

    assert repr(head) == "Head(b'GET')"


REPEATED_GROUP = re.compile(rb"(?<!\\)\)(?:[*+?]|\{[0-9,]+\})\+")


def test_only_character_classes_have_possessive_quantifiers() -> None:
    """Python before 3.11.5 compiles possessive groups wrongly (CPython issue 106052)."""
    gateway = AuthRequest(GatewayPolicy())
    grammar = Grammar(gateway.route, gateway.roles, plain=PLAIN_FORMS)
    assert REPEATED_GROUP.search(rb"(?:a|b)*+") is not None
    assert REPEATED_GROUP.search(grammar.head_pattern.pattern) is None
    assert all(REPEATED_GROUP.search(rule.value) is None for rule in grammar.rules_by_name.values())


def test_text_after_a_token_is_captured_with_it() -> None:
    suffixed = b"Authorization: Bearer " + ALICE.text.encode() + b" x"
    head = parse_twice(build_request(b"X-Real-IP: 192.0.2.1", suffixed))
    assert head is not None
    assert head.bearer is None
    assert head.authorization == b"Bearer " + ALICE.text.encode() + b" x"
