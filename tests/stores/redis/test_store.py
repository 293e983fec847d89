"""The Redis store: keys, expiry, invalid values, stray replies, outages, cancelled callers.

Which copies are trusted is tested in test_sealed_reads.py.
"""

import asyncio
import json
import pickle
import random
import re
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import redis.exceptions

from sidegate.core.change_log import ChangedSession
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session
from sidegate.stores.codec import HEADER_SIZE, encode
from sidegate.stores.redis.connection import CLIENT_ERRORS
from tests.contracts.values import (
    build_digest,
    build_rotated_session,
    build_session,
    build_tombstone,
)
from tests.stores.conftest import RawClient, build_redis_store, connect_raw
from tests.stores.redis.strays import STRAY_REPLIES, InjectOnce, format_bulk_string
from tests.stores.sql.tcp_proxy import ProxiedConnection, TcpProxy
from tests.stores.waiting import no_leaks, wait_until, wait_until_async
from tests.support.processes import Server, chown_to_child_user, find_free_port
from tests.support.redis_trust import FollowedRedis
from tests.support.servers import start_redis

NOW: Final = datetime.now(UTC)
SECOND: Final = timedelta(seconds=1)
HOUR: Final = timedelta(hours=1)


async def read_single_key(raw_client: RawClient) -> bytes:
    """Return the only key of a copy."""
    [key] = await list_copies(raw_client)
    return key


async def list_copies(raw_client: RawClient) -> list[bytes]:
    """Return all keys but those of seals."""
    keys: list[bytes] = await raw_client.execute_command("KEYS", "*")
    return [key for key in keys if not key.endswith(b":seal")]


async def get_key(store: FollowedRedis, raw_client: RawClient, digest: Digest) -> bytes:
    """Return the key of a digest, and leave it unset."""
    await store.put(build_session(at=NOW, digest=digest))
    key = await read_single_key(raw_client)
    await raw_client.delete(key)
    return key


async def is_unavailable(call: Awaitable[object]) -> bool:
    try:
        await call
    except StoreUnavailable:
        return True
    return False


async def put_with_retry(store: FollowedRedis, session: Session) -> None:
    """Put a session, and retry while the store is unavailable, or drops the fill."""

    async def put() -> bool:
        with suppress(StoreUnavailable):
            await store.put(session)
            return await store.find(session.digest) is not None
        return False

    await wait_until_async(put)


async def wait_until_available(store: FollowedRedis) -> None:
    """Wait until the store is available, and check its results."""
    session = await put_session(store)
    await wait_until_found(store, session)
    with suppress(StoreUnavailable):
        assert await store.find(build_digest()) is None


# --- Keys and their expiry


async def test_keys_contain_the_version_bucket_namespace_and_digest(
    store: FollowedRedis, raw_client: RawClient
) -> None:
    session = build_session(at=NOW)
    await store.put(session)
    namespace = store.trust.position[0].namespace
    encoded = urlsafe_b64encode(session.digest).decode().rstrip("=")
    assert set(await raw_client.keys()) == {
        b"sidegate:v2:{0}:seal",
        f"sidegate:v2:{{0}}:{namespace}:{encoded}".encode(),
    }
    assert await raw_client.get("sidegate:v2:{0}:seal") == store.trust.position[0].encode()


async def is_available(store: FollowedRedis) -> bool:
    return not await is_unavailable(store.ping())


COPIES: Final[dict[str, Callable[[], Session]]] = {
    "session of half a minute": lambda: build_session(at=NOW, expires_at=NOW + 30 * SECOND),
    "session of fifty years": lambda: build_session(at=NOW, expires_at=NOW + 24 * 365 * 50 * HOUR),
    "tombstone": lambda: build_tombstone(at=NOW),
    "expired session": lambda: build_session(at=NOW - 2 * HOUR, expires_at=NOW - HOUR),
}


async def has_an_hour_left(raw_client: RawClient) -> bool:
    """Return whether the only copy expires in an hour."""
    remaining = await raw_client.pttl(await read_single_key(raw_client))
    return 3_600_000 - 60_000 < remaining <= 3_600_000


@pytest.mark.parametrize("build", COPIES.values(), ids=COPIES)
async def test_copy_expires_after_an_hour_and_the_seal_never(
    any_store: FollowedRedis, any_raw_client: RawClient, build: Callable[[], Session]
) -> None:
    await any_store.put(build())
    assert await has_an_hour_left(any_raw_client)
    assert await any_raw_client.pttl("sidegate:v2:{0}:seal") == -1


async def test_fill_renews_the_expiry_of_a_copy(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    session = build_session(at=NOW)
    await any_store.put(session)
    await any_raw_client.pexpire(await read_single_key(any_raw_client), 10_000)
    await any_store.put(session)
    assert await has_an_hour_left(any_raw_client)


async def test_restricted_copy_expires_after_an_hour(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    assert await any_store.restrict([ChangedSession(build_tombstone(at=NOW))])
    assert await has_an_hour_left(any_raw_client)


async def test_followed_copy_expires_after_an_hour_and_the_moved_seal_never(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    any_store.change_log.commit(build_session(at=NOW))
    await any_store.follow()
    assert any_store.moves == ["begun", "moved"]
    assert await has_an_hour_left(any_raw_client)
    assert await any_raw_client.pttl("sidegate:v2:{0}:seal") == -1


# --- Invalid values


WriteValue = Callable[[RawClient, bytes, Session], Awaitable[object]]


async def write_list(raw_client: RawClient, key: bytes, _: Session) -> None:
    await raw_client.rpush(key, b"an", b"element")


async def write_hash(raw_client: RawClient, key: bytes, _: Session) -> None:
    await raw_client.hset(key, mapping={"user_id": "ada"})


def build_writer(make: Callable[[Session], bytes]) -> WriteValue:
    async def write(raw_client: RawClient, key: bytes, session: Session) -> None:
        await raw_client.set(key, make(session))

    return write


FRESHEST: Final = b"1" + b"9" * (HEADER_SIZE - 1)

INVALID_VALUES: Final[dict[str, WriteValue]] = {
    "list": write_list,
    "hash": write_hash,
    "truncated record": build_writer(lambda session: encode(session)[:-1]),
    "part of a header": build_writer(lambda session: encode(session)[: HEADER_SIZE - 1]),
    "8 MB": build_writer(lambda session: encode(session) + bytes(8_000_000)),
    "8 MB with the freshest header": build_writer(lambda _: FRESHEST + bytes(8_000_000)),
    "record of another session": build_writer(lambda _: encode(build_session(at=NOW))),
    "tombstone of another session": build_writer(lambda _: encode(build_tombstone(at=NOW + HOUR))),
    "freshest header": build_writer(lambda _: FRESHEST + b"\x90"),
    "pickle": build_writer(lambda session: pickle.dumps(session.user_id)),
    "json": build_writer(lambda session: json.dumps({"user_id": session.user_id}).encode()),
    "number": build_writer(lambda _: b"1"),
    "digits": build_writer(lambda _: b"1" * 500),
}


@pytest.mark.parametrize("name", INVALID_VALUES)
async def test_invalid_value_is_a_reported_miss_and_replaced_by_a_fill(
    store: FollowedRedis, raw_client: RawClient, unreadable: Counter[str], name: str
) -> None:
    session = build_session(at=NOW)
    key = await get_key(store, raw_client, session.digest)
    await INVALID_VALUES[name](raw_client, key, session)
    assert await store.find(session.digest) is None
    assert unreadable == {"redis": 1}
    assert await store.fill(store.build_fill(session)) == session
    assert await store.find(session.digest) == session
    assert await has_an_hour_left(raw_client)


async def test_invalid_values_do_not_affect_other_digests(
    store: FollowedRedis, raw_client: RawClient, unreadable: Counter[str]
) -> None:
    valid = [build_session(at=NOW) for _ in range(5)]
    invalid = [build_session(at=NOW) for _ in range(3)]
    keys = [await get_key(store, raw_client, session.digest) for session in invalid]
    writers = (write_list, INVALID_VALUES["record of another session"], write_hash)
    for key, write in zip(keys, writers, strict=True):
        await write(raw_client, key, invalid[0])
    for session in valid:
        await store.put(session)
    found = await store.find_many([session.digest for session in (*valid, *invalid)])
    assert found == {session.digest: session for session in valid}
    assert unreadable == {"redis": 3}


async def test_huge_value_is_not_transferred(store: FollowedRedis, raw_client: RawClient) -> None:
    session = build_session(at=NOW)
    key = await get_key(store, raw_client, session.digest)
    await INVALID_VALUES["8 MB with the freshest header"](raw_client, key, session)
    before = (await raw_client.info("stats"))["total_net_output_bytes"]
    for _ in range(3):
        await store.find(session.digest)
    await store.put(session)
    assert (await raw_client.info("stats"))["total_net_output_bytes"] - before < 200_000


# --- Stray replies


async def put_session(store: FollowedRedis) -> Session:
    """Put a session, and return it."""
    session = build_session(at=NOW)
    await put_with_retry(store, session)
    return session


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_stray_reply_on_an_idle_connection_is_discarded(
    proxy: TcpProxy,
    proxied_store: FollowedRedis,
    raw_client: RawClient,
    unreadable: Counter[str],
    name: str,
) -> None:
    session = await put_session(proxied_store)
    arrived = asyncio.Event()
    proxy.inject(STRAY_REPLIES[name])
    asyncio.get_running_loop().call_later(0.005, arrived.set)
    await arrived.wait()
    assert await proxied_store.find(session.digest) == session
    assert unreadable == {}
    assert len(await list_copies(raw_client)) == 1


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_stray_reply_to_a_lookup_never_returns_another_session(
    proxy: TcpProxy, proxied_store_short_timeout: FollowedRedis, name: str
) -> None:
    sessions = [await put_session(proxied_store_short_timeout) for _ in range(3)]
    for _ in range(3):
        proxy.server_filter = InjectOnce(STRAY_REPLIES[name])
        for session in sessions * 2:
            with suppress(StoreUnavailable):
                assert await proxied_store_short_timeout.find(session.digest) in (session, None)
    for session in sessions:
        await wait_until_found(proxied_store_short_timeout, session)


async def wait_until_found(store: FollowedRedis, session: Session) -> None:
    """Wait until the store returns the session; until then it may only miss or fail."""

    async def is_found() -> bool:
        with suppress(StoreUnavailable):
            found = await store.find(session.digest)
            assert found in (session, None)
            return found is not None
        return False

    await wait_until_async(is_found)


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_stray_reply_during_connecting_never_gives_a_wrong_result(
    proxy: TcpProxy, proxied_store_short_timeout: FollowedRedis, raw_client: RawClient, name: str
) -> None:
    session = await put_session(proxied_store_short_timeout)
    proxy.reset_connections()
    proxy.server_filter = stray = InjectOnce(STRAY_REPLIES[name])
    while not stray.injected:  # the first use of a reset connection fails
        with suppress(StoreUnavailable):
            assert await proxied_store_short_timeout.find(session.digest) in (session, None)
    await wait_until_found(proxied_store_short_timeout, session)
    await put_with_retry(proxied_store_short_timeout, session)
    assert len(await list_copies(raw_client)) == 1  # nothing was written under another key


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_stray_reply_to_a_fill_never_revives_a_session(
    proxy: TcpProxy, proxied_store_short_timeout: FollowedRedis, name: str
) -> None:
    session = build_session(at=NOW)
    tombstone = session.revoked(NOW)
    await put_with_retry(proxied_store_short_timeout, tombstone)
    fill = proxied_store_short_timeout.build_fill(session)
    for _ in range(3):
        proxy.server_filter = InjectOnce(STRAY_REPLIES[name])
        with suppress(StoreUnavailable):
            assert await proxied_store_short_timeout.fill(fill) == tombstone
        await wait_until_found(proxied_store_short_timeout, tombstone)


@pytest.mark.parametrize("which", ["null", "stale"])
async def test_fill_with_a_tombstone_never_returns_the_active_session(
    proxy: TcpProxy, proxied_store: FollowedRedis, which: str
) -> None:
    session = build_session(at=NOW)
    tombstone = session.revoked(NOW)
    await proxied_store.put(session)
    fill = proxied_store.build_fill(tombstone)
    proxy.server_filter = InjectOnce(
        {"null": b"$-1\r\n", "stale": format_bulk_string(encode(session))}[which]
    )
    with pytest.raises(StoreUnavailable):
        await proxied_store.fill(fill)
    assert await proxied_store.fill(fill) == tombstone
    await wait_until_found(proxied_store, tombstone)


async def test_duplicated_replies_never_return_another_session(
    proxy: TcpProxy, proxied_store: FollowedRedis, unreadable: Counter[str]
) -> None:
    sessions = [await put_session(proxied_store) for _ in range(10)]
    proxy.server_filter = lambda _, chunk: chunk * 2
    answered = 0
    for session in sessions * 10:
        try:
            found = await proxied_store.find(session.digest)
        except StoreUnavailable:
            continue
        assert found in (session, None)
        answered += found is not None
    assert unreadable["redis"] < 50
    proxy.server_filter = lambda _, chunk: chunk
    for session in sessions:
        await wait_until_found(proxied_store, session)


# --- Network faults


async def test_replies_in_single_bytes_are_read(
    proxy: TcpProxy, proxied_store: FollowedRedis
) -> None:
    proxy.chunk_size = 1
    sessions = [await put_session(proxied_store) for _ in range(3)]
    assert [await proxied_store.find(session.digest) for session in sessions] == sessions


@pytest.mark.parametrize("at", [1, 10, 60, 150])
async def test_connection_reset_within_a_reply_raises_unavailable(
    proxy: TcpProxy, proxied_store: FollowedRedis, at: int
) -> None:
    session = await put_session(proxied_store)

    def cut(connection: ProxiedConnection, chunk: bytes) -> bytes:
        asyncio.get_running_loop().call_later(0.005, connection.reset)
        return chunk[:at]

    proxy.server_filter = cut
    with pytest.raises(StoreUnavailable):
        await proxied_store.find(session.digest)
    proxy.server_filter = lambda _, chunk: chunk
    assert await proxied_store.find(session.digest) == session


async def test_reset_idle_connection_fails_at_most_one_lookup(
    proxy: TcpProxy, proxied_store: FollowedRedis
) -> None:
    session = await put_session(proxied_store)
    proxy.reset_connections()
    await wait_until(lambda: not proxy.connections)
    with suppress(StoreUnavailable):
        assert await proxied_store.find(session.digest) == session
    assert await proxied_store.find(session.digest) == session


async def test_idle_connection_closed_by_the_server_fails_no_lookup(
    own_store: FollowedRedis, own_raw_client: RawClient
) -> None:
    session = await put_session(own_store)
    for _ in range(3):
        await own_raw_client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
        await own_raw_client.ping()  # by now the close has arrived
        assert await own_store.find(session.digest) == session


async def test_stalled_connection_raises_unavailable_within_the_timeout(
    proxy: TcpProxy, proxied_store_short_timeout: FollowedRedis
) -> None:
    session = await put_session(proxied_store_short_timeout)
    proxy.stall()
    await check_unavailable_within(0.2, proxied_store_short_timeout)
    proxy.resume()
    await wait_until_found(proxied_store_short_timeout, session)


async def check_unavailable_within(seconds: float, store: FollowedRedis) -> None:
    """Check that each operation raises StoreUnavailable in time."""
    loop = asyncio.get_running_loop()
    operations: list[Callable[[], Awaitable[object]]] = [
        lambda: store.find(build_digest()),
        lambda: store.put(build_session(at=NOW)),
        lambda: store.restrict([ChangedSession(build_tombstone(at=NOW))]),
        lambda: store.client.publish("channel", [b"message"]),
        store.ping,
    ]
    for operation in operations:
        durations = []
        for _ in range(3):  # the machine may be busy for a moment
            start = loop.time()
            with pytest.raises(StoreUnavailable):
                await operation()
            durations.append(loop.time() - start)
        assert min(durations) < seconds


# --- Outages of Redis


async def test_paused_redis_is_unavailable_and_consistent_when_resumed(
    own_store_short_timeout: FollowedRedis, own_redis: Server
) -> None:
    sessions = [await put_session(own_store_short_timeout) for _ in range(5)]
    tombstone = sessions[0].revoked(NOW)
    own_redis.pause()
    await check_unavailable_within(0.2, own_store_short_timeout)
    with pytest.raises(StoreUnavailable):  # it may or may not be written
        await own_store_short_timeout.restrict([ChangedSession(tombstone)])
    own_redis.resume()
    await wait_until_available(own_store_short_timeout)
    for session in sessions[1:]:
        await wait_until_found(own_store_short_timeout, session)
    await put_with_retry(own_store_short_timeout, tombstone)
    await wait_until_found(own_store_short_timeout, tombstone)


async def test_out_of_memory_redis_fails_writes_but_not_lookups(
    own_store: FollowedRedis, own_raw_client: RawClient
) -> None:
    session = await put_session(own_store)
    await own_raw_client.config_set("maxmemory-policy", "noeviction")
    await own_raw_client.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable):
        await own_store.put(build_session(at=NOW))
    with pytest.raises(StoreUnavailable):
        await own_store.restrict([ChangedSession(build_tombstone(at=NOW))])
    assert await own_store.find(session.digest) == session
    await own_raw_client.config_set("maxmemory", "0")
    await wait_until_available(own_store)


async def test_replica_raises_unavailable(
    own_store: FollowedRedis, own_raw_client: RawClient, redis_server: Server
) -> None:
    session = await put_session(own_store)
    await own_raw_client.execute_command("REPLICAOF", "127.0.0.1", redis_server.port)
    with pytest.raises(StoreUnavailable):
        await own_store.put(session)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await own_store.find(session.digest)
    await own_raw_client.execute_command("REPLICAOF", "NO", "ONE")
    await wait_until_available(own_store)


async def test_missing_password_raises_unavailable(
    own_store: FollowedRedis, own_redis: Server, unreadable: Counter[str]
) -> None:
    async with connect_raw(own_redis.url) as raw_client:
        await raw_client.config_set("requirepass", "secret")
    await check_unavailable_within(0.5, own_store)
    with pytest.raises(StoreUnavailable) as outage:
        await own_store.ping()
    assert outage.value.reason.startswith("NOAUTH")
    with_password = build_redis_store(own_redis.url.replace("//", "//:secret@"), unreadable)
    await wait_until_available(with_password)
    await with_password.close()


async def test_wrong_password_raises_unavailable_without_the_password(own_redis: Server) -> None:
    async with connect_raw(own_redis.url) as raw_client:
        await raw_client.config_set("requirepass", "secret")
    store = build_redis_store(own_redis.url.replace("//", "//:wrong-password@"), Counter())
    with pytest.raises(StoreUnavailable) as outage:
        await store.ping()
    assert "wrong-password" not in str(outage.value)
    await store.close()


async def test_redis_at_maxclients_raises_unavailable(
    own_store: FollowedRedis, own_raw_client: RawClient
) -> None:
    await own_raw_client.config_set("maxclients", 1)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await own_store.find(build_digest())
    await own_raw_client.config_set("maxclients", 100)
    await wait_until_available(own_store)


async def test_missing_acl_permission_raises_unavailable(
    own_store: FollowedRedis, own_raw_client: RawClient
) -> None:
    await put_session(own_store)
    await own_raw_client.execute_command(
        "ACL SETUSER default -getrange -evalsha -eval -publish -ping"
    )
    await check_unavailable_within(0.5, own_store)
    await own_raw_client.execute_command("ACL SETUSER default +@all")
    await wait_until_available(own_store)


async def test_loading_redis_raises_unavailable(workdir: Path, unreadable: Counter[str]) -> None:
    command = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"
    (workdir / "appendonly.aof").write_bytes(command * 500_000)  # takes about half a second
    chown_to_child_user(workdir)
    port = find_free_port()
    store = build_redis_store(f"redis://127.0.0.1:{port}/0", unreadable)
    starting = asyncio.create_task(
        asyncio.to_thread(start_redis, workdir, port, ["--appendonly", "yes"])
    )
    reasons = set()
    while not starting.done():
        try:
            await store.ping()
        except StoreUnavailable as outage:
            reasons.add(outage.reason)
        await asyncio.sleep(0)
    server = await starting
    assert any(reason.startswith("LOADING") for reason in reasons)
    await wait_until_available(store)
    await store.close()
    server.stop()


async def test_flushed_script_is_sent_again(store: FollowedRedis, raw_client: RawClient) -> None:
    session = build_session(at=NOW)
    history = [session, session.touched(NOW + SECOND), session.revoked(NOW)]
    for copy in history:
        await raw_client.script_flush()
        assert await store.put(copy) == copy
        await raw_client.script_flush()
        assert await store.put(session) == copy
    assert await store.find(session.digest) == history[-1]


def test_client_errors_contain_every_exception_of_the_library() -> None:
    raised = {
        kind
        for kind in vars(redis.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
    }
    assert len(raised) > 20
    assert {kind for kind in raised if not issubclass(kind, CLIENT_ERRORS)} == set()


# --- Cancelled callers and number of connections


async def count_connections(raw_client: RawClient) -> int:
    """Return the number of connections to the server, without that of `raw_client`."""
    return len(await raw_client.client_list()) - 1


async def test_cancelled_lookups_never_shift_replies(
    proxy: TcpProxy, proxied_store: FollowedRedis, unreadable: Counter[str]
) -> None:
    rng = random.Random(20)
    loop = asyncio.get_running_loop()
    proxy.delay = 0.001
    sessions = [await put_session(proxied_store) for _ in range(50)]
    tombstones = [build_tombstone(at=NOW) for _ in range(50)]
    for tombstone in tombstones:
        await proxied_store.put(tombstone)
    known = {session.digest: session for session in (*sessions, *tombstones)}
    checked = 0
    for _ in range(30):
        digests = [rng.choice((*known, build_digest())) for _ in range(100)]
        callers = [asyncio.create_task(proxied_store.find(digest)) for digest in digests]
        for caller in rng.sample(callers, 30):
            loop.call_later(rng.random() * 0.03, caller.cancel)
        for digest, result in zip(
            digests, await asyncio.gather(*callers, return_exceptions=True), strict=True
        ):
            if isinstance(result, asyncio.CancelledError):
                continue
            assert result == known.get(digest)
            checked += 1
    assert checked > 2000
    assert unreadable == {}


async def test_cancelled_puts_never_shift_replies(
    proxy: TcpProxy, proxied_store: FollowedRedis, unreadable: Counter[str]
) -> None:
    rng = random.Random(21)
    loop = asyncio.get_running_loop()
    proxy.delay = 0.001
    for _ in range(10):
        sessions = [build_session(at=NOW) for _ in range(50)]
        putting = [asyncio.create_task(proxied_store.put(session)) for session in sessions]
        for put in rng.sample(putting, 15):
            loop.call_later(rng.random() * 0.02, put.cancel)
        for session, kept in zip(
            sessions, await asyncio.gather(*putting, return_exceptions=True), strict=True
        ):
            assert kept == session or isinstance(kept, asyncio.CancelledError)
    assert unreadable == {}


async def test_concurrent_lookups_open_a_bounded_number_of_connections(
    store: FollowedRedis, raw_client: RawClient
) -> None:
    await store.follow()
    callers = [asyncio.create_task(store.find(build_digest())) for _ in range(2000)]
    most = 0
    while not all(caller.done() for caller in callers):
        most = max(most, await count_connections(raw_client))
        for caller in random.Random(22).sample(callers, 20):
            caller.cancel()
    assert 1 <= most <= 64 + 10  # with some that are being closed
    await wait_until_async(lambda: has_at_most(32, raw_client))
    await wait_until_available(store)


async def has_at_most(limit: int, raw_client: RawClient) -> bool:
    return await count_connections(raw_client) <= limit


async def test_closed_store_leaves_no_connection(
    redis_url: str, raw_client: RawClient, unreadable: Counter[str]
) -> None:
    store = build_redis_store(redis_url, unreadable)
    await store.follow()
    await asyncio.gather(*(store.find(build_digest()) for _ in range(20)))
    assert await count_connections(raw_client) > 1
    await store.close()
    await wait_until_async(lambda: has_at_most(0, raw_client))


async def test_unused_store_does_not_connect(
    redis_url: str, raw_client: RawClient, unreadable: Counter[str]
) -> None:
    store = build_redis_store(redis_url, unreadable)
    assert await count_connections(raw_client) == 0
    await store.close()


async def test_failed_connections_are_not_leaked(
    proxy: TcpProxy, proxied_store: FollowedRedis, raw_client: RawClient
) -> None:
    await put_session(proxied_store)
    for _ in range(20):
        proxy.reset_connections()
        proxy.server_filter = InjectOnce(b"-ERR no\r\n")
        await is_unavailable(proxied_store.find(build_digest()))
    proxy.server_filter = lambda _, chunk: chunk
    await wait_until_available(proxied_store)
    await wait_until_async(lambda: has_at_most(1, raw_client))


async def test_find_many_returns_both_digests_of_a_rotated_session(
    store: FollowedRedis, raw_client: RawClient
) -> None:
    current, previous = build_rotated_session(at=NOW).copies()
    await store.put(current)
    await store.put(previous)
    before = (await raw_client.info("commandstats"))["cmdstat_getrange"]["calls"]
    found = await store.find_many([current.digest, build_digest(), previous.digest])
    assert found == {current.digest: current, previous.digest: previous}
    # With the seal before and after them.
    assert (await raw_client.info("commandstats"))["cmdstat_getrange"]["calls"] == before + 5


async def test_fill_many_is_one_round_trip_and_returns_each_kept_session(
    proxy: TcpProxy, proxied_store: FollowedRedis, unreadable: Counter[str]
) -> None:
    sessions = [build_session(at=NOW) for _ in range(40)]
    tombstone = sessions[0].revoked(NOW)
    await proxied_store.put(tombstone)
    fills = {session.digest: proxied_store.build_fill(session) for session in sessions}
    chunks = 0

    def count(_: object, chunk: bytes) -> bytes:
        nonlocal chunks
        chunks += 1
        return chunk

    proxy.client_filter = count
    kept = await proxied_store.fill_many(fills)
    assert kept == {s.digest: s for s in (tombstone, *sessions[1:])}
    assert chunks <= 2  # one packet, which the proxy may read in two
    assert unreadable == {}


async def test_fill_many_replaces_an_invalid_value(
    store: FollowedRedis, raw_client: RawClient, unreadable: Counter[str]
) -> None:
    sessions = {s.digest: s for s in (build_session(at=NOW) for _ in range(3))}
    await store.put_many(tuple(sessions.values()))
    fills = {digest: store.build_fill(session) for digest, session in sessions.items()}
    [key, *_] = await list_copies(raw_client)
    await raw_client.set(key, b"1" * 39 + b"invalid")
    assert await store.fill_many(fills) == sessions
    assert await store.find_many(tuple(sessions)) == sessions
    assert unreadable == {"redis": 1}


async def test_no_token_is_stored(store: FollowedRedis, raw_client: RawClient) -> None:
    """Only the digest of a token is stored in Redis."""
    await store.put(build_session(at=NOW))
    written = [(key, await raw_client.get(key)) for key in await raw_client.keys()]
    assert len(written) == 2
    assert not re.search(r"sg[wmavs]_", repr(written))


async def test_close_after_failures_leaves_no_task(
    own_redis: Server, unreadable: Counter[str]
) -> None:
    async with no_leaks():
        store = build_redis_store(own_redis.url, unreadable, timeout=0.05)
        await put_session(store)
        own_redis.pause()
        callers = [asyncio.create_task(store.find(build_digest())) for _ in range(50)]
        await asyncio.wait(callers)
        own_redis.resume()
        await store.close()
        assert all(isinstance(caller.exception(), StoreUnavailable) for caller in callers)


async def test_lookup_during_close_returns_or_raises_unavailable(
    redis_url: str, raw_client: RawClient, unreadable: Counter[str]
) -> None:
    async with no_leaks():
        for ticks in range(0, 60, 3):
            store = build_redis_store(redis_url, unreadable)
            session = await put_session(store)
            callers = [asyncio.create_task(store.find(session.digest)) for _ in range(100)]
            for _ in range(ticks):
                await asyncio.sleep(0)
            await store.close()
            for answer in await asyncio.gather(*callers, return_exceptions=True):
                assert answer == session or isinstance(answer, StoreUnavailable)
            await store.close()
    await wait_until_async(lambda: has_at_most(0, raw_client))
