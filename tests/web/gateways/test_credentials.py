"""Credential sources: what counts as a token of ours, and what is passed over."""

from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.token import TokenText
from sidegate.core.verdict import Deny, Reason
from sidegate.services.validator import Candidates, Presented
from sidegate.web.gateways.authorization import decode_any_basic
from sidegate.web.gateways.credentials import CredentialSources, list_tokens
from sidegate.web.server.header_lines import build_head
from sidegate.web.server.messages import Head
from tests.web.gate.gate_harness import ALICE, BOB, CAROL

SOURCES = CredentialSources()
EVERYWHERE = CredentialSources(header=b"x-session-token")
MISSING, AMBIGUOUS = Deny(Reason.MISSING), Deny(Reason.AMBIGUOUS)
MALFORMED = Deny(Reason.MALFORMED)
A, B, C = (TokenText(token.text.encode("ascii")) for token in (ALICE, BOB, CAROL))
COOKIE = b"__Host-session="


Lines = Mapping[bytes, Sequence[bytes]]


def head_of(lines: Lines, sources: CredentialSources = EVERYWHERE) -> Head:
    """Return a request's head with these lines, stripped like on both HTTP paths."""
    fields = [(name, value.strip(b" \t")) for name in lines for value in lines[name]]
    return build_head(b"GET", b"/auth-request", fields=fields, roles=sources.build_roles())


def read_bearers(*lines: bytes) -> Presented | Deny:
    return SOURCES.read(head_of({b"authorization": lines}))


def read_cookies(*lines: bytes) -> Presented | Deny:
    return SOURCES.read(head_of({b"cookie": lines}))


@pytest.mark.parametrize(
    "line",
    [
        b"Bearer " + A,
        b"bearer " + A,
        b"BEARER " + A,
        b"Bearer    " + A,
        b" \tBearer " + A + b"\t ",
    ],
)
def test_bearer_scheme_is_case_insensitive(line: bytes) -> None:
    assert read_bearers(line) == A


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"Basic YTpi",
        b"Token " + A,
        A,
        b"Bearer" + A,
        b"Bearer: " + A,
        b"Bearer," + A,
        b"Bearer=" + A,
        b"Bearer\x0b" + A,
        b"Bearer\xa0" + A,
        b'"Bearer" ' + A,
        b"\xc2\xa0Bearer " + A,
    ],
)
def test_other_schemes_are_ignored(line: bytes) -> None:
    assert read_bearers(line) == MISSING


@pytest.mark.parametrize(
    "line", [b"Bearer", b"bearer ", b"Bearer \t", b"Bearer\t" + A, b"Bearer \t" + A]
)
def test_scheme_without_blanks_and_a_token_is_malformed(line: bytes) -> None:
    assert read_bearers(line) == MALFORMED


@pytest.mark.parametrize(
    "value", [A + b", Bearer " + B, A + b"," + A, A + b" " + B, b'"' + A + b'"', A + b"|x", b"\xe9"]
)
def test_bearer_value_is_not_parsed(value: bytes) -> None:
    assert read_bearers(b"Bearer " + value) == MALFORMED


@pytest.mark.parametrize(
    "lines",
    [
        (b"Bearer " + A, b"Bearer " + B),
        (b"Bearer " + A, b"Bearer " + A),
        (b"Bearer " + A, b"Bearer"),
        (b"Bearer " + A, b"Basic YTpi"),
        (b"Basic YTpi", b"Digest x"),
    ],
)
def test_two_authorization_lines_are_ambiguous(lines: tuple[bytes, ...]) -> None:
    assert read_bearers(*lines) == read_bearers(*reversed(lines)) == AMBIGUOUS


@pytest.mark.parametrize(
    "line",
    [
        COOKIE + A,
        b"a=1; " + COOKIE + A + b"; b=2",
        b"a=1;" + COOKIE + A + b";b=2",
        b" \t " + COOKIE + A + b" \t ",
        b"=x; " + COOKIE + A,
        b"x; " + COOKIE + A,
        b";; ;" + COOKIE + A + b";",
        b'g_state={"i_l":0}; ' + COOKIE + A,
        b'p="x y"; ' + COOKIE + A,
        b'p=""; ' + COOKIE + A,
        b'p="{"i_l":0}"; ' + COOKIE + A,
        rb'p="\"x\054\\"; ' + COOKIE + A,
        b'p=x"; ' + COOKIE + A,
        b"\xe2\x80\x80" + COOKIE + B + b"; " + COOKIE + A,
        b"\xc2\xa0" + COOKIE + B + b"; " + COOKIE + A,
        b"\x85" + COOKIE + B + b"; " + COOKIE + A,
        b"__host-session=" + B + b"; " + COOKIE + A,
        b"session=" + B + b"; " + COOKIE + A,
        b"__Host-session =" + B + b"; " + COOKIE + A,
        COOKIE + A + b"; " + COOKIE + A,
    ],
)
def test_session_cookie_is_found_among_others(line: bytes) -> None:
    assert read_cookies(line) == read_cookies(b"a=1", line) == A


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"session=" + A,
        b"__host-session=" + A,
        b"__Secure-session=" + A,
        b'"__Host-session"=' + A,
        b"__Host-session = " + A,
        b"\x85" + COOKIE + A,
        b"\x0b" + COOKIE + A,
        b"\xe2\x80\x80" + COOKIE + A,
        b"a=1, " + COOKIE + A,
        b"a=" + COOKIE + A,
    ],
)
def test_other_cookie_names_are_ignored(line: bytes) -> None:
    assert read_cookies(line) == MISSING


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b'"' + A + b'"',
        b'"\\163' + A[1:] + b'"',
        b"%73" + A[1:],
        A + b"," + COOKIE + B,
        b"a=b=c",
        b"!!!",
        b"\xff",
    ],
)
def test_cookie_value_is_not_parsed(value: bytes) -> None:
    assert read_cookies(COOKIE + value) == MALFORMED
    assert read_cookies(COOKIE + value, COOKIE + A) == A


@pytest.mark.parametrize("lines", [(COOKIE + A + b"; " + COOKIE + B,), (COOKIE + A, COOKIE + B)])
def test_different_tokens_in_cookies_are_candidates(lines: tuple[bytes, ...]) -> None:
    assert read_cookies(*lines) == Candidates((), (A, B))


@pytest.mark.parametrize(
    "line",
    [
        COOKIE + A + b"; __Host-session",
        COOKIE + A + b"; " + COOKIE + b'"' + A + b'"',
        COOKIE + b'"' + A + b"; " + COOKIE + A,
        b'p="; ' + COOKIE + A,
        b'm="a; b; ' + COOKIE + A + b"; c",
        COOKIE + A + b'; p="x',
        COOKIE + A + b'; p="x; y"',
        b'p="x; y"; ' + COOKIE + A,
        b'p="x; y"; ' + COOKIE + A + b'; q="z"',
        b'p="x"y"; ' + COOKIE + A,
        rb'p="x"\"; ' + COOKIE + A,
    ],
)
def test_junk_and_quotes_of_other_cookies_are_passed_over(line: bytes) -> None:
    assert read_cookies(line) == A


@pytest.mark.parametrize(
    "line",
    [
        b'$Version=1; p="x; ' + COOKIE + A + b'; y"',
        b'p= "x; ' + COOKIE + A + b'; y"',
        rb'p="x\"; ' + COOKIE + A + b'; y"',
        rb'p="\\"; q="x; ' + COOKIE + A + b'; y"',
        b'p="x; ' + COOKIE + A + b'"',
        b'p="x; ' + COOKIE + b'junk; y"; ' + COOKIE + A,
    ],
)
def test_cookie_between_quotes_is_ambiguous(line: bytes) -> None:
    assert read_cookies(line) == read_cookies(b"a=1", line) == AMBIGUOUS


def test_quotes_on_another_cookie_line_are_ignored() -> None:
    assert read_cookies(b'p="x', COOKIE + A, b'y"') == A


def test_same_token_in_every_source_is_one_credential() -> None:
    lines: Lines = {
        b"authorization": [b"Bearer " + A],
        b"cookie": [COOKIE + A],
        b"x-session-token": [A],
    }

    assert EVERYWHERE.read(head_of(lines)) == A


@pytest.mark.parametrize(
    "lines",
    [
        {b"authorization": [b"Bearer " + A], b"cookie": [COOKIE + B]},
        {b"x-session-token": [A], b"cookie": [COOKIE + B]},
    ],
)
def test_different_tokens_in_two_sources_are_candidates(lines: dict[bytes, list[bytes]]) -> None:
    assert EVERYWHERE.read(head_of(lines)) == Candidates((A,), (B,))


def test_every_token_is_a_candidate() -> None:
    lines: Lines = {
        b"authorization": [b"Bearer " + A],
        b"cookie": [COOKIE + C, COOKIE + B],
        b"x-session-token": [B, b"junk"],
    }
    assert EVERYWHERE.read(head_of(lines)) == Candidates((A, B), (C, B))


@pytest.mark.parametrize(
    "lines",
    [
        {b"authorization": [b"Bearer " + A], b"cookie": [COOKIE + b"junk"]},
        {b"authorization": [b"Bearer eyJhIjoxfQ.e30.c2ln"], b"cookie": [COOKIE + A]},
        {b"authorization": [b"Basic YTpi"], b"cookie": [COOKIE + A]},
        {b"cookie": [COOKIE + A], b"x-session-token": [b""]},
    ],
)
def test_credentials_of_the_application_are_passed_over(lines: dict[bytes, list[bytes]]) -> None:
    assert EVERYWHERE.read(head_of(lines)) == A


def test_disabled_source_is_not_read() -> None:
    lines = {
        b"authorization": [b"Bearer " + A],
        b"cookie": [COOKIE + B],
        b"x-session-token": [b"c"],
    }

    def read_with(sources: CredentialSources) -> Presented | Deny:
        return sources.read(head_of(lines, sources))

    assert read_with(CredentialSources(bearer=True, cookie=None)) == A
    assert read_with(CredentialSources(bearer=False)) == B
    assert read_with(CredentialSources(bearer=False, cookie=None)) == MISSING
    assert read_with(CredentialSources(bearer=False, cookie=b"sid")) == MISSING


# Basic passwords and WebSocket subprotocols

ALL = CredentialSources(header=b"x-session-token", basic=True, websocket_protocol=True)
OFFER = b"sec-websocket-protocol"


def read_all(**lines: Sequence[bytes]) -> Presented | Deny:
    """Return what is read with all sources; the names have `_` for `-`."""
    return ALL.read(head_of({name.replace("_", "-").encode(): lines[name] for name in lines}, ALL))


def basic(user_and_password: bytes) -> bytes:
    return b"Basic " + b64encode(user_and_password)


@pytest.mark.parametrize(
    "value",
    [
        basic(b"ada:" + A),
        basic(b":" + A),
        basic(b"\xe9\xff:" + A),
        basic(A + b":" + A),
        b"basic    " + b64encode(b"ada:" + A),
        b"\t BASIC " + b64encode(b"ada:" + A) + b" \t",
    ],
)
def test_basic_password_is_a_credential(value: bytes) -> None:
    assert read_all(authorization=[value]) == A
    assert EVERYWHERE.read(head_of({b"authorization": [value]})) == MISSING


@pytest.mark.parametrize(
    "value",
    [
        b"Basic",
        b"Basic ",
        basic(b"ada:secret"),
        basic(b"ada"),
        basic(A),
        basic(A + b":"),
        basic(b"ada:x:" + A),
        basic(b"ada:" + A + b"\n"),
        basic(b"ada:" + A)[:-1],
        b"Basic\t" + b64encode(b"ada:" + A),
        b"Basic  " + b64encode(b"ada::" + A),
        b"Basic " + urlsafe_b64encode(b"\xff\xfe\xfd:" + A),
        b"Basic " + b64encode(b"ada:" + A).rstrip(b"="),
        b"Basic " + b64encode(b"ada:" + A) + b"=",
        b"Basic " + b64encode(b"ada:" + A) + b", realm=x",
        b"Basic \xe9",
    ],
)
def test_other_basic_credentials_are_the_applications(value: bytes) -> None:
    assert read_all(authorization=[value]) == MISSING


def test_spare_bits_of_basic_credentials_give_no_second_text() -> None:
    value = basic(b"a:" + A)
    assert value.endswith(b"=")
    assert read_all(authorization=[value]) == A
    last = value[-2:-1]
    changed = value[:-2] + bytes([last[0] + 1]) + b"="
    assert read_all(authorization=[changed]) == MISSING


@pytest.mark.parametrize(
    "lines",
    [
        [b"sidegate, " + A],
        [b"sidegate," + A],
        [b"sidegate\t ,  " + A + b" "],
        [b"sidegate, " + A + b", chat, v2"],
        [b"sidegate", A],
        [b"sidegate, " + A, b"chat"],
        [b"sidegate", A + b", chat"],
        [b"sidegate, " + A + b","],
    ],
)
def test_second_websocket_protocol_after_our_name_is_a_credential(lines: list[bytes]) -> None:
    assert read_all(sec_websocket_protocol=lines) == A
    assert EVERYWHERE.read(head_of({OFFER: lines})) == MISSING


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"sidegate",
        b"chat, sidegate, " + A,
        b"sidegate, chat, " + A,
        b"sidegate, , " + A,
        b", sidegate, " + A,
        b"Sidegate, " + A,
        b"sidegate " + A,
        b"sidegate; " + A,
        b'sidegate, "' + A + b'"',
        b"sidegate, " + A + b"x",
        A,
    ],
)
def test_other_websocket_protocols_are_the_applications(line: bytes) -> None:
    assert read_all(sec_websocket_protocol=[line]) == MISSING


def test_same_token_in_all_sources_is_one_credential() -> None:
    lines: dict[str, list[bytes]] = {
        "authorization": [basic(b"ada:" + A)],
        "cookie": [COOKIE + A],
        "x_session_token": [A],
        "sec_websocket_protocol": [b"sidegate, " + A],
    }
    assert read_all(**lines) == A


def test_tokens_of_all_sources_are_candidates() -> None:
    lines = {
        "authorization": [basic(b"ada:" + A)],
        "cookie": [COOKIE + B],
        "sec_websocket_protocol": [b"sidegate, " + C],
    }
    assert read_all(**lines) == Candidates((A, C), (B,))


def test_bearer_is_no_credential_while_only_basic_is_enabled() -> None:
    sources = CredentialSources(bearer=False, basic=True)
    assert sources.read(head_of({b"authorization": [b"Bearer " + A]}, sources)) == MISSING


# A token that is only a part of a value


def misplace(padding: bytes, *, before: bytes, at: int) -> bytes:
    """Return Basic credentials with padding in the middle."""
    encoded = b64encode(before + A + b":x").rstrip(b"=")
    return b"Basic " + encoded[:at] + padding + encoded[at:]


# What PHP, Node.js, GLib and others read as Base64.
SECOND_TEXTS = [
    misplace(b"==", before=b"user:", at=2),
    misplace(b"=", before=b"user:", at=40),
    misplace(b"-", before=b"user:", at=9),
    misplace(b"_*=", before=b"user:", at=7),
    b"Basic dQ==" + b64encode(b"ser:" + A + b":x"),
    b"Basic " + urlsafe_b64encode(b"\xff\xfe\xfd\xfb\xef:" + A),
    b"Basic " + urlsafe_b64encode(b"\xff\xfe\xfd\xfb\xef:" + A).replace(b"_", b"_="),
    b"Basic " + b64encode(b"ada:" + A) + b"A",
]


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer " + A + b", x",
        b"Bearer " + A + b"x",
        b"Bearer x" + A,
        b"Bearer\t" + A,
        b"Token " + A,
        A,
        b"Basic " + A,
        basic(A + b":"),
        basic(b"ada:" + A + b"x"),
        basic(b"ada:" + A).rstrip(b"="),
        b"Basic\t" + b64encode(b"ada:" + A),
        b"Bearer " + A + b", Bearer " + A,
        *SECOND_TEXTS,
    ],
)
def test_token_within_an_authorization_value_is_embedded(value: bytes) -> None:
    assert read_all(authorization=[value], cookie=[COOKIE + B]) == Candidates((), (B,), (A,))


@pytest.mark.parametrize("line", [A + b",", b"Bearer " + A, A + b"x", A + b"; q=1"])
def test_token_within_the_configured_header_is_embedded(line: bytes) -> None:
    assert read_all(x_session_token=[line], cookie=[COOKIE + A]) == Candidates((), (A,), (A,))
    assert read_all(x_session_token=[B, line]) == Candidates((B,), (), (A,))


@pytest.mark.parametrize(
    "line", [b"chat, " + A, b"sidegate, x, " + A, b"sidegate, " + B + b", x." + A]
)
def test_token_among_other_websocket_protocols_is_embedded(line: bytes) -> None:
    presented = read_all(sec_websocket_protocol=[line], cookie=[COOKIE + B])
    assert isinstance(presented, Candidates)
    assert presented.embedded == (A,)


def test_every_position_is_searched_for_embedded_tokens() -> None:
    overlapping = b"sgw_" + A
    presented = read_all(authorization=[b"Bearer " + overlapping], cookie=[COOKIE + B])
    assert isinstance(presented, Candidates)
    assert presented.embedded == (overlapping[:60], A)


def test_embedded_tokens_are_not_searched_for_without_a_credential() -> None:
    assert read_all(authorization=[b"Token " + A]) == MISSING
    assert read_all(authorization=[b"Bearer " + A + b"x"]) == MALFORMED


def test_too_many_embedded_tokens_are_ambiguous_without_verification() -> None:
    few = b" ".join(b"sgw_" + b"%056d" % number for number in range(32))
    many = few + b" sgw_" + b"x" * 56
    presented = read_all(authorization=[few], cookie=[COOKIE + A])
    assert isinstance(presented, Candidates)
    assert len(presented.embedded) == 32
    assert read_all(authorization=[many], cookie=[COOKIE + A]) == AMBIGUOUS
    # The same text again and again would be searched for again and again.
    assert read_all(authorization=[b"Token " + b"sgw_" * 47], cookie=[COOKIE + A]) == AMBIGUOUS
    assert read_all(authorization=[b"Token " + b"sgw_" * 46], cookie=[COOKIE + A]) == Candidates(
        (), (A,), (TokenText(b"sgw_" * 15),)
    )


# The limits of what is parsed


def number_token(number: int) -> bytes:
    return b"sgw_" + b"%056d" % number


def test_too_many_tokens_are_ambiguous_without_verification() -> None:
    cookies = [COOKIE + number_token(number) for number in range(8)]
    presented = read_all(cookie=cookies)
    assert isinstance(presented, Candidates)
    assert len(presented.cookies) == 8
    assert read_all(cookie=cookies, authorization=[b"Bearer " + A]) == AMBIGUOUS


def test_too_many_session_cookies_are_ambiguous() -> None:
    assert read_cookies(*[COOKIE + A] * 256) == A
    assert read_cookies(*[COOKIE + A] * 257) == AMBIGUOUS
    assert read_cookies((COOKIE + b";") * 256 + COOKIE + A) == AMBIGUOUS
    # Also where the name begins no pair.
    assert read_cookies(b"x__Host-session;" * 256 + COOKIE + A) == AMBIGUOUS


def test_too_many_quoted_cookies_are_ambiguous_beside_the_session_cookie() -> None:
    assert read_cookies(b'a="1"; ' * 256 + COOKIE + A) == A
    assert read_cookies(b'a="1"; ' * 257 + COOKIE + A) == AMBIGUOUS
    assert read_cookies(*[b'a="1"'] * 257, COOKIE + A) == AMBIGUOUS
    assert read_cookies(b'a="1"; ' * 257) == MISSING


@pytest.mark.parametrize("name", ["cookie", "x_session_token", "sec_websocket_protocol"])
def test_more_than_64_kib_of_all_headers_are_ambiguous(name: str) -> None:
    def read_with(size: int) -> Presented | Deny:
        rest = size - len(b"Bearer " + A)
        lines = [b"x" * 20_000, b"x" * (rest - 20_002)]
        return read_all(authorization=[b"Bearer " + A], **{name: lines})

    assert read_with(64 * 1024) == A
    assert read_with(64 * 1024 + 1) == AMBIGUOUS


TOKEN_TEXT = TokenText(ALICE.text.encode("ascii"))


@pytest.mark.parametrize(
    "head",
    [
        Head(b"GET", b"/", bearer=TOKEN_TEXT),
        Head(b"GET", b"/", bearer=TOKEN_TEXT, cookie=b"a=1; session=x"),
        Head(b"GET", b"/", bearer=TOKEN_TEXT, cookie=COOKIE + TOKEN_TEXT),
        Head(b"GET", b"/", bearer=TOKEN_TEXT, cookie=COOKIE),
        Head(b"GET", b"/", bearer=TOKEN_TEXT, session_cookie=TOKEN_TEXT),
        Head(b"GET", b"/", bearer=TOKEN_TEXT, token=b""),
        Head(b"GET", b"/", authorization=b"bearer " + TOKEN_TEXT),
        Head(b"GET", b"/", authorization=b"Basic YTpi", cookie=COOKIE + TOKEN_TEXT),
        Head(b"GET", b"/", token=TOKEN_TEXT + b"\r\n" + TOKEN_TEXT),
    ],
)
def test_token_text_is_read_from_every_form_of_head(head: Head) -> None:
    assert EVERYWHERE.read(head) == TOKEN_TEXT


@pytest.mark.parametrize(
    "value", [b"", b"junk", TOKEN_TEXT + b"x", TOKEN_TEXT[:-1], b"\xff" + TOKEN_TEXT[1:]]
)
def test_credential_not_in_the_token_format_is_malformed(value: bytes) -> None:
    head = Head(b"GET", b"/", cookie=COOKIE + value)

    assert EVERYWHERE.read(head) == MALFORMED


# Random bytes would hardly ever match the grammar: they are mixed with its words.
words = st.sampled_from(
    [
        b"Bearer", b"bearer ", b"Basic ", b"__Host-session", COOKIE, A, B, b"=", b";", b"; ", b",",
        b" ", b"\t", b'"', b"\\", b"\xe2\x80\x80", b"\x85", urlsafe_b64encode(A), b"sidegate",
        b"sidegate, " + A, b64encode(b"ada:" + A), b"Basic " + b64encode(b":" + B), b":", b"sgw_",
    ]
)  # fmt: skip
no_line_end = st.binary(max_size=4).filter(lambda text: b"\r" not in text and b"\n" not in text)
texts = st.lists(st.one_of(words, no_line_end), max_size=8).map(b"".join)
lines_of_all = st.fixed_dictionaries(
    {
        b"authorization": st.lists(texts, max_size=3),
        b"cookie": st.lists(texts, max_size=3),
        b"x-session-token": st.lists(texts, max_size=2),
        b"sec-websocket-protocol": st.lists(texts, max_size=2),
    }
)


@given(lines_of_all)
def test_credential_is_a_literal_part_of_the_lines(lines: Lines) -> None:
    credential = ALL.read(head_of(lines, ALL))

    forms = [lines[name] for name in lines]
    forms += map(decode_any_basic, lines[b"authorization"])
    for token in list_tokens(credential):
        assert any(bytes(token) in line for each in forms for line in each)
    if isinstance(credential, Deny):
        assert credential in (MISSING, MALFORMED, AMBIGUOUS)


@given(lines_of_all, st.randoms(use_true_random=False))
def test_order_of_lines_does_not_matter(lines: Lines, random: Random) -> None:
    shuffled = {name: random.sample(values, len(values)) for name, values in lines.items()}
    shuffled[OFFER] = list(lines[OFFER])  # the parts of one list, in their order
    before, after = (ALL.read(head_of(each, ALL)) for each in (lines, shuffled))

    assert set(list_tokens(after)) == set(list_tokens(before))
    assert isinstance(after, Deny) is isinstance(before, Deny)


@given(lines_of_all, st.sampled_from([b"cookie", b"x-session-token"]))
def test_one_more_token_is_one_more_candidate(lines: Lines, source: bytes) -> None:
    another = {b"cookie": COOKIE + C}.get(source, C)
    before = ALL.read(head_of(lines, ALL))

    after = ALL.read(head_of({**lines, source: [*lines[source], another]}, ALL))

    if before == AMBIGUOUS:
        assert after == AMBIGUOUS
    else:
        assert set(list_tokens(after)) == {*list_tokens(before), C}
