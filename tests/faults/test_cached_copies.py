"""Copies are read from the namespace that the seal of a Redis names."""

from datetime import UTC, datetime

import redis

from sidegate.core.digest import Digest
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.codec import HEADER_SIZE, encode
from sidegate.stores.redis.sealed_write import build_key, build_seal_key
from tests.contracts.values import build_session
from tests.faults.cached_copies import find_open_copies, read_copies
from tests.faults.population import ClientToken
from tests.support.processes import Server
from tests.support.redis_trust import build_mark
from tests.support.replace import replace

TOKEN, OTHER = ClientToken("sgw_1", 1, "s1", "ada"), ClientToken("sgw_2", 2, "s2", "ada")
NOW = datetime.now(UTC)
SEAL = Seal.begin(build_mark())


def copy_for(token: ClientToken) -> Session:
    return replace(build_session(at=NOW), digest=Digest(token.digest))


def store(server: Server, copy: bytes, *, digest: bytes, namespace: str) -> None:
    with redis.Redis(port=server.port) as raw:
        raw.set(build_seal_key(0), SEAL.encode())
        raw.set(build_key(0, Digest(digest), namespace=namespace), copy)


def test_open_copy_is_found(own_redis: Server) -> None:
    copy = encode(copy_for(TOKEN))
    store(own_redis, copy, digest=TOKEN.digest, namespace=SEAL.namespace)
    assert find_open_copies(own_redis.port, [TOKEN, OTHER]) == {TOKEN}


def test_tombstone_is_no_open_copy(own_redis: Server) -> None:
    tombstone = copy_for(TOKEN).revoked(NOW)
    store(own_redis, encode(tombstone), digest=TOKEN.digest, namespace=SEAL.namespace)
    assert find_open_copies(own_redis.port, [TOKEN]) == set()
    assert read_copies(own_redis.port) == [tombstone]


def test_header_alone_is_no_copy(own_redis: Server) -> None:
    header = encode(copy_for(TOKEN))[:HEADER_SIZE]
    store(own_redis, header, digest=TOKEN.digest, namespace=SEAL.namespace)
    assert read_copies(own_redis.port) == []


def test_other_namespaces_are_not_read(own_redis: Server) -> None:
    store(own_redis, encode(copy_for(TOKEN)), digest=TOKEN.digest, namespace="0" * 16)
    assert read_copies(own_redis.port) == []


def test_redis_without_a_seal_has_no_copies(own_redis: Server) -> None:
    assert read_copies(own_redis.port) == []
