"""Where a credential may stand, and that nobody ever picks among two."""

from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.token import TokenText
from sidegate.core.verdict import Deny, Reason
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.server.header_lines import gather
from sidegate.web.server.messages import Head
from tests.web.gate.gate_rig import ALICE

SOURCES = CredentialSources()
EVERYWHERE = CredentialSources(header=b"x-session-token")
MISSING, AMBIGUOUS = Deny(Reason.MISSING), Deny(Reason.AMBIGUOUS)
A, B = b"sgw_alice", b"sgw_bob"
OURS = b"__Host-session="


Lines = Mapping[bytes, Sequence[bytes]]


def a_head(lines: Lines, sources: CredentialSources = EVERYWHERE) -> Head:
    """Return the head of a request with these lines, as a lane hands it on: blanks taken off."""
    fields = [(name, value.strip(b" \t")) for name in lines for value in lines[name]]
    return gather(b"GET", b"/auth-request", fields, sources.roles())


def bearers(*lines: bytes) -> str | Deny:
    return SOURCES.read(a_head({b"authorization": lines}))


def cookies(*lines: bytes) -> str | Deny:
    return SOURCES.read(a_head({b"cookie": lines}))


@pytest.mark.parametrize(
    "line",
    [
        b"Bearer " + A,
        b"bearer " + A,
        b"BEARER " + A,
        b"Bearer    " + A,
        b"Bearer \t " + A,
        b" \tBearer " + A + b"\t ",
    ],
)
def test_a_bearer_token_is_read_whatever_the_case_of_its_scheme(line: bytes) -> None:
    assert bearers(line) == "sgw_alice"


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
def test_another_scheme_is_no_credential_of_ours(line: bytes) -> None:
    assert bearers(line) == MISSING
    assert bearers(line, b"Bearer " + A) == "sgw_alice"


@pytest.mark.parametrize("line", [b"Bearer", b"bearer ", b"Bearer \t"])
def test_a_scheme_without_a_token_is_a_presented_and_empty_one(line: bytes) -> None:
    assert bearers(line) == ""


@pytest.mark.parametrize(
    "value", [A + b", Bearer " + B, A + b"," + A, A + b" " + B, b'"' + A + b'"', A + b"|x", b"\xe9"]
)
def test_a_bearer_value_is_told_whole_and_as_it_is(value: bytes) -> None:
    assert bearers(b"Bearer " + value) == value.decode("latin-1")


@pytest.mark.parametrize(
    "lines",
    [
        (b"Bearer " + A, b"Bearer " + B),
        (b"Bearer " + A, b"Bearer"),
        (b"Bearer " + A, b"Bearer\t" + B),
        (b"Bearer " + A, b"bearer " + A + b"x"),
    ],
)
def test_two_different_bearers_are_ambiguous(lines: tuple[bytes, ...]) -> None:
    assert bearers(*lines) == bearers(*reversed(lines)) == AMBIGUOUS


@pytest.mark.parametrize(
    "line",
    [
        OURS + A,
        b"a=1; " + OURS + A + b"; b=2",
        b"a=1;" + OURS + A + b";b=2",
        b" \t " + OURS + A + b" \t ",
        b"=x; " + OURS + A,
        b"x; " + OURS + A,
        b";; ;" + OURS + A + b";",
        b'g_state={"i_l":0}; ' + OURS + A,
        b'p="x y"; ' + OURS + A,
        b'p=""; ' + OURS + A,
        b'p="{"i_l":0}"; ' + OURS + A,
        rb'p="\"x\054\\"; ' + OURS + A,
        b'p=x"; ' + OURS + A,
        b"\xe2\x80\x80" + OURS + B + b"; " + OURS + A,
        b"\xc2\xa0" + OURS + B + b"; " + OURS + A,
        b"\x85" + OURS + B + b"; " + OURS + A,
        b"__host-session=" + B + b"; " + OURS + A,
        b"session=" + B + b"; " + OURS + A,
        b"__Host-session =" + B + b"; " + OURS + A,
        OURS + A + b"; " + OURS + A,
    ],
)
def test_our_cookie_is_found_among_others(line: bytes) -> None:
    assert cookies(line) == cookies(b"a=1", line) == "sgw_alice"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"session=" + A,
        b"__host-session=" + A,
        b"__Secure-session=" + A,
        b'"__Host-session"=' + A,
        b"__Host-session = " + A,
        b"\x85" + OURS + A,
        b"\x0b" + OURS + A,
        b"\xe2\x80\x80" + OURS + A,
        b"a=1, " + OURS + A,
        b"a=" + OURS + A,
    ],
)
def test_another_name_is_another_cookie(line: bytes) -> None:
    assert cookies(line) == MISSING


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b'"' + A + b'"',
        b'"\\163gw_alice"',
        b"%73gw_alice",
        A + b"," + OURS + B,
        b"a=b=c",
        b"!!!",
        b"\xff",
    ],
)
def test_a_cookies_value_is_told_as_it_is(value: bytes) -> None:
    assert cookies(OURS + value) == value.decode("latin-1")


@pytest.mark.parametrize(
    "lines",
    [
        (OURS + A + b"; " + OURS + B,),
        (OURS + A, OURS + B),
        (OURS + A + b"; __Host-session",),
        (OURS + A + b"; " + OURS + b'"' + A + b'"',),
        (b'$Version=1; p="x; ' + OURS + A + b'; y"',),
        (rb'p="x\"; ' + OURS + A + b'; y"',),
        (b'p="x"y"; ' + OURS + A,),
        (b'p="x"y; ' + OURS + A,),
        (rb'p="x"\"; ' + OURS + A,),
        (b'p="; ' + OURS + A,),
        (OURS + A + b'; p="x',),
        (OURS + b'"' + A,),
    ],
)
def test_two_different_cookies_or_an_open_quote_are_ambiguous(lines: tuple[bytes, ...]) -> None:
    assert cookies(*lines) == cookies(*reversed(lines)) == AMBIGUOUS


def test_a_quote_left_open_where_our_cookie_is_not_harms_nobody() -> None:
    assert cookies(b'p="x', OURS + A) == "sgw_alice"


def test_the_same_token_in_every_source_is_one_credential() -> None:
    lines = {b"authorization": [b"Bearer " + A], b"cookie": [OURS + A], b"x-session-token": [A]}

    assert EVERYWHERE.read(a_head(lines)) == "sgw_alice"


@pytest.mark.parametrize(
    "lines",
    [
        {b"authorization": [b"Bearer " + A], b"cookie": [OURS + B]},
        {b"authorization": [b"Bearer " + B], b"x-session-token": [A]},
        {b"cookie": [OURS + A], b"x-session-token": [b""]},
        {b"x-session-token": [A, B]},
    ],
)
def test_two_sources_that_differ_are_ambiguous(lines: dict[bytes, list[bytes]]) -> None:
    assert EVERYWHERE.read(a_head(lines)) == AMBIGUOUS


def test_a_source_that_is_switched_off_is_not_read() -> None:
    lines = {b"authorization": [b"Bearer " + A], b"cookie": [OURS + B], b"x-session-token": [b"c"]}

    def told(sources: CredentialSources) -> str | Deny:
        return sources.read(a_head(lines, sources))

    assert told(CredentialSources(bearer=True, cookie=None)) == "sgw_alice"
    assert told(CredentialSources(bearer=False)) == "sgw_bob"
    assert told(CredentialSources(bearer=False, cookie=None)) == MISSING
    assert told(CredentialSources(bearer=False, cookie=b"sid")) == MISSING


ALICES = TokenText(ALICE.text.encode("ascii"))


@pytest.mark.parametrize(
    "head",
    [
        Head(b"GET", b"/", bearer=ALICES),
        Head(b"GET", b"/", bearer=ALICES, cookie=b"a=1; session=x"),
        Head(b"GET", b"/", bearer=ALICES, cookie=OURS + ALICES),
        Head(b"GET", b"/", authorization=b"bearer " + ALICES),
        Head(b"GET", b"/", authorization=b"Basic YTpi", cookie=OURS + ALICES),
        Head(b"GET", b"/", token=ALICES + b"\r\n" + ALICES),
    ],
)
def test_whatever_a_lane_has_found_out_already_one_credential_is_spelled(head: Head) -> None:
    assert EVERYWHERE.read(head) == ALICE.text
    assert EVERYWHERE.token_text(head) == ALICES


@pytest.mark.parametrize(
    "head",
    [
        Head(b"GET", b"/", bearer=ALICES, cookie=OURS + B),
        Head(b"GET", b"/", bearer=ALICES, cookie=OURS),
        Head(b"GET", b"/", bearer=ALICES, token=b""),
    ],
)
def test_a_spelled_bearer_is_not_picked_among_two(head: Head) -> None:
    assert EVERYWHERE.token_text(head) == EVERYWHERE.read(head) == AMBIGUOUS


@pytest.mark.parametrize("value", [b"", b"junk", ALICES + b"x", ALICES[:-1], b"\xff" + ALICES[1:]])
def test_what_is_not_spelled_like_a_token_is_malformed(value: bytes) -> None:
    head = Head(b"GET", b"/", cookie=OURS + value)

    assert EVERYWHERE.token_text(head) == Deny(Reason.MALFORMED)


# Any bytes at all would nearly never hit the grammar: they are strewn with the words that matter.
words = st.sampled_from(
    [
        b"Bearer", b"bearer ", b"Basic ", b"__Host-session", OURS, A, B, b"=", b";", b"; ", b",",
        b" ", b"\t", b'"', b"\\", b"\xe2\x80\x80", b"\x85", urlsafe_b64encode(A),
    ]
)  # fmt: skip
no_line_end = st.binary(max_size=4).filter(lambda text: b"\r" not in text and b"\n" not in text)
texts = st.lists(st.one_of(words, no_line_end), max_size=8).map(b"".join)
lines_of_all = st.fixed_dictionaries(
    {
        b"authorization": st.lists(texts, max_size=3),
        b"cookie": st.lists(texts, max_size=3),
        b"x-session-token": st.lists(texts, max_size=2),
    }
)


@given(lines_of_all)
def test_what_is_told_stood_there_literally(lines: Lines) -> None:
    told = EVERYWHERE.read(a_head(lines))

    if isinstance(told, str):
        assert any(told.encode("latin-1") in line for each in lines.values() for line in each)
    else:
        assert told in (MISSING, AMBIGUOUS)


@given(lines_of_all, st.randoms(use_true_random=False))
def test_the_order_of_lines_never_decides(lines: Lines, random: Random) -> None:
    shuffled = {name: random.sample(values, len(values)) for name, values in lines.items()}

    assert EVERYWHERE.read(a_head(shuffled)) == EVERYWHERE.read(a_head(lines))


@given(lines_of_all, st.sampled_from([b"authorization", b"cookie", b"x-session-token"]))
def test_one_more_credential_makes_any_other_ambiguous(lines: Lines, source: bytes) -> None:
    another = {b"authorization": b"Bearer another", b"cookie": OURS + b"another"}.get(
        source, b"another"
    )
    before = EVERYWHERE.read(a_head(lines))

    after = EVERYWHERE.read(a_head({**lines, source: [*lines[source], another]}))

    assert after == ("another" if before in (MISSING, "another") else AMBIGUOUS)
