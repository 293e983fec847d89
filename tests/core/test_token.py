"""Tokens: one text each, and none accepted that was not minted with a key of the ring."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.session_type import SessionType
from sidegate.core.token import TOKEN_PATTERN, KeyRing, Token, TokenKey, parse_token_text
from sidegate.core.verdict import Deny, Reason

KEY = TokenKey(7, bytes(range(32)))
RING = KeyRing([KEY])

types = st.sampled_from(SessionType)
randoms = st.binary(min_size=32, max_size=32)
ALPHABET = string.ascii_letters + string.digits + "-_"


def mint(type_: SessionType, random: bytes) -> Token:
    return RING.mint(type_, random=lambda _: random)


@given(types, randoms)
def test_minted_token_is_parsed_to_itself(type_: SessionType, random: bytes) -> None:
    token = mint(type_, random)
    assert RING.parse(token.text) == token


@given(types, randoms)
def test_token_has_sixty_characters_of_the_alphabet(type_: SessionType, random: bytes) -> None:
    text = mint(type_, random).text
    assert len(text) == 60
    assert set(text) <= set(ALPHABET)


@given(types, randoms, st.integers(0, 59), st.sampled_from(ALPHABET + "=+/ .é\x00\n"))
def test_token_with_one_changed_character_is_denied(
    type_: SessionType, random: bytes, position: int, other: str
) -> None:
    text = mint(type_, random).text
    changed = text[:position] + other + text[position + 1 :]
    if changed != text:
        assert isinstance(RING.parse(changed), Deny)


@given(types, randoms, st.text(max_size=4), st.text(max_size=4))
def test_text_before_or_after_a_token_is_malformed(
    type_: SessionType, random: bytes, before: str, after: str
) -> None:
    if before or after:
        text = before + mint(type_, random).text + after
        assert RING.parse(text) == Deny(Reason.MALFORMED)


@given(st.text())
def test_arbitrary_text_is_denied(text: str) -> None:
    assert isinstance(RING.parse(text), Deny)


@given(types, randoms)
def test_token_of_another_ring_is_forged(type_: SessionType, random: bytes) -> None:
    other_ring = KeyRing([TokenKey(7, bytes(32))])
    assert RING.parse(other_ring.mint(type_, random=lambda _: random).text) == Deny(Reason.FORGED)


@given(types, types, randoms)
def test_token_with_changed_type_is_forged(
    issued: SessionType, relabelled_type: SessionType, random: bytes
) -> None:
    text = mint(issued, random).text
    relabelled = f"sg{relabelled_type.letter}{text[3:]}"
    if issued is not relabelled_type:
        assert RING.parse(relabelled) == Deny(Reason.FORGED)


def test_newest_key_mints_and_old_keys_verify() -> None:
    old, new = TokenKey(1, bytes(32)), TokenKey(2, bytes(range(32)))
    before, after = KeyRing([old]), KeyRing([new, old])
    assert isinstance(after.parse(before.mint(SessionType.WEB).text), Token)
    assert before.parse(after.mint(SessionType.WEB).text) == Deny(Reason.FORGED)


def test_million_tokens_are_distinct() -> None:
    many = {hash(RING.mint(SessionType.WEB).digest()) for _ in range(1_000_000)}
    assert len(many) == 1_000_000  # 64-bit hashes collide in one of 37 million runs


@given(st.text() | st.builds(lambda type_, random: mint(type_, random).text, types, randoms))
def test_parse_digest_agrees_with_parse(text: str) -> None:
    token = RING.parse(text)

    assert RING.parse_digest(text) == (token.digest() if isinstance(token, Token) else token)


@given(
    st.text(ALPHABET, max_size=70)
    | st.from_regex(TOKEN_PATTERN.decode(), fullmatch=True)
    | st.text()
)
def test_token_text_exists_unless_the_text_is_malformed(text: str) -> None:
    token_text = parse_token_text(text)

    assert (token_text is None) == (RING.parse(text) == Deny(Reason.MALFORMED))
    if token_text is not None:
        assert token_text.decode() == text
        assert RING.verify(token_text) == RING.parse_digest(text)


@given(types, randoms)
def test_digests_of_different_tokens_differ(type_: SessionType, random: bytes) -> None:
    token = mint(type_, random)
    digest = token.digest()
    assert len(digest) == 32
    other = mint(type_, bytes([random[0] ^ 1]) + random[1:])
    assert other.digest() != digest


@given(types, randoms)
def test_no_format_of_a_token_contains_its_text(type_: SessionType, random: bytes) -> None:
    token = mint(type_, random)
    formats = f"{token} {token!r} {token!s} {[token]} {(token,)!r}"
    assert token.text not in formats
    assert token.text[4:] not in formats


def test_key_contains_its_secret_in_format_but_not_in_repr() -> None:
    assert "AAEC" not in repr(KEY)
    assert "AAEC" in KEY.format()
    assert TokenKey.parse(KEY.format()) == KEY


@pytest.mark.parametrize(
    "text",
    ["", "1", "1:", ":abc", "1:short"]
    + [f"{key_id}:{'A' * 43}" for key_id in ("x", "256", "-1", "²", "")]
    + [f"1:{secret}" for secret in ("A" * 44, "A" * 42 + "+", "A" * 43 + "==")],
)
def test_malformed_key_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="token key"):
        TokenKey.parse(text)


def test_ring_without_keys_or_with_equal_ids_raises_value_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        KeyRing([])
    with pytest.raises(ValueError, match="the same id"):
        KeyRing([KEY, TokenKey(7, bytes(32))])


def test_derived_key_depends_on_the_purpose_and_the_newest_key() -> None:
    other = TokenKey(1, bytes(32))
    keys = [
        KeyRing(ring).derive_key(purpose)
        for ring in ([KEY], [KEY, other], [other, KEY])
        for purpose in (b"cursors", b"other")
    ]
    assert keys[:2] == keys[2:4]
    assert len(set(keys)) == 4
    assert {len(key) for key in keys} == {32}
    assert KEY.secret not in keys
