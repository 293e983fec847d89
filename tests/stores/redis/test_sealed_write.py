"""Fills and restrictions in Redis: which depend on the seal, and what they leave there."""

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from sidegate.core.change_log import ChangedSession
from sidegate.core.errors import StoreUnavailable
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.codec import HEADER_SIZE, encode
from tests.contracts.values import build_digest, build_session
from tests.stores.conftest import BuildStore, RawClient
from tests.stores.redis.sealed import (
    SEAL_KEY,
    find_key,
    read_bytes,
    read_copy,
    read_seal,
    write_copy,
    write_seal,
)
from tests.stores.redis.strays import STRAY_REPLIES, InjectOnce
from tests.stores.sql.tcp_proxy import ProxiedConnection, TcpProxy, pass_through
from tests.support.processes import Server
from tests.support.redis_trust import FollowedRedis, build_mark
from tests.support.replace import replace

NOW: Final = datetime.now(UTC)
SECOND: Final = timedelta(seconds=1)

SESSION: Final = build_session(at=NOW)
TOUCHED: Final = SESSION.touched(NOW + SECOND)
EXTENDED: Final = SESSION.extended(SESSION.expires_at + SECOND, NOW)
TOMBSTONE: Final = SESSION.revoked(NOW)
ROTATED: Final = SESSION.rotated(build_digest(), SECOND, at=NOW)
DEADLINE_COPY: Final = ROTATED.copies()[1]
ROTATED_OUT: Final = EXTENDED.rotated_out(SESSION.digest)

ChangeSeal = Callable[[RawClient, Seal], Awaitable[object]]


async def keep(_: RawClient, __: Seal) -> None:
    """Leave the seal as it is."""


async def move(raw_client: RawClient, seal: Seal) -> None:
    """Move the seal, as another instance does in a round."""
    await write_seal(raw_client, seal.advanced(build_mark(101)))


async def revise(raw_client: RawClient, seal: Seal) -> None:
    """Replace the seal with one of the same mark, as another instance does between two pages."""
    await write_seal(raw_client, seal.advanced(None))


async def begin(raw_client: RawClient, seal: Seal) -> None:
    """Begin a new namespace, as another instance does."""
    await write_seal(raw_client, Seal.begin(seal.mark))


async def delete(raw_client: RawClient, _: Seal) -> None:
    await raw_client.delete(SEAL_KEY)


async def overwrite(raw_client: RawClient, _: Seal) -> None:
    await raw_client.delete(SEAL_KEY)
    await raw_client.rpush(SEAL_KEY, "an", "element")


async def list_copies(raw_client: RawClient) -> list[bytes]:
    keys: list[bytes] = await raw_client.execute_command("KEYS", "*")
    return [key for key in keys if not key.endswith(b":seal")]


# --- Fills

MOVES: Final[dict[str, tuple[ChangeSeal, bool]]] = {
    "same seal": (keep, True),
    "moved": (move, False),
    "of another revision": (revise, False),
    "new namespace": (begin, False),
    "no seal": (delete, False),
    "list": (overwrite, False),
}


@pytest.mark.parametrize(("change", "is_stored"), MOVES.values(), ids=MOVES)
async def test_fill_is_stored_only_under_the_seal_of_its_position(
    any_store: FollowedRedis, any_raw_client: RawClient, change: ChangeSeal, is_stored: bool
) -> None:
    await any_store.find(SESSION.digest)
    fill = any_store.build_fill(SESSION)
    await change(any_raw_client, await read_seal(any_raw_client))
    seal = await any_raw_client.dump(SEAL_KEY)
    assert await any_store.fill(fill) == SESSION
    assert len(await list_copies(any_raw_client)) == is_stored
    assert await any_raw_client.dump(SEAL_KEY) == seal


@pytest.mark.parametrize(
    ("changed_xid", "is_sent"),
    [(0, False), (6, True), (7, False), (99, True), (100, False), (200, False)],
)
async def test_fill_is_sent_only_if_its_mark_covers_the_session(
    store: FollowedRedis, raw_client: RawClient, changed_xid: int, is_sent: bool
) -> None:
    await store.follow()
    await write_seal(raw_client, (await read_seal(raw_client)).advanced(build_mark(100, 7)))
    store.trust.confirm(
        {seal.namespace: seal for seal in [await read_seal(raw_client)]}, store.trust.begin_round()
    )
    await store.find(SESSION.digest)
    before = await count_scripts(raw_client)
    fill = replace(store.build_fill(SESSION), session=replace(SESSION, changed_xid=changed_xid))
    assert await store.fill(fill) == SESSION
    assert await count_scripts(raw_client) - before == is_sent
    assert len(await list_copies(raw_client)) == is_sent


async def count_scripts(raw_client: RawClient) -> int:
    """Return how many scripts were run, one that was missing once."""
    stats = await raw_client.info("commandstats")
    evalsha = stats.get("cmdstat_evalsha", {"calls": 0, "failed_calls": 0})
    return int(evalsha["calls"])


async def test_fills_at_several_positions_are_each_compared_with_their_own(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    late, timely = build_session(at=NOW), build_session(at=NOW)
    await any_store.find(late.digest)
    fills = {late.digest: any_store.build_fill(late)}
    any_store.change_log.commit(build_session(at=NOW))
    await any_store.follow()
    fills[timely.digest] = any_store.build_fill(timely)
    kept = await any_store.fill_many(fills)
    assert kept == {late.digest: late, timely.digest: timely}
    assert await read_copy(any_raw_client, late.digest) is None
    assert await read_copy(any_raw_client, timely.digest) == timely


# --- Restrictions


@dataclass(frozen=True)
class Restriction:
    """A copy in Redis, a restriction, and what Redis has after it: a copy, or a miss (None)."""

    kept: Session | None
    restriction: Session
    found: Session | None


RESTRICTIONS: Final[dict[str, Restriction]] = {
    "tombstone, nothing there": Restriction(None, TOMBSTONE, TOMBSTONE),
    "tombstone": Restriction(SESSION, TOMBSTONE, TOMBSTONE),
    "tombstone of a lower version": Restriction(
        EXTENDED.extended(EXTENDED.expires_at + SECOND, NOW), TOMBSTONE, TOMBSTONE
    ),
    "tombstone again": Restriction(TOMBSTONE, TOMBSTONE, TOMBSTONE),
    "older tombstone": Restriction(EXTENDED.revoked(NOW), TOMBSTONE, EXTENDED.revoked(NOW)),
    "rotated out": Restriction(SESSION, ROTATED_OUT, ROTATED_OUT),
    "rotated out, but revoked": Restriction(TOMBSTONE, ROTATED_OUT, TOMBSTONE),
    "copy with a deadline": Restriction(SESSION, DEADLINE_COPY, None),
    "copy with a deadline, nothing there": Restriction(None, DEADLINE_COPY, None),
    "copy with a deadline, but revoked": Restriction(TOMBSTONE, DEADLINE_COPY, TOMBSTONE),
    "copy that opens": Restriction(SESSION, EXTENDED, None),
    "copy that opens, equal": Restriction(EXTENDED, EXTENDED, None),
    "copy that opens, but revoked": Restriction(TOMBSTONE, EXTENDED, TOMBSTONE),
    "copy that opens, older": Restriction(EXTENDED, TOUCHED, EXTENDED),
    "copy that opens, less active": Restriction(TOUCHED, SESSION, TOUCHED),
}

SEALS: Final[dict[str, ChangeSeal]] = {
    "same seal": keep,
    "moved": move,
    "of another revision": revise,
}


@pytest.mark.parametrize("change", SEALS.values(), ids=SEALS)
@pytest.mark.parametrize("row", RESTRICTIONS.values(), ids=RESTRICTIONS)
async def test_restriction_is_applied_under_any_seal_of_the_namespace(
    any_store: FollowedRedis,
    any_raw_client: RawClient,
    unreadable: Counter[str],
    row: Restriction,
    change: ChangeSeal,
) -> None:
    if row.kept is not None:
        await any_store.put(row.kept)
    await change(any_raw_client, await read_seal(any_raw_client))
    seal = await read_seal(any_raw_client)
    assert await any_store.restrict_many([row.restriction])
    assert await any_store.find(SESSION.digest) == row.found
    assert await read_seal(any_raw_client) == seal
    assert unreadable == {}


@pytest.mark.parametrize("row", RESTRICTIONS.values(), ids=RESTRICTIONS)
async def test_no_older_copy_is_filled_after_a_restriction(
    store: FollowedRedis, unreadable: Counter[str], row: Restriction
) -> None:
    await store.follow()
    if row.kept is not None:
        await store.put(row.kept)
    assert await store.find(build_digest()) is None
    assert await store.restrict_many([row.restriction])
    for older in (SESSION, TOUCHED, EXTENDED, DEADLINE_COPY):
        if older.freshness < row.restriction.freshness:
            await store.fill(store.build_fill(older))
            assert await store.find(SESSION.digest) == row.found
    assert unreadable == {}


async def test_fresher_copy_replaces_what_only_blocks_older_ones(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    await any_store.put(SESSION)
    assert await any_store.restrict_many([EXTENDED])
    key = await find_key(any_raw_client, SESSION.digest)
    assert await read_bytes(any_raw_client, key) == encode(EXTENDED)[:HEADER_SIZE]
    assert await any_store.put(EXTENDED) == EXTENDED
    assert await any_store.find(SESSION.digest) == EXTENDED


async def test_restriction_of_a_new_namespace_is_tried_again_there(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    await any_store.put(SESSION)
    former = (await read_seal(any_raw_client)).namespace
    await begin(any_raw_client, await read_seal(any_raw_client))
    await write_copy(any_raw_client, SESSION)
    assert await any_store.restrict_many([TOMBSTONE])
    assert await read_copy(any_raw_client, SESSION.digest) == TOMBSTONE
    assert await read_copy(any_raw_client, SESSION.digest, namespace=former) == SESSION


async def test_restriction_by_a_store_that_has_read_nothing_is_applied(
    any_store: FollowedRedis, any_redis: Server, build_store: BuildStore
) -> None:
    await any_store.put(SESSION)
    assert await build_store(any_redis.url).restrict_many([TOMBSTONE])
    assert await any_store.find(SESSION.digest) == TOMBSTONE


@pytest.mark.parametrize("change", [delete, overwrite])
@pytest.mark.parametrize("meets", ["nothing", "the loss of the seal"])
async def test_restriction_without_a_seal_is_refused(
    any_store: FollowedRedis, any_raw_client: RawClient, change: ChangeSeal, meets: str
) -> None:
    await any_store.put(SESSION)
    await change(any_raw_client, await read_seal(any_raw_client))
    if meets == "the loss of the seal":
        with pytest.raises(StoreUnavailable):
            await any_store.find(SESSION.digest)
    for _ in range(3):
        assert not await any_store.restrict_many([TOMBSTONE])


async def test_restriction_by_a_store_that_has_read_nothing_is_refused_without_a_seal(
    any_redis: Server, any_raw_client: RawClient, build_store: BuildStore
) -> None:
    store = build_store(any_redis.url)
    for _ in range(3):
        assert not await store.restrict_many([TOMBSTONE])
    assert await any_raw_client.dbsize() == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_any_order_of_fills_and_restrictions_leaves_the_freshest_state(
    store: FollowedRedis, order: tuple[int, ...]
) -> None:
    session = build_session(at=NOW)
    touched = session.touched(NOW + SECOND)
    extended = touched.extended(session.expires_at + SECOND, NOW)
    history = [session, touched, extended, extended.revoked(NOW)]
    for number, place in enumerate(order):
        if number % 2:
            assert await store.restrict_many([history[place]])
        else:
            await store.put(history[place])
    assert await store.find(session.digest) in (history[-1], None)
    assert await store.restrict_many([history[-1]])
    assert await store.find(session.digest) == history[-1]


# --- Values of other programs

VALUES: Final[dict[str, bytes]] = {
    "text": b"hello",
    "part of a header": encode(SESSION)[:20],
    "another session": encode(build_session(at=NOW - SECOND)),
    "megabytes": bytes(2_000_000),
}


@pytest.mark.parametrize("restriction", [TOMBSTONE, EXTENDED], ids=["tombstone", "opens"])
@pytest.mark.parametrize("value", [*VALUES.values(), None], ids=[*VALUES, "list"])
async def test_restriction_replaces_a_value_that_is_no_copy(
    any_store: FollowedRedis,
    any_raw_client: RawClient,
    value: bytes | None,
    restriction: Session,
) -> None:
    key = await find_key(any_raw_client, SESSION.digest)
    if value is None:
        await any_raw_client.rpush(key, "an", "element")
    else:
        await any_raw_client.set(key, value)
    assert await any_store.restrict_many([restriction])
    found = await any_store.find(SESSION.digest)
    assert found == (TOMBSTONE if restriction is TOMBSTONE else None)


# --- Replies that were not asked for


@pytest.mark.parametrize("name", STRAY_REPLIES)
async def test_stray_reply_to_a_restriction_is_never_taken_for_its_result(
    proxy: TcpProxy,
    proxied_store_short_timeout: FollowedRedis,
    raw_client: RawClient,
    name: str,
) -> None:
    store = proxied_store_short_timeout
    for _ in range(2):
        session = build_session(at=NOW)
        with suppress(StoreUnavailable):
            await store.put(session)
        await write_copy(raw_client, session)
        proxy.server_filter = InjectOnce(STRAY_REPLIES[name])
        with suppress(StoreUnavailable):
            if await store.restrict_many([session.revoked(NOW)]):
                assert await read_copy(raw_client, session.digest) == session.revoked(NOW)
        with suppress(StoreUnavailable):
            assert await store.find(session.digest) in (session, session.revoked(NOW), None)


async def test_stray_reply_to_a_script_drops_the_connection(
    proxy: TcpProxy, proxied_store: FollowedRedis
) -> None:
    await proxied_store.put(SESSION)
    operations: list[Callable[[], Awaitable[object]]] = [
        lambda: proxied_store.restrict_many([TOMBSTONE]),
        lambda: proxied_store.fill(proxied_store.build_fill(SESSION)),
    ]
    for operation in operations:
        accepted = proxy.accepted
        for name in ("null", "integer", "status", "array", "record of another session"):
            proxy.server_filter = InjectOnce(STRAY_REPLIES[name])
            with pytest.raises(StoreUnavailable):
                await operation()
        proxy.server_filter = pass_through
        assert await operation()
        assert proxy.accepted == accepted + 5


async def test_replies_that_come_twice_are_never_taken_for_those_of_later_scripts(
    proxy: TcpProxy, proxied_store: FollowedRedis, raw_client: RawClient
) -> None:
    sessions = [build_session(at=NOW) for _ in range(20)]
    await proxied_store.put_many(sessions)
    for number, session in enumerate(sessions):
        if number % 2:
            proxy.server_filter = TwiceOnce()
        with suppress(StoreUnavailable):
            if await proxied_store.restrict_many([session.revoked(NOW)]):
                assert await read_copy(raw_client, session.digest) == session.revoked(NOW)
        with suppress(StoreUnavailable):
            filled = await proxied_store.fill(proxied_store.build_fill(session))
            assert filled == await read_copy(raw_client, session.digest)
    tombstones = [session.revoked(NOW) for session in sessions]
    assert await proxied_store.restrict_many(tombstones)
    assert [await read_copy(raw_client, session.digest) for session in sessions] == tombstones


async def test_reply_to_an_earlier_script_is_never_taken_for_that_of_a_later_one(
    proxy: TcpProxy, proxied_store: FollowedRedis, raw_client: RawClient
) -> None:
    await proxied_store.put(SESSION)
    recorded = list[bytes]()

    def record(_: object, chunk: bytes) -> bytes:
        recorded.append(chunk)
        return chunk

    proxy.server_filter = record
    assert await proxied_store.restrict_many([EXTENDED])
    await raw_client.delete(SEAL_KEY)
    proxy.server_filter = InjectOnce(b"".join(recorded))
    with pytest.raises(StoreUnavailable):
        await proxied_store.restrict_many([TOMBSTONE])
    proxy.server_filter = pass_through
    assert not await proxied_store.restrict_many([TOMBSTONE])


class TwiceOnce:
    """Sends the next reply twice."""

    def __init__(self) -> None:
        self._times = 2

    def __call__(self, _: ProxiedConnection, chunk: bytes) -> bytes:
        times, self._times = self._times, 1
        return chunk * times


async def test_scripts_are_sent_again_when_redis_has_forgotten_them(
    any_store: FollowedRedis, any_raw_client: RawClient
) -> None:
    await any_store.put(SESSION)
    await any_raw_client.script_flush()
    assert await any_store.restrict_many([TOMBSTONE])
    assert await any_store.find(SESSION.digest) == TOMBSTONE


async def test_changes_of_many_sessions_are_restricted_in_one_round_trip(
    proxy: TcpProxy, proxied_store: FollowedRedis
) -> None:
    sessions = [build_session(at=NOW) for _ in range(30)]
    await proxied_store.put_many(sessions)
    chunks = 0

    def count(_: object, chunk: bytes) -> bytes:
        nonlocal chunks
        chunks += 1
        return chunk

    proxy.client_filter = count
    tombstones = [ChangedSession(session.revoked(NOW)) for session in sessions]
    assert await proxied_store.restrict(tombstones)
    assert chunks <= 2  # one packet, which the proxy may read in two
