"""Tokens: exactly one spelling each, and none that was not minted here."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.session_type import SessionType
from sidegate.core.token import TOKEN_PATTERN, KeyRing, Token, TokenKey, token_text_of
from sidegate.core.verdict import Deny, Reason

KEY = TokenKey(7, bytes(range(32)))
RING = KeyRing([KEY])

types = st.sampled_from(SessionType)
randoms = st.binary(min_size=32, max_size=32)
ALPHABET = string.ascii_letters + string.digits + "-_"


def minted(type_: SessionType, random: bytes) -> Token:
    return RING.mint(type_, random=lambda _: random)


@given(types, randoms)
def test_a_minted_token_is_read_back_as_itself(type_: SessionType, random: bytes) -> None:
    token = minted(type_, random)
    assert RING.read(token.text) == token


@given(types, randoms)
def test_a_token_has_sixty_visible_characters(type_: SessionType, random: bytes) -> None:
    text = minted(type_, random).text
    assert len(text) == 60
    assert set(text) <= set(ALPHABET)


@given(types, randoms, st.integers(0, 59), st.sampled_from(ALPHABET + "=+/ .é\x00\n"))
def test_any_one_changed_character_is_refused(
    type_: SessionType, random: bytes, place: int, other: str
) -> None:
    text = minted(type_, random).text
    changed = text[:place] + other + text[place + 1 :]
    if changed != text:
        assert isinstance(RING.read(changed), Deny)


@given(types, randoms, st.text(max_size=4), st.text(max_size=4))
def test_nothing_may_stand_before_or_behind_a_token(
    type_: SessionType, random: bytes, before: str, behind: str
) -> None:
    if before or behind:
        text = before + minted(type_, random).text + behind
        assert RING.read(text) == Deny(Reason.MALFORMED)


@given(st.text())
def test_no_text_is_read_as_a_token_unless_it_was_minted(text: str) -> None:
    assert isinstance(RING.read(text), Deny)


@given(types, randoms)
def test_a_token_of_another_ring_is_forged(type_: SessionType, random: bytes) -> None:
    stranger = KeyRing([TokenKey(7, bytes(32))])
    assert RING.read(stranger.mint(type_, random=lambda _: random).text) == Deny(Reason.FORGED)


@given(types, types, randoms)
def test_a_token_cannot_pass_as_another_type(
    issued: SessionType, claimed: SessionType, random: bytes
) -> None:
    text = minted(issued, random).text
    relabelled = f"sg{claimed.letter}{text[3:]}"
    if issued is not claimed:
        assert RING.read(relabelled) == Deny(Reason.FORGED)


def test_the_newest_key_mints_and_the_old_ones_still_read() -> None:
    old, new = TokenKey(1, bytes(32)), TokenKey(2, bytes(range(32)))
    before, after = KeyRing([old]), KeyRing([new, old])
    assert isinstance(after.read(before.mint(SessionType.WEB).text), Token)
    assert before.read(after.mint(SessionType.WEB).text) == Deny(Reason.FORGED)


def test_a_million_tokens_are_distinct() -> None:
    many = {hash(RING.mint(SessionType.WEB).digest()) for _ in range(1_000_000)}
    assert len(many) == 1_000_000  # of 64-bit hashes two are the same in one of 37 million runs


@given(st.text() | st.builds(lambda type_, random: minted(type_, random).text, types, randoms))
def test_whoever_needs_the_digest_only_is_told_what_read_tells(text: str) -> None:
    token = RING.read(text)

    assert RING.digest(text) == (token.digest() if isinstance(token, Token) else token)


@given(
    st.text(ALPHABET, max_size=70)
    | st.from_regex(TOKEN_PATTERN.decode(), fullmatch=True)
    | st.text()
)
def test_only_what_is_spelled_like_a_token_has_a_spelling(text: str) -> None:
    spelling = token_text_of(text)

    assert (spelling is None) == (RING.read(text) == Deny(Reason.MALFORMED))
    if spelling is not None:
        assert spelling.decode() == text
        assert RING.digest_of(spelling) == RING.digest(text)


@given(types, randoms)
def test_the_digest_is_the_tokens_and_nobody_elses(type_: SessionType, random: bytes) -> None:
    token = minted(type_, random)
    digest = token.digest()
    assert len(digest) == 32
    other = minted(type_, bytes([random[0] ^ 1]) + random[1:])
    assert other.digest() != digest


@given(types, randoms)
def test_no_way_of_printing_a_token_shows_it(type_: SessionType, random: bytes) -> None:
    token = minted(type_, random)
    shown = f"{token} {token!r} {token!s} {[token]} {(token,)!r}"
    assert token.text not in shown
    assert token.text[4:] not in shown


def test_a_key_hides_its_secret_and_spells_it_only_on_request() -> None:
    assert "AAEC" not in repr(KEY)
    assert "AAEC" in KEY.formatted()
    assert TokenKey.parse(KEY.formatted()) == KEY


@pytest.mark.parametrize(
    "text",
    ["", "1", "1:", ":abc", "1:short"]
    + [f"{key_id}:{'A' * 43}" for key_id in ("x", "256", "-1", "²", "")]
    + [f"1:{secret}" for secret in ("A" * 44, "A" * 42 + "+", "A" * 43 + "==")],
)
def test_a_misspelled_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="token key"):
        TokenKey.parse(text)


def test_a_ring_needs_keys_with_ids_of_their_own() -> None:
    with pytest.raises(ValueError, match="at least one"):
        KeyRing([])
    with pytest.raises(ValueError, match="share an id"):
        KeyRing([KEY, TokenKey(7, bytes(32))])
