"""Identity of requests with an Idempotency-Key, and the tokens derived from it."""

from itertools import product

from sidegate.core.idempotency import Idempotency
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, Token, TokenKey

OLD, NEW = TokenKey(1, bytes(32)), TokenKey(2, bytes(range(32)))


def test_same_request_has_the_same_identity() -> None:
    one, other = [Idempotency.from_request(api_key="sgk_a", key="k", body=b"{}") for _ in range(2)]
    assert one == other


def test_every_part_of_a_request_changes_the_seed() -> None:
    parts = product(("sgk_a", "sgk_ab"), ("k", "bk"), (b"", b"b", b"k"))
    requests = [
        Idempotency.from_request(api_key=api, key=key, body=body) for api, key, body in parts
    ]
    assert len({request.seed for request in requests}) == 12
    assert len({request.key_hash for request in requests}) == 4


def test_repr_does_not_contain_the_seed() -> None:
    assert "seed" not in repr(Idempotency.from_request(api_key="sgk_a", key="k", body=b""))


def test_derived_token_is_valid_and_deterministic() -> None:
    ring = KeyRing([NEW, OLD])
    token = next(ring.derive_tokens(SessionType.API, b"seed"))
    assert ring.parse(token.text) == token == Token(SessionType.API, token.text)
    assert next(ring.derive_tokens(SessionType.API, b"seed")) == token
    assert next(ring.derive_tokens(SessionType.API, b"another")) != token
    assert next(ring.derive_tokens(SessionType.WEB, b"seed")).text[4:] != token.text[4:]


def test_seed_gives_one_token_per_key_newest_first() -> None:
    before = list(KeyRing([OLD]).derive_tokens(SessionType.WEB, b"seed"))
    after = list(KeyRing([NEW, OLD]).derive_tokens(SessionType.WEB, b"seed"))
    assert len(after) == 2
    assert after[1:] == before


def test_token_derived_with_another_key_differs() -> None:
    other_key = TokenKey(1, bytes([1] * 32))
    first, second = [
        KeyRing([key]).derive_tokens(SessionType.WEB, b"s") for key in (OLD, other_key)
    ]
    assert next(first) != next(second)
