"""Tokens are found in any encoding; similar texts are not reported."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256

import pytest
import redis

from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from tests.faults.leaks import Secrets, dump_redis
from tests.faults.population import ClientToken, forge
from tests.support.processes import Server

TOKEN = KeyRing([TokenKey.generate()]).mint(SessionType.WEB).text
RANDOM = urlsafe_b64decode(TOKEN[4:])[1:33]


@pytest.fixture
def secrets() -> Secrets:
    return Secrets([ClientToken(TOKEN, 1, "s1", "ada")])


@pytest.mark.parametrize(
    "encoded",
    [
        TOKEN.encode(),
        TOKEN[4:].encode(),
        RANDOM.hex().encode(),
        RANDOM,
        b"in\0the" + RANDOM + b"midst\n",
    ],
    ids=["token", "without prefix", "hex", "bytes", "bytes within bytes"],
)
def test_issued_token_is_found(secrets: Secrets, encoded: bytes) -> None:
    assert secrets.occur_in(b'{"event": "' + encoded + b'"}')


def test_unissued_token_is_found(secrets: Secrets) -> None:
    assert secrets.occur_in(f"denied {forge(TOKEN)}".encode())


def test_digest_and_session_id_are_not_reported(secrets: Secrets) -> None:
    digest = sha256(TOKEN.encode()).digest()
    encoded = [digest, digest.hex().encode(), urlsafe_b64encode(digest)]
    for text in (*encoded, b"01a210a3-fdf2-7241-b6f1-d9505e8a46ef", b"sgw_", b"sgw_short"):
        assert not secrets.occur_in(b"x " * 100 + text + b" y" * 100)


def test_all_redis_values_are_searched(secrets: Secrets, own_redis: Server) -> None:
    with redis.Redis(port=own_redis.port) as client:
        client.set("record", b"nothing")
        client.hset("pending", "1", b"nothing")
        assert not secrets.occur_in(dump_redis(own_redis.port))
        client.hset("pending", "2", TOKEN)
        assert secrets.occur_in(dump_redis(own_redis.port))
        client.delete("pending")
        client.set("record", TOKEN)
        assert secrets.occur_in(dump_redis(own_redis.port))


def test_digest_that_starts_like_a_token_is_not_reported(secrets: Secrets) -> None:
    assert not secrets.occur_in(b":s:{sgw_" + b"A" * 39 + b"}")
