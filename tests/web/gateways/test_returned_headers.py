"""The client's headers without the credential, as a 200 returns them."""

import sys
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.token import TokenText
from sidegate.services.validator import Candidates
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.credentials import CredentialSources, list_tokens
from sidegate.web.gateways.forward_auth import ForwardAuth
from sidegate.web.gateways.returned_headers import ReturnedHeaders, encode_fields
from sidegate.web.server.grammar import Grammar
from sidegate.web.server.head_templates import HeadTemplates
from sidegate.web.server.header_lines import build_head
from sidegate.web.server.messages import Head
from tests.web.gate.gate_harness import ALICE, BOB, FORGED, build_request

SOURCES = CredentialSources(header=b"x-session-token", basic=True, websocket_protocol=True)
RETURNED = ReturnedHeaders(SOURCES)
NAME = b"__Host-session"
A, B, F = (TokenText(token.text.encode("ascii")) for token in (ALICE, BOB, FORGED))
OWN = NAME + b"=" + A

Lines = Mapping[bytes, Sequence[bytes]]


def head_of(lines: Lines) -> Head:
    fields = [(name, value.strip(b" \t")) for name in lines for value in lines[name]]
    return build_head(b"GET", b"/forward-auth", fields=fields, roles=SOURCES.build_roles())


def read(lines: Lines) -> dict[bytes, bytes]:
    """Return what is returned, by lower-case name."""
    fields = RETURNED.read_fields(head_of(lines))
    assert len({name for name, _ in fields}) == len(fields)
    assert {name for name, _ in fields} <= set(RETURNED.names)
    return {name.lower(): value for name, value in fields}


def read_cookies(*lines: bytes) -> bytes | None:
    return read({b"cookie": lines}).get(b"cookie")


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        (b"a=1; b=2", b"a=1; b=2"),
        (OWN, None),
        (OWN + b";", None),
        (b";; ;" + OWN + b"; ;", None),
        (b"", None),
        (b" ; ", None),
        (OWN + b"; b=2", b"b=2"),
        (b"a=1; " + OWN, b"a=1"),
        (b"a=1; " + OWN + b"; b=2", b"a=1; b=2"),
        (b"a=1;" + OWN + b"; b", b"a=1; b"),
        (b"a=1;" + OWN + b";b", b"a=1;b"),
        (b"a=1 ;\t" + OWN + b" ; b", b"a=1 ; b"),
        (b"a=1;; " + OWN + b"; b", b"a=1;; b"),
        (b"x; =y; " + OWN + b"; z=", b"x; =y; z="),
        (NAME + b"; a=1", b"a=1"),
        (NAME + b"=; a=1", b"a=1"),
        (NAME + b"=junk; " + OWN + b"; a=1; " + NAME + b"=" + F, b"a=1"),
        (NAME + b'="' + A + b'"; ' + OWN + b"; a=1", b"a=1"),
        (NAME + b" = " + A + b"; a=1", b"a=1"),
        (NAME + b"s=1; " + OWN, NAME + b"s=1"),
        (b"x" + OWN[:-1] + b"; " + OWN, b"x" + OWN[:-1]),
        (b"c=" + NAME + b"=x; " + OWN, b"c=" + NAME + b"=x"),
        (b'm="a; ' + OWN + b"; b=2", b'm="a; b=2'),
        (OWN + b'; g={"i_l":0}; b=2', b'g={"i_l":0}; b=2'),
        (b"a=\xe9\xff; " + OWN + b"; b=\xc3\xa9", b"a=\xe9\xff; b=\xc3\xa9"),
        (b"__host-session=" + B + b"; " + OWN, b"__host-session=" + B),
    ],
)
def test_session_cookies_are_removed_from_a_line(line: bytes, rest: bytes | None) -> None:
    assert read_cookies(line) == rest


@pytest.mark.parametrize(
    ("lines", "rest"),
    [
        ((b"a=1", OWN, b"b=2"), b"a=1; b=2"),
        ((OWN, NAME + b"=x"), None),
        ((b"a=1; " + OWN, OWN + b"; b=2"), b"a=1; b=2"),
        ((b"a=1;", b"", b"b=2; c"), b"a=1;; b=2; c"),
    ],
)
def test_cookie_lines_are_joined(lines: tuple[bytes, ...], rest: bytes | None) -> None:
    assert read_cookies(*lines) == rest


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        (b"a=" + A + b"; " + OWN + b"; b=2", b"b=2"),
        (b"a=1, " + OWN + b"; " + OWN + b"; b=2", b"b=2"),
        (NAME + b'="x; ' + A + b'"; ' + OWN + b"; b=2", b"b=2"),
        (b"a=x" + A + b"x; " + OWN + b"; b=2", b"b=2"),
        (b"a=" + A + b";" + A + b"; b=2; " + A + A + b"; c;" + OWN + b";d=" + A, b"b=2; c"),
    ],
)
def test_other_cookie_with_the_credential_is_removed(line: bytes, rest: bytes) -> None:
    assert read_cookies(line) == rest


def test_cookie_with_the_bearer_is_removed() -> None:
    lines = {b"authorization": [b"Bearer " + A], b"cookie": [b"a=" + A + b"; b=" + B]}
    assert read(lines) == {b"cookie": b"b=" + B}


@pytest.mark.parametrize(
    ("value", "rest"),
    [
        (b"Bearer " + A, None),
        (b"bearer   " + F, None),
        (b"Basic " + b64encode(b"ada:" + A), None),
        (b"", None),
        (b"Bearer eyJhIjoxfQ.e30.c2ln", b"Bearer eyJhIjoxfQ.e30.c2ln"),
        (b"Bearer " + F + b"x", b"Bearer " + F + b"x"),
        (b"Basic YTpi", b"Basic YTpi"),
        (b'Digest username="\xe9"', b'Digest username="\xe9"'),
    ],
)
def test_authorization_is_removed_if_it_is_a_token(value: bytes, rest: bytes | None) -> None:
    assert read({b"authorization": [value]}).get(b"authorization") == rest


@pytest.mark.parametrize(
    ("lines", "rest"),
    [
        ([A], None),
        ([A, A], None),
        ([A, b"", F], None),
        ([b"other"], b"other"),
        ([A, b"x, y", b"\xe9"], b"x, y, \xe9"),
    ],
)
def test_tokens_are_removed_from_the_configured_header(
    lines: list[bytes], rest: bytes | None
) -> None:
    assert read({b"x-session-token": lines}).get(b"x-session-token") == rest


@pytest.mark.parametrize(
    ("lines", "rest"),
    [
        ([b"sidegate, " + A], None),
        ([b"sidegate, " + A + b","], None),
        ([b"sidegate, " + A + b", chat, v2"], b"chat, v2"),
        ([b"sidegate," + F + b",chat ,v2"], b"chat ,v2"),
        ([b"sidegate", A, b"chat", b"v2"], b"chat, v2"),
        ([b"sidegate, chat"], b"sidegate, chat"),
        ([b"chat", b"v2"], b"chat, v2"),
    ],
)
def test_token_is_removed_from_the_websocket_protocols(
    lines: list[bytes], rest: bytes | None
) -> None:
    assert read({b"sec-websocket-protocol": lines}).get(b"sec-websocket-protocol") == rest


# Pairs, mostly of one name and one value, but of any bytes that a line can have.
blanks = st.sampled_from([b"", b" ", b"  ", b"\t"])
cookie_names = st.sampled_from(
    [NAME, NAME, NAME, b"a", b"b", b"", b"__host-session", NAME + b"x", b"x" + NAME, b"\x85" + NAME]
)
cookie_values = st.one_of(
    st.sampled_from([A, A, B, F, b"", b"junk", b'"' + A + b'"', b'"open', b'closed"', OWN]),
    st.binary(max_size=4).filter(lambda text: not {*text} & {*b"\r\n\0;"}),
)
pairs = st.one_of(
    st.tuples(blanks, cookie_names, blanks, st.just(b"="), blanks, cookie_values, blanks),
    st.tuples(blanks, cookie_names, blanks),
    st.tuples(st.sampled_from([b"", A, OWN + b", a=1", b'g={"i_l":0}'])),
).map(b"".join)
cookie_lines = st.lists(st.lists(pairs, max_size=6).map(b";".join), min_size=1, max_size=3)


def parse_pairs(lines: Iterable[bytes]) -> list[bytes]:
    """Return the pairs as a simple application reads them, without empty ones."""
    return [pair.strip(b" \t") for line in lines for pair in line.split(b";") if pair.strip(b" \t")]


def is_own(pair: bytes) -> bool:
    return pair.partition(b"=")[0].strip(b" \t") == NAME


@given(cookie_lines)
def test_application_reads_exactly_the_other_pairs(lines: list[bytes]) -> None:
    tokens = list_tokens(SOURCES.read(head_of({b"cookie": lines})))

    rest = read_cookies(*lines)

    others = [
        pair
        for pair in parse_pairs(lines)
        if not is_own(pair) and not any(bytes(token) in pair for token in tokens)
    ]
    assert parse_pairs([rest or b""]) == others
    assert rest is None or rest == rest.strip(b" \t")
    assert len(rest or b"") <= sum(map(len, lines)) + 2 * (len(lines) - 1)


offers = st.sampled_from([b"sidegate, " + A, b"sidegate, " + A + b", chat", b"chat", b"sidegate"])
authorizations = st.sampled_from(
    [
        b"Bearer " + A,
        b"Basic " + b64encode(b"ada:" + A),
        b"Bearer x.y.z",
        b"Bearer " + F,
        b"Token x",
    ]
)


GATEWAY = ForwardAuth(GatewayPolicy(SOURCES))
GRAMMAR = Grammar(
    GATEWAY.route, GATEWAY.roles, plain=SOURCES.plain_forms._replace(all_cookies=True)
)


@given(cookie_lines, st.sampled_from([b"", b"Bearer " + A, b"Bearer " + B]))
def test_same_is_returned_on_the_fast_path(lines: list[bytes], authorization: bytes) -> None:
    fields = {b"cookie": lines[:1], b"authorization": [authorization] if authorization else []}
    raw = [b"%b: %b" % (name, value) for name in fields for value in fields[name]]
    head = HeadTemplates(GRAMMAR).parse(build_request(*raw, target=GATEWAY.route))

    if head is not None:  # no control characters
        expected = RETURNED.read_fields(head_of(fields))
        assert RETURNED.read_fields(head) == expected
        assert RETURNED.build_lines(head) == encode_fields(expected)


@given(
    st.fixed_dictionaries(
        {b"cookie": cookie_lines},
        optional={
            b"authorization": st.lists(authorizations, max_size=1),
            b"x-session-token": st.lists(st.sampled_from([A, b"x", F]), max_size=2),
            b"sec-websocket-protocol": st.lists(offers, max_size=2),
        },
    )
)
def test_no_returned_header_contains_the_credential(lines: Lines) -> None:
    head = head_of(lines)
    presented = SOURCES.read(head)
    if isinstance(presented, Candidates) and presented.embedded:
        return  # denied if it has a valid tag

    returned = encode_fields(RETURNED.read_fields(head))

    assert not any(bytes(token) in returned for token in list_tokens(presented))
    assert not any(line.endswith(b": ") for line in returned.split(b"\r\n"))
    assert b"\r" not in returned.replace(b"\r\n", b"")
    sent = encode_fields((name, value) for name in lines for value in lines[name])
    assert len(returned) <= len(sent)


# The work for one head


def count_calls(lines: Lines) -> int:
    """Return the calls of functions that reading a head and building its lines takes."""
    head, calls = head_of(lines), 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    profiler = sys.getprofile()
    sys.setprofile(count)
    try:
        SOURCES.read(head)
        RETURNED.build_lines(head)
    finally:
        sys.setprofile(profiler)
    return calls


def fill(unit: bytes) -> bytes:
    """Return the unit again and again, as much as a header line may have."""
    return unit * (60_000 // len(unit))


@pytest.mark.parametrize(
    "lines",
    [
        {b"authorization": [b"X " + fill(b"x")]},
        {b"authorization": [b"X " + fill(b"sgw_A")]},
        {b"authorization": [b"Basic " + b64encode(fill(b"sgw_A")[:45_000])]},
        {b"x-session-token": [fill(b"sgw_A")] * 15},
        {b"x-session-token": [b"x"] * 250},
        {b"sec-websocket-protocol": [fill(b"sgw_")]},
        {b"cookie": [b"a=" + fill(b"sgw_A")]},
        {b"cookie": [b"a=" + fill(b"sgw_")] * 100},
        {b"cookie": [b"a=" + A + fill(b";")]},
        {b"cookie": [fill(b"a=" + A + b";")]},
        {b"cookie": [fill(b'="') + b"; " + OWN]},
        {b"cookie": [fill(b'="";') + OWN + b'; "']},
        {b"cookie": [fill(NAME + b"=;")]},
        {b"cookie": [fill(b"x" + NAME + b"=;")]},
        {b"cookie": [fill(NAME + b"=;")] * 15},
        {b"cookie": [fill(b";")]},
        {b"cookie": [b"a=1;" + fill(b" ") + OWN]},
        {b"cookie": [b"; ".join(NAME + b"=sgw_%056d" % number for number in range(700))]},
        {b"cookie": [fill(b"a=1; ")[:250]] * 250},
    ],
)
def test_work_for_a_head_is_bounded(lines: Lines) -> None:
    cookies = lines.get(b"cookie", ())
    for own in (OWN, NAME + b"=" + F):
        assert count_calls({**lines, b"cookie": [*cookies, own]}) < 8_000
        assert count_calls({**lines, b"cookie": [own, *cookies]}) < 8_000
