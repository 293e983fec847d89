"""A token is found in whatever spelling, and what only looks a little like one is not."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256

import pytest
import redis

from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from tests.faults.leaks import Secrets, everything_in_redis
from tests.faults.population import Held, forged
from tests.support.processes import Server

TOKEN = KeyRing([TokenKey.generate()]).mint(SessionType.WEB).text
RANDOM = urlsafe_b64decode(TOKEN[4:])[1:33]


@pytest.fixture
def secrets() -> Secrets:
    return Secrets([Held(TOKEN, 1, "s1", "ada")])


@pytest.mark.parametrize(
    "spelled",
    [
        TOKEN.encode(),
        TOKEN[4:].encode(),
        RANDOM.hex().encode(),
        RANDOM,
        b"in\0the" + RANDOM + b"midst\n",
    ],
    ids=["whole", "without its beginning", "in hex", "as bytes", "as bytes among others"],
)
def test_a_token_that_was_issued_is_found(secrets: Secrets, spelled: bytes) -> None:
    assert secrets.are_in(b'{"event": "' + spelled + b'"}')


def test_a_token_that_was_never_issued_is_found_too(secrets: Secrets) -> None:
    assert secrets.are_in(f"denied {forged(TOKEN)}".encode())


def test_digests_and_session_ids_are_no_tokens(secrets: Secrets) -> None:
    digest = sha256(TOKEN.encode()).digest()
    spelled = [digest, digest.hex().encode(), urlsafe_b64encode(digest)]
    for text in (*spelled, b"01a210a3-fdf2-7241-b6f1-d9505e8a46ef", b"sgw_", b"sgw_short"):
        assert not secrets.are_in(b"x " * 100 + text + b" y" * 100)


def test_whatever_is_kept_in_redis_is_looked_at(secrets: Secrets, own_redis: Server) -> None:
    with redis.Redis(port=own_redis.port) as client:
        client.set("record", b"nothing")
        client.hset("pending", "1", b"nothing")
        assert not secrets.are_in(everything_in_redis(own_redis.port))
        client.hset("pending", "2", TOKEN)
        assert secrets.are_in(everything_in_redis(own_redis.port))
        client.delete("pending")
        client.set("record", TOKEN)
        assert secrets.are_in(everything_in_redis(own_redis.port))


def test_a_digest_that_happens_to_begin_like_a_token_is_none(secrets: Secrets) -> None:
    assert not secrets.are_in(b":s:{sgw_" + b"A" * 39 + b"}")
