"""Requests that are the same give the same token; nothing less gives it."""

from itertools import product

from sidegate.core.idempotency import Idempotency
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, Token, TokenKey

OLD, NEW = TokenKey(1, bytes(32)), TokenKey(2, bytes(range(32)))


def test_the_same_request_is_the_same() -> None:
    one, other = [Idempotency.of(api_key="sgk_a", key="k", body=b"{}") for _ in range(2)]
    assert one == other


def test_every_part_of_a_request_makes_another_seed() -> None:
    parts = product(("sgk_a", "sgk_ab"), ("k", "bk"), (b"", b"b", b"k"))
    requests = [Idempotency.of(api_key=api, key=key, body=body) for api, key, body in parts]
    assert len({request.seed for request in requests}) == 12
    assert len({request.claim for request in requests}) == 4


def test_what_is_printed_tells_no_seed() -> None:
    assert "seed" not in repr(Idempotency.of(api_key="sgk_a", key="k", body=b""))


def test_a_derived_token_is_like_any_other_and_always_the_same() -> None:
    ring = KeyRing([NEW, OLD])
    token = next(ring.derived(SessionType.API, b"seed"))
    assert ring.read(token.text) == token == Token(SessionType.API, token.text)
    assert next(ring.derived(SessionType.API, b"seed")) == token
    assert next(ring.derived(SessionType.API, b"another")) != token
    assert next(ring.derived(SessionType.WEB, b"seed")).text[4:] != token.text[4:]


def test_a_seed_gives_a_token_for_every_key_the_newest_first() -> None:
    before = list(KeyRing([OLD]).derived(SessionType.WEB, b"seed"))
    after = list(KeyRing([NEW, OLD]).derived(SessionType.WEB, b"seed"))
    assert len(after) == 2
    assert after[1:] == before


def test_without_the_houses_secret_a_seed_gives_something_else() -> None:
    stranger = TokenKey(1, bytes([1] * 32))
    ours, theirs = [KeyRing([key]).derived(SessionType.WEB, b"s") for key in (OLD, stranger)]
    assert next(ours) != next(theirs)
