"""Forms: a head is read the same whether its form was met before or not."""

import re
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sidegate.web.server.head_templates
from sidegate.web.gateways.auth_request import AuthRequest
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.grammar import Grammar
from sidegate.web.server.head_templates import HeadTemplates
from tests.web.gate.gate_rig import ALICE, BOB, bearer, cookie, request

GATEWAY = AuthRequest(GatewayPolicy())
GRAMMAR = Grammar(GATEWAY.route, GATEWAY.roles, b"__Host-session")


class Counting(Grammar):
    """Counts how often every line is tried against every header."""

    slow = 0

    def __init__(self) -> None:
        super().__init__(GATEWAY.route, GATEWAY.roles, b"__Host-session")
        self.any_head = self  # type: ignore[assignment]  # it stands in for its own expression

    def fullmatch(self, data: bytes) -> "re.Match[bytes] | None":
        self.slow += 1
        return GRAMMAR.any_head.fullmatch(data)


def test_a_form_is_met_once_and_then_known() -> None:
    grammar = Counting()
    forms = HeadTemplates(grammar, learn_every=1)

    users = [
        forms.read(request(cookie(token), b"X-Real-IP: 192.0.2.%d" % number))
        for number, token in enumerate((ALICE, BOB) * 5)
    ]

    assert grammar.slow == 1
    assert [head.ours for head in users if head] == [t.text.encode() for t in (ALICE, BOB) * 5]


def test_of_heads_in_many_forms_only_some_are_learnt_from() -> None:
    grammar = Counting()
    forms = HeadTemplates(grammar, learn_every=8)
    for _ in range(8):
        assert forms.read(request(b"X: 1")) is not None
    assert grammar.slow == 8

    for _ in range(8):
        assert forms.read(request(b"X: 2")) is not None

    assert grammar.slow == 8


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[bytes]]:
    """The names of each form that was made."""
    made: list[Sequence[bytes]] = []
    make = sidegate.web.server.head_templates.form_of

    def noting(names: Sequence[bytes], grammar: Grammar) -> Any:
        made.append(names)
        return make(names, grammar)

    monkeypatch.setattr(sidegate.web.server.head_templates, "form_of", noting)
    return made


def test_a_client_who_invents_headers_makes_us_learn_less_and_less(
    made: list[Sequence[bytes]],
) -> None:
    forms = HeadTemplates(GRAMMAR, most=3, learn_every=1)
    for number in range(1000):
        assert forms.read(request(b"X-%d: 1" % number)) is not None
    assert len(made) <= 3 + 10


def test_the_oldest_form_makes_room_for_another(made: list[Sequence[bytes]]) -> None:
    forms = HeadTemplates(GRAMMAR, most=2, learn_every=1)
    for name in (b"A", b"B", b"C", b"B"):
        forms.read(request(name + b": 1"))
        forms.read(request(name + b": 1"))  # from the third on every second is learnt from
    assert [names[-1] for names in made] == [b"A", b"B", b"C"]
    for _ in range(4):
        forms.read(request(b"A: 1"))
    assert [names[-1] for names in made] == [b"A", b"B", b"C", b"A"]


def test_from_a_head_with_very_many_names_nothing_is_learnt(made: list[Sequence[bytes]]) -> None:
    forms = HeadTemplates(GRAMMAR, learn_every=1)
    for _ in range(3):
        assert forms.read(request(*(b"X-%0300d: 1" % n for n in range(150)))) is not None
    assert made == []


@pytest.mark.parametrize("times", [1, 3])
def test_a_plain_head_is_not_as_long_as_a_field_may_be(times: int) -> None:
    """Else a line of several cookies passes that aiohttp finds too long."""
    long = b"; ".join(b"c%d=%s" % (n, b"x" * 15_000) for n in range(5))
    forms = HeadTemplates(GRAMMAR, learn_every=1)
    for _ in range(times):
        assert forms.read(request(b"Cookie: a=1")) is not None
    assert forms.read(request(b"Cookie: " + long)) is None
    assert forms.first(request(b"Cookie: " + long)) is None


@pytest.mark.parametrize("behind", [b"\0", b"G", b"\r\n", b" "])
def test_nothing_behind_a_head_in_a_known_form_is_overlooked(behind: bytes) -> None:
    forms = HeadTemplates(GRAMMAR, learn_every=1)
    raw = request(bearer(ALICE))
    for _ in range(3):
        assert forms.read(raw) is not None
    assert forms.read(raw + behind) is None


def test_of_two_cookie_lines_neither_is_lost() -> None:
    forms = HeadTemplates(GRAMMAR, learn_every=1)
    nobodys = request(b"Cookie: a=1", b"Cookie: b=2")
    for _ in range(3):
        assert forms.read(nobodys) is not None

    for lines in permutations((cookie(ALICE), cookie(BOB))):
        assert forms.read(request(*lines)) is None


LINES = (
    cookie(ALICE),
    cookie(b"junk"),
    b"Cookie: a=1",
    b'Cookie: a="1"; __Host-session=x',
    bearer(BOB),
    b"Authorization: Basic x",
    b"authorization:Bearer  x",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Content-Length: 0",
    b"Content-Length: 1",
    b"ETag: x",
    b"Server: x",
    b"X-Real-IP: 192.0.2.1",
    b"x-real-ip:192.0.2.2  ",
    b"User-Agent: curl/8",
    b"Accept: */*",
    b"Accept: \x7f",
    b"X:",
    b"Upgrade: x",
)
heads = st.builds(
    lambda lines, version: request(*lines).replace(b"HTTP/1.1", version),
    st.lists(st.sampled_from(LINES), max_size=6),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2"]),
)


@given(st.lists(heads, min_size=1, max_size=30))
def test_whatever_was_met_before_a_head_is_read_as_the_grammar_reads_it(raws: list[bytes]) -> None:
    forms = HeadTemplates(GRAMMAR, most=5, learn_every=1)
    for raw in [*raws, *raws]:
        whole = GRAMMAR.any_head.fullmatch(raw)

        assert forms.read(raw) == (None if whole is None else whole.groups())


@pytest.mark.parametrize("behind", [b"", b"G", request(), b"\r\n"])
def test_the_first_of_several_is_found_with_its_end(behind: bytes) -> None:
    raw = request(bearer(ALICE))

    found = HeadTemplates(GRAMMAR).first(raw + behind)

    assert found is not None
    assert (found[0].bearer, found[1]) == (ALICE.text.encode(), len(raw))
    assert HeadTemplates(GRAMMAR).read(raw + behind) is None or behind == b""
