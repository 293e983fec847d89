"""Head templates: a head is parsed the same with and without a cached template."""

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
from tests.web.gate.gate_harness import ALICE, BOB, bearer, build_request, cookie

GATEWAY = AuthRequest(GatewayPolicy())
PLAIN = GatewayPolicy().sources.plain_forms
GRAMMAR = Grammar(GATEWAY.route, GATEWAY.roles, plain=PLAIN)


class CountingGrammar(Grammar):
    """Counts the matches of the full pattern."""

    full_matches = 0

    def __init__(self) -> None:
        super().__init__(GATEWAY.route, GATEWAY.roles, plain=PLAIN)
        self.head_pattern = self  # type: ignore[assignment]  # replaces its own pattern

    def fullmatch(self, data: bytes) -> "re.Match[bytes] | None":
        self.full_matches += 1
        return GRAMMAR.head_pattern.fullmatch(data)


def test_template_is_added_once_and_reused() -> None:
    grammar = CountingGrammar()
    templates = HeadTemplates(grammar, sampling_interval=1)

    parsed = [
        templates.parse(build_request(cookie(token), b"X-Real-IP: 192.0.2.%d" % number))
        for number, token in enumerate((ALICE, BOB) * 5)
    ]

    assert grammar.full_matches == 1
    assert [head.session_cookie for head in parsed if head] == [
        t.text.encode() for t in (ALICE, BOB) * 5
    ]


def test_template_changes_only_at_the_sampling_interval() -> None:
    grammar = CountingGrammar()
    templates = HeadTemplates(grammar, sampling_interval=8)
    for _ in range(8):
        assert templates.parse(build_request(b"X: 1")) is not None
    assert grammar.full_matches == 8

    for _ in range(8):
        assert templates.parse(build_request(b"X: 2")) is not None

    assert grammar.full_matches == 8


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[bytes]]:
    """The header names of each compiled template."""
    compiled: list[Sequence[bytes]] = []
    original = sidegate.web.server.head_templates.compile_template

    def recording(names: Sequence[bytes], grammar: Grammar) -> Any:
        compiled.append(names)
        return original(names, grammar)

    monkeypatch.setattr(sidegate.web.server.head_templates, "compile_template", recording)
    return compiled


def test_new_header_names_add_templates_ever_more_rarely(
    compiled: list[Sequence[bytes]],
) -> None:
    templates = HeadTemplates(GRAMMAR, max_templates=3, sampling_interval=1)
    for number in range(1000):
        assert templates.parse(build_request(b"X-%d: 1" % number)) is not None
    assert len(compiled) <= 3 + 10


def test_oldest_template_is_evicted(compiled: list[Sequence[bytes]]) -> None:
    templates = HeadTemplates(GRAMMAR, max_templates=2, sampling_interval=1)
    for name in (b"A", b"B", b"C", b"B"):
        templates.parse(build_request(name + b": 1"))
        templates.parse(
            build_request(name + b": 1")
        )  # after one eviction, every second head counts
    assert [names[-1] for names in compiled] == [b"A", b"B", b"C"]
    for _ in range(4):
        templates.parse(build_request(b"A: 1"))
    assert [names[-1] for names in compiled] == [b"A", b"B", b"C", b"A"]


def test_very_long_names_add_no_template(compiled: list[Sequence[bytes]]) -> None:
    templates = HeadTemplates(GRAMMAR, sampling_interval=1)
    for _ in range(3):
        assert templates.parse(build_request(*(b"X-%0300d: 1" % n for n in range(150)))) is not None
    assert compiled == []


@pytest.mark.parametrize("times", [1, 3])
def test_head_beyond_the_size_limit_is_not_plain(times: int) -> None:
    """Otherwise a cookie line could pass that is too cookies for aiohttp."""
    cookies = b"; ".join(b"c%d=%s" % (n, b"x" * 15_000) for n in range(5))
    templates = HeadTemplates(GRAMMAR, sampling_interval=1)
    for _ in range(times):
        assert templates.parse(build_request(b"Cookie: a=1")) is not None
    assert templates.parse(build_request(b"Cookie: " + cookies)) is None
    assert templates.parse_first(build_request(b"Cookie: " + cookies)) is None


@pytest.mark.parametrize("suffix", [b"\0", b"G", b"\r\n", b" "])
def test_bytes_after_a_head_are_not_ignored_by_its_template(suffix: bytes) -> None:
    templates = HeadTemplates(GRAMMAR, sampling_interval=1)
    raw = build_request(bearer(ALICE))
    for _ in range(3):
        assert templates.parse(raw) is not None
    assert templates.parse(raw + suffix) is None


def test_two_session_cookie_lines_are_not_plain() -> None:
    templates = HeadTemplates(GRAMMAR, sampling_interval=1)
    other_cookies = build_request(b"Cookie: a=1", b"Cookie: b=2")
    for _ in range(3):
        assert templates.parse(other_cookies) is not None

    for lines in permutations((cookie(ALICE), cookie(BOB))):
        assert templates.parse(build_request(*lines)) is None


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
    lambda lines, version: build_request(*lines).replace(b"HTTP/1.1", version),
    st.lists(st.sampled_from(LINES), max_size=6),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2"]),
)


@given(st.lists(heads, min_size=1, max_size=30))
def test_templates_parse_every_head_like_the_grammar(raws: list[bytes]) -> None:
    templates = HeadTemplates(GRAMMAR, max_templates=5, sampling_interval=1)
    for raw in [*raws, *raws]:
        match = GRAMMAR.head_pattern.fullmatch(raw)

        assert templates.parse(raw) == (None if match is None else match.groups())


@pytest.mark.parametrize("suffix", [b"", b"G", build_request(), b"\r\n"])
def test_first_of_several_heads_is_found_with_its_end(suffix: bytes) -> None:
    raw = build_request(bearer(ALICE))

    found = HeadTemplates(GRAMMAR).parse_first(raw + suffix)

    assert found is not None
    assert (found[0].bearer, found[1]) == (ALICE.text.encode(), len(raw))
    assert HeadTemplates(GRAMMAR).parse(raw + suffix) is None or suffix == b""
