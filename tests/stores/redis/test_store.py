"""The Redis store: keys, expiry, invalid values, stray replies, outages, cancelled callers."""

import asyncio
import json
import pickle
import random
import re
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import redis.exceptions

from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session
from sidegate.stores.codec import HEADER_SIZE, encode
from sidegate.stores.redis.connection import CLIENT_ERRORS
from sidegate.stores.redis.store import RedisStore
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
from tests.support.servers import start_redis

NOW: Final = datetime.now(UTC)
SECOND: Final = timedelta(seconds=1)
HOUR: Final = timedelta(hours=1)


async def read_single_key(raw_client: RawClient) -> bytes:
    """Return the only key."""
    [key] = await raw_client.keys()
    assert isinstance(key, bytes)
    return key


async def get_key(store: RedisStore, raw_client: RawClient, digest: Digest) -> bytes:
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


async def put_with_retry(store: RedisStore, session: Session) -> None:
    """Put a session, and retry while the store is unavailable."""

    async def put() -> bool:
        return not await is_unavailable(store.put(session))

    await wait_until_async(put)


async def wait_until_available(store: RedisStore) -> None:
    """Wait until the store is available, and check its results."""
    session = await put_session(store)
    await wait_until_found(store, session)
    with suppress(StoreUnavailable):
        assert await store.find(build_digest()) is None


# --- Keys and server IDs


async def test_key_contains_server_id_generation_and_digest(
    store: RedisStore, raw_client: RawClient
) -> None:
    session = build_session(at=NOW)
    await store.put(session)
    info = await raw_client.info()
    run_id, replid = info["run_id"], info["master_replid"]
    encoded = urlsafe_b64encode(session.digest).decode().rstrip("=")
    assert (
        await read_single_key(raw_client)
        == f"sidegate:v1:{run_id[:16]}-{replid[:16]}:0:s:{{{encoded}}}".encode()
    )


@pytest.fixture
async def persistent_redis(workdir: Path) -> AsyncIterator[Server]:
    """A Redis that loads its snapshot after a restart."""
    server = await asyncio.to_thread(start_redis, workdir, extra_args=["--save", "3600 1"])
    yield server
    server.stop()


async def restart_from_snapshot(
    server: Server, *, after_save: Callable[[], Awaitable[object]]
) -> None:
    """Restart a Redis with its data from before `after_save`."""
    async with connect_raw(server.url) as raw_client:
        await raw_client.save()
        await after_save()
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.restart)
    async with connect_raw(server.url) as raw_client:
        assert await raw_client.dbsize() > 0  # otherwise the test would prove nothing


async def test_sessions_from_a_snapshot_are_not_returned(
    persistent_redis: Server, unreadable: Counter[str]
) -> None:
    store = build_redis_store(persistent_redis.url, unreadable)
    session, untouched = build_session(at=NOW), build_session(at=NOW)
    await store.put(session)
    await store.put(untouched)
    await restart_from_snapshot(
        persistent_redis, after_save=lambda: store.put(session.revoked(NOW))
    )
    await wait_until_async(lambda: is_available(store))
    assert await store.find(session.digest) is None
    assert await store.find(untouched.digest) is None
    assert await store.put(untouched) == untouched
    await store.close()
    assert unreadable == {}


async def is_available(store: RedisStore) -> bool:
    return not await is_unavailable(store.ping())


async def test_connections_from_before_a_restart_return_nothing(
    persistent_redis: Server, unreadable: Counter[str]
) -> None:
    store = build_redis_store(persistent_redis.url, unreadable)
    sessions = [build_session(at=NOW) for _ in range(20)]
    await asyncio.gather(*map(store.put, sessions))  # on many connections
    await restart_from_snapshot(persistent_redis, after_save=lambda: asyncio.sleep(0))
    for _ in range(3):
        found = await asyncio.gather(
            *(store.find(session.digest) for session in sessions), return_exceptions=True
        )
        assert not any(isinstance(answer, Session) for answer in found)
    await store.close()


# --- Expiry of keys


async def measure_expiry_error(raw_client: RawClient, session: Session) -> float:
    """Return the seconds between the expiry of the only key and that of the session."""
    remaining = await raw_client.pttl(await read_single_key(raw_client))
    assert remaining > 0, "key without an expiry"
    seconds, microseconds = await raw_client.time()
    ends = datetime.fromtimestamp(seconds, UTC) + timedelta(
        microseconds=microseconds, milliseconds=remaining
    )
    return abs((ends - session.expires_at).total_seconds())


async def test_key_expires_with_its_session(store: RedisStore, raw_client: RawClient) -> None:
    for lifetime in (SECOND * 30, HOUR, HOUR * 24 * 365 * 50):
        session = build_session(at=NOW, expires_at=datetime.now(UTC) + lifetime)
        await store.put(session)
        assert await measure_expiry_error(raw_client, session) < 1
        await raw_client.flushall()


async def test_key_expiry_follows_an_extended_session(
    store: RedisStore, raw_client: RawClient
) -> None:
    session = build_session(at=NOW)
    extended = session.extended(session.expires_at + HOUR, NOW)
    await store.put(session)
    await store.put(extended)
    assert await measure_expiry_error(raw_client, extended) < 1
    await store.put(session)  # the fresher session stays, and so does its expiry
    assert await measure_expiry_error(raw_client, extended) < 1


async def test_tombstone_expires_with_its_session(store: RedisStore, raw_client: RawClient) -> None:
    tombstone = build_tombstone(at=NOW)
    await store.put(tombstone)
    assert await measure_expiry_error(raw_client, tombstone) < 1


@pytest.mark.parametrize("ago", [timedelta(milliseconds=1), HOUR, HOUR * 24 * 365 * 20])
async def test_expired_session_is_not_stored(
    store: RedisStore, raw_client: RawClient, ago: timedelta
) -> None:
    session = build_session(at=NOW - ago - HOUR, expires_at=NOW - ago)
    await store.put(session)
    assert await raw_client.keys() == []
    assert await store.find(session.digest) is None


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
    "header only": build_writer(lambda session: encode(session)[:HEADER_SIZE]),
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
async def test_invalid_value_is_a_reported_miss_and_replaced_by_a_put(
    store: RedisStore, raw_client: RawClient, unreadable: Counter[str], name: str
) -> None:
    session = build_session(at=NOW)
    key = await get_key(store, raw_client, session.digest)
    await INVALID_VALUES[name](raw_client, key, session)
    assert await store.find(session.digest) is None
    assert unreadable == {"redis": 1}
    assert await store.put(session) == session
    assert await store.find(session.digest) == session
    assert await measure_expiry_error(raw_client, session) < 1


async def test_invalid_values_do_not_affect_other_digests(
    store: RedisStore, raw_client: RawClient, unreadable: Counter[str]
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


async def test_huge_value_is_not_transferred(store: RedisStore, raw_client: RawClient) -> None:
    session = build_session(at=NOW)
    key = await get_key(store, raw_client, session.digest)
    await INVALID_VALUES["8 MB with the freshest header"](raw_client, key, session)
    before = (await raw_client.info("stats"))["total_net_output_bytes"]
    for _ in range(3):
        await store.find(session.digest)
    await store.put(session)
    assert (await raw_client.info("stats"))["total_net_output_bytes"] - before < 200_000


# --- Stray replies


async def put_session(store: RedisStore) -> Session:
    """Put a session, and return it."""
    session = build_session(at=NOW)
    await put_with_retry(store, session)
    return session


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_stray_reply_on_an_idle_connection_is_discarded(
    proxy: TcpProxy,
    proxied_store: RedisStore,
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
    assert await raw_client.dbsize() == 1


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_stray_reply_to_a_lookup_never_returns_another_session(
    proxy: TcpProxy, proxied_store_short_timeout: RedisStore, name: str
) -> None:
    sessions = [await put_session(proxied_store_short_timeout) for _ in range(3)]
    for _ in range(3):
        proxy.server_filter = InjectOnce(STRAY_REPLIES[name])
        for session in sessions * 2:
            with suppress(StoreUnavailable):
                assert await proxied_store_short_timeout.find(session.digest) in (session, None)
    for session in sessions:
        await wait_until_found(proxied_store_short_timeout, session)


async def wait_until_found(store: RedisStore, session: Session) -> None:
    """Wait until the store returns the session; until then it may only miss or fail."""

    async def is_found() -> bool:
        with suppress(StoreUnavailable):
            found = await store.find(session.digest)
            assert found in (session, None)
            return found is not None
        return False

    await wait_until_async(is_found)


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_stray_reply_during_connecting_never_gives_a_wrong_server_id(
    proxy: TcpProxy, proxied_store_short_timeout: RedisStore, raw_client: RawClient, name: str
) -> None:
    session = await put_session(proxied_store_short_timeout)
    proxy.reset_connections()
    proxy.server_filter = stray = InjectOnce(STRAY_REPLIES[name])
    while not stray.injected:  # the first use of a reset connection fails
        with suppress(StoreUnavailable):
            assert await proxied_store_short_timeout.find(session.digest) in (session, None)
    await wait_until_found(proxied_store_short_timeout, session)
    await put_with_retry(proxied_store_short_timeout, session)
    assert await raw_client.dbsize() == 1  # no key with another server ID was written


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_stray_reply_to_a_put_never_revives_a_session(
    proxy: TcpProxy, proxied_store_short_timeout: RedisStore, name: str
) -> None:
    session = build_session(at=NOW)
    tombstone = session.revoked(NOW)
    await put_with_retry(proxied_store_short_timeout, tombstone)
    for _ in range(3):
        proxy.server_filter = InjectOnce(STRAY_REPLIES[name])
        with suppress(StoreUnavailable):
            assert await proxied_store_short_timeout.put(session) == tombstone
        await wait_until_found(proxied_store_short_timeout, tombstone)


@pytest.mark.parametrize("which", ["null", "stale"])
async def test_put_of_a_tombstone_never_returns_the_active_session(
    proxy: TcpProxy, proxied_store: RedisStore, which: str
) -> None:
    session = build_session(at=NOW)
    tombstone = session.revoked(NOW)
    await proxied_store.put(session)
    proxy.server_filter = InjectOnce(
        {"null": b"$-1\r\n", "stale": format_bulk_string(encode(session))}[which]
    )
    assert await proxied_store.put(tombstone) == tombstone
    await wait_until_found(proxied_store, tombstone)


async def test_duplicated_replies_never_return_another_session(
    proxy: TcpProxy, proxied_store: RedisStore, unreadable: Counter[str]
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


async def test_replies_in_single_bytes_are_read(proxy: TcpProxy, proxied_store: RedisStore) -> None:
    proxy.chunk_size = 1
    sessions = [await put_session(proxied_store) for _ in range(3)]
    assert [await proxied_store.find(session.digest) for session in sessions] == sessions


@pytest.mark.parametrize("at", [1, 10, 60, 150])
async def test_connection_reset_within_a_reply_raises_unavailable(
    proxy: TcpProxy, proxied_store: RedisStore, at: int
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
    proxy: TcpProxy, proxied_store: RedisStore
) -> None:
    session = await put_session(proxied_store)
    proxy.reset_connections()
    await wait_until(lambda: not proxy.connections)
    with suppress(StoreUnavailable):
        assert await proxied_store.find(session.digest) == session
    assert await proxied_store.find(session.digest) == session


async def test_idle_connection_closed_by_the_server_fails_no_lookup(
    own_store: RedisStore, own_raw_client: RawClient
) -> None:
    session = await put_session(own_store)
    for _ in range(3):
        await own_raw_client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
        await own_raw_client.ping()  # by now the close has arrived
        assert await own_store.find(session.digest) == session


async def test_stalled_connection_raises_unavailable_within_the_timeout(
    proxy: TcpProxy, proxied_store_short_timeout: RedisStore
) -> None:
    session = await put_session(proxied_store_short_timeout)
    proxy.stall()
    await check_unavailable_within(0.2, proxied_store_short_timeout)
    proxy.resume()
    await wait_until_found(proxied_store_short_timeout, session)


async def check_unavailable_within(seconds: float, store: RedisStore) -> None:
    """Check that each operation raises StoreUnavailable in time."""
    loop = asyncio.get_running_loop()
    operations: list[Callable[[], Awaitable[object]]] = [
        lambda: store.find(build_digest()),
        lambda: store.put(build_session(at=NOW)),
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
    own_store_short_timeout: RedisStore, own_redis: Server
) -> None:
    sessions = [await put_session(own_store_short_timeout) for _ in range(5)]
    tombstone = sessions[0].revoked(NOW)
    own_redis.pause()
    await check_unavailable_within(0.2, own_store_short_timeout)
    with pytest.raises(StoreUnavailable):
        await own_store_short_timeout.put(tombstone)  # it may or may not be written
    own_redis.resume()
    await wait_until_available(own_store_short_timeout)
    for session in sessions[1:]:
        await wait_until_found(own_store_short_timeout, session)
    await put_with_retry(own_store_short_timeout, tombstone)
    await wait_until_found(own_store_short_timeout, tombstone)


async def test_out_of_memory_redis_fails_puts_but_not_lookups(
    own_store: RedisStore, own_raw_client: RawClient
) -> None:
    session = await put_session(own_store)
    await own_raw_client.config_set("maxmemory-policy", "noeviction")
    await own_raw_client.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable):
        await own_store.put(build_session(at=NOW))
    assert await own_store.find(session.digest) == session
    await own_raw_client.config_set("maxmemory", "0")
    await wait_until_available(own_store)


async def test_replica_raises_unavailable(
    own_store: RedisStore, own_raw_client: RawClient, redis_server: Server
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
    own_store: RedisStore, own_redis: Server, unreadable: Counter[str]
) -> None:
    async with connect_raw(own_redis.url) as raw_client:
        await raw_client.config_set("requirepass", "secret")
    await check_unavailable_within(0.5, own_store)
    with pytest.raises(StoreUnavailable) as outage:
        await own_store.ping()
    assert outage.value.reason == "AuthenticationError"
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
    own_store: RedisStore, own_raw_client: RawClient
) -> None:
    await own_raw_client.config_set("maxclients", 1)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await own_store.find(build_digest())
    await own_raw_client.config_set("maxclients", 100)
    await wait_until_available(own_store)


async def test_missing_acl_permission_raises_unavailable(
    own_store: RedisStore, own_raw_client: RawClient
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
    assert "BusyLoadingError" in reasons
    await wait_until_available(store)
    await store.close()
    server.stop()


async def test_flushed_script_is_sent_again(store: RedisStore, raw_client: RawClient) -> None:
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
    proxy: TcpProxy, proxied_store: RedisStore, unreadable: Counter[str]
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
    proxy: TcpProxy, proxied_store: RedisStore, unreadable: Counter[str]
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
    store: RedisStore, raw_client: RawClient
) -> None:
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
    proxy: TcpProxy, proxied_store: RedisStore, raw_client: RawClient
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
    store: RedisStore, raw_client: RawClient
) -> None:
    current, previous = build_rotated_session(at=NOW).copies()
    await store.put(current)
    await store.put(previous)
    before = (await raw_client.info("commandstats"))["cmdstat_getrange"]["calls"]
    found = await store.find_many([current.digest, build_digest(), previous.digest])
    assert found == {current.digest: current, previous.digest: previous}
    assert (await raw_client.info("commandstats"))["cmdstat_getrange"]["calls"] == before + 3


async def test_put_many_is_one_round_trip_and_returns_each_kept_session(
    proxy: TcpProxy, proxied_store: RedisStore, unreadable: Counter[str]
) -> None:
    sessions = {s.digest: s for s in (build_session(at=NOW) for _ in range(40))}
    ended = next(iter(sessions.values()))
    tombstone = ended.revoked(NOW)
    await proxied_store.put(tombstone)
    chunks = 0

    def count(_: object, chunk: bytes) -> bytes:
        nonlocal chunks
        chunks += 1
        return chunk

    proxy.client_filter = count
    kept = await proxied_store.put_many(sessions)
    assert kept == sessions | {ended.digest: tombstone}
    assert chunks <= 2  # one packet, which the proxy may read in two
    assert unreadable == {}


async def test_put_many_replaces_an_invalid_value(
    store: RedisStore, raw_client: RawClient, unreadable: Counter[str]
) -> None:
    sessions = {s.digest: s for s in (build_session(at=NOW) for _ in range(3))}
    await store.put_many(sessions)
    [key, *_] = await raw_client.keys()
    await raw_client.set(key, b"1" * 39 + b"invalid")
    assert await store.put_many(sessions) == sessions
    assert await store.find_many(tuple(sessions)) == sessions
    assert unreadable == {"redis": 1}


async def test_no_token_is_stored(store: RedisStore, raw_client: RawClient) -> None:
    """Only the digest of a token is stored in Redis."""
    await store.put(build_session(at=NOW))
    written = (
        await read_single_key(raw_client),
        await raw_client.get(await read_single_key(raw_client)),
    )
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
