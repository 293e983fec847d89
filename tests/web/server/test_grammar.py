"""The strict grammar: what is plain, what its head is read as, and what is left to aiohttp."""

import re

import pytest

from sidegate.web.gateways.auth_request import AuthRequest
from sidegate.web.gateways.base import GatewayPolicy, GatewayProtocol
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.gateways.ext_authz import ExtAuthz
from sidegate.web.gateways.forward_auth import ForwardAuth
from sidegate.web.server.grammar import Grammar
from sidegate.web.server.head_templates import HeadTemplates
from sidegate.web.server.header_lines import gather
from sidegate.web.server.messages import Head
from tests.web.gate.gate_rig import ALICE, bearer, cookie, request

GATEWAYS: tuple[GatewayProtocol, ...] = (
    AuthRequest(GatewayPolicy()),
    ForwardAuth(GatewayPolicy()),
    ExtAuthz(GatewayPolicy()),
)
every_gateway = pytest.mark.parametrize("gateway", GATEWAYS, ids=lambda gateway: gateway.name)


def forms_of(gateway: GatewayProtocol, cookie: bytes | None = b"__Host-session") -> HeadTemplates:
    return HeadTemplates(Grammar(gateway.route, gateway.roles, cookie), learn_every=1)


def read(raw: bytes, manners: GatewayPolicy | None = None) -> Head | None:
    """Return the head of a plain request to nginx's adapter; None: it is not plain.

    It is read twice: once by the grammar, and once by its form.
    """
    manners = manners or GatewayPolicy()
    forms = forms_of(AuthRequest(manners), manners.sources.cookie)
    head = forms.read(raw)
    assert forms.read(raw) == head
    return head


def test_a_head_is_read_by_role() -> None:
    head = read(
        request(
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


def test_a_bearer_token_is_caught_without_its_scheme() -> None:
    head = read(request(bearer(ALICE)))

    assert head is not None
    assert (head.bearer, head.authorization) == (ALICE.text.encode(), None)


@pytest.mark.parametrize("value", [b"", b"Bearer x", b"Basic YTpi", b"BEARER " + b"a" * 60])
def test_whatever_else_stands_there_is_caught_as_it_is(value: bytes) -> None:
    head = read(request(b"Authorization: " + value))

    assert head is not None
    assert (head.bearer, head.authorization) == (None, value)


def test_our_cookie_is_caught_from_among_plain_ones() -> None:
    head = read(request(b"Cookie: a=1;b=; " + cookie(ALICE)[8:] + b"; c=__Host-session=x; d"))

    assert head is not None
    assert (head.ours, head.cookie) == (ALICE.text.encode(), None)


def test_cookies_of_others_are_not_kept() -> None:
    head = read(request(b"Cookie: a=1; session=x; c=__Host-session=y"))

    assert head is not None
    assert (head.ours, head.cookie) == (None, None)


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
def test_cookies_that_need_a_closer_look_are_caught_as_they_are(value: bytes) -> None:
    head = read(request(b"Cookie: " + value))

    assert head is not None
    assert (head.ours, head.cookie) == (None, value)


def test_a_source_that_is_switched_off_is_not_caught() -> None:
    off = GatewayPolicy(CredentialSources(bearer=False, cookie=None))

    head = read(request(bearer(ALICE), cookie(ALICE)), off)

    assert head is not None
    assert (head.bearer, head.authorization, head.cookie) == (None, None, None)


@every_gateway
def test_both_lanes_gather_the_same_head(gateway: GatewayProtocol) -> None:
    fields = [(name, b"value of " + name) for name in gateway.roles.values()]
    lines = [name + b": " + value for name, value in fields]
    route = gateway.route.rstrip("/")

    head = forms_of(gateway).read(request(*lines, target=route))
    gathered = gather(b"GET", route.encode(), fields, gateway.roles)

    assert head is not None
    assert gateway.read(head) == gateway.read(gathered)
    assert head.shown == gathered.shown


PLAIN = {
    "no header but Host": request(),
    "an empty Host": request().replace(b" gateway.test", b""),
    "a query": request(target="/auth-request?a=1&b=/?"),
    "an empty query": request(target="/auth-request?"),
    "bytes beyond ASCII in a value": request(b"X: \xe9\xff\x80"),
    "a tab in a value": request(b"X: a\tb"),
    "blanks behind a value nobody reads": request(b"X: a \t "),
    "blanks behind a value somebody reads": request(bearer(ALICE) + b" \t"),
    "no blank before a value": request(b"X:a"),
    "an empty value": request(b"X:"),
    "a body of nothing": request(b"Content-Length: 0"),
    "an open connection": request(b"Connection: keep-alive"),
    "a closing one": request(b"connection: Close"),
    "a closing one of HTTP/1.0": request(b"Connection: close").replace(b"1.1", b"1.0"),
    "one rarity": request(b"ETag: x"),
    "the same unknown header twice": request(b"X: 1", b"X: 2"),
    "a hundred lines": request(*(b"X-%d: 1" % number for number in range(100))),
    "forty kilobytes of cookies": request(b"Cookie: " + b"x" * 40_000),
}


@pytest.mark.parametrize("raw", PLAIN.values(), ids=PLAIN.keys())
def test_this_is_plain(raw: bytes) -> None:
    assert read(raw) is not None


ODD = {
    "nothing": b"",
    "half a head": request()[:-2],
    "more than a head": request() + b"x",
    "an unknown method": request(method=b"BREW"),
    "a method in lower case": request(method=b"get"),
    "another path": request(target="/auth-request/"),
    "a path below": request(target="/auth-request/x"),
    "a fragment": request(target="/auth-request?a#b"),
    "a blank in the query": request(target="/auth-request?a b"),
    "an absolute target": request(target="http://gateway.test/auth-request"),
    "HTTP/1.0 that stays": request(b"Connection: keep-alive").replace(b"1.1", b"1.0"),
    "HTTP/1.0 that does not say": request().replace(b"1.1", b"1.0"),
    "HTTP/1.2": request().replace(b"1.1", b"1.2"),
    "HTTP/2.0": request().replace(b"1.1", b"2.0"),
    "no host": request().replace(b"Host: gateway.test\r\n", b"X: 1\r\n"),
    "no header at all": b"GET /auth-request HTTP/1.1\r\n\r\n",
    "two hosts": request(b"host: a"),
    "a bare line feed": request(b"X: 1\nY: 2"),
    "a bare carriage return": request(b"X: 1\rY: 2"),
    "bare line feeds": request().replace(b"\r\n", b"\n"),
    "a folded line": request(b"X: 1", b" 2"),
    "a blank before the colon": request(b"X : 1"),
    "a line without a colon": request(b"X"),
    "a line without a name": request(b": 1"),
    "a name beyond ASCII": request(b"\xe9: 1"),
    "NUL": request(b"X: \0"),
    "DEL": request(b"X: \x7f"),
    "a body": request(b"Content-Length: 1"),
    "a body of nothing, spelled oddly": request(b"Content-Length: 00"),
    "nothing, twice": request(b"Content-Length: 0", b"Content-Length: 0"),
    "chunks": request(b"Transfer-Encoding: chunked"),
    "an upgrade": request(b"Upgrade: websocket"),
    "an expectation": request(b"Expect: 100-continue"),
    "a connection of two words": request(b"Connection: keep-alive, X-Auth-User"),
    "two connections": request(b"Connection: close", b"Connection: keep-alive"),
    "a proxy's connection": request(b"Proxy-Connection: close"),
    "two rarities": request(b"ETag: x", b"Server: y"),
    "two bearers": request(bearer(ALICE), bearer(ALICE)),
    "a bearer and another scheme": request(bearer(ALICE), b"Authorization: Basic x"),
    "another scheme and a bearer": request(b"Authorization: Basic x", bearer(ALICE)),
    "two cookie lines": request(cookie(b"x"), b"Cookie: a=1"),
    "two addresses": request(b"X-Real-IP: 192.0.2.1", b"X-Real-IP: 192.0.2.1"),
    "two user agents": request(b"User-Agent: x", b"User-Agent: x"),
    "three hundred lines": request(*(b"X-%d: 1" % number for number in range(300))),
    "seventy kilobytes of cookies": request(b"Cookie: " + b"x" * 70_000),
    "a query of forty kilobytes": request(target="/auth-request?" + "x" * 40_000),
}


@pytest.mark.parametrize("raw", ODD.values(), ids=ODD.keys())
def test_this_is_aiohttps(raw: bytes) -> None:
    assert read(raw) is None


@pytest.mark.parametrize(
    "target", ["/ext-authz", "/ext-authz/", "/ext-authz/a/../b", "/ext-authz//", "/ext-authz?x"]
)
def test_envoys_path_may_go_on(target: str) -> None:
    envoy = ExtAuthz(GatewayPolicy())

    head = forms_of(envoy).read(request(target=target))

    assert head is not None
    assert head.target == target.encode()


@pytest.mark.parametrize("header", [b"x-real-ip", b"user-agent", b"connection", b"etag", b"host"])
def test_where_a_header_has_two_meanings_there_is_no_grammar(header: bytes) -> None:
    gateway = AuthRequest(GatewayPolicy(CredentialSources(header=header)))

    with pytest.raises(ValueError, match="two meanings"):
        Grammar(gateway.route, gateway.roles)


def test_a_head_does_not_show_what_it_holds() -> None:
    head = read(request(bearer(ALICE), cookie(ALICE)))

    assert repr(head) == "Head(b'GET')"


REPEATED_GROUP = re.compile(rb"(?<!\\)\)(?:[*+?]|\{[0-9,]+\})\+")


def test_only_single_classes_are_repeated_possessively() -> None:
    """Python before 3.11.5 takes a possessive group for something else (its issue 106052)."""
    gateway = AuthRequest(GatewayPolicy())
    grammar = Grammar(gateway.route, gateway.roles, b"__Host-session")
    assert REPEATED_GROUP.search(rb"(?:a|b)*+") is not None
    assert REPEATED_GROUP.search(grammar.any_head.pattern) is None
    assert all(REPEATED_GROUP.search(rule.value) is None for rule in grammar.by_name.values())


def test_a_token_with_words_behind_it_is_no_token() -> None:
    behind = b"Authorization: Bearer " + ALICE.text.encode() + b" x"
    head = read(request(b"X-Real-IP: 192.0.2.1", behind))
    assert head is not None
    assert head.bearer is None
    assert head.authorization == b"Bearer " + ALICE.text.encode() + b" x"
