"""What is true of Redis only: lives and keys, rubbish, strays, outages, and who leaves midway."""

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

from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session
from sidegate.core.token import Digest
from sidegate.stores.codec import HEAD, encode
from sidegate.stores.redis.connection import VENDOR_ERRORS
from sidegate.stores.redis.store import RedisStore
from tests.contracts.values import a_digest, a_rotated_session, a_session, a_tombstone
from tests.stores.conftest import Raw, client, counting
from tests.stores.redis.strays import STRAYS, Once, bulk
from tests.stores.sql.wire import Link, Wire
from tests.stores.waiting import nothing_is_left, until, until_answered
from tests.support.processes import Server, free_port, give_away
from tests.support.servers import start_redis

NOW: Final = datetime.now(UTC)
SECOND: Final = timedelta(seconds=1)
HOUR: Final = timedelta(hours=1)


async def the_key(raw: Raw) -> bytes:
    """Return the one key there is."""
    [key] = await raw.keys()
    assert isinstance(key, bytes)
    return key


async def key_of(store: RedisStore, raw: Raw, digest: Digest) -> bytes:
    """Return the key under which the store looks for a digest, and leave nothing there."""
    await store.put(a_session(at=NOW, digest=digest))
    key = await the_key(raw)
    await raw.delete(key)
    return key


async def is_unavailable(call: Awaitable[object]) -> bool:
    try:
        await call
    except StoreUnavailable:
        return True
    return False


async def make_known(store: RedisStore, session: Session) -> None:
    """Put a session, however long it takes a store that is in a hurry."""

    async def put() -> bool:
        return not await is_unavailable(store.put(session))

    await until_answered(put)


async def answers_again(store: RedisStore) -> None:
    """Return when the store answers, and check that it answers right."""
    session = await session_under(store)
    await comes_right(store, session)
    with suppress(StoreUnavailable):
        assert await store.find(a_digest()) is None


# --- Keys and lives


async def test_a_key_names_the_servers_life_and_the_digest(store: RedisStore, raw: Raw) -> None:
    session = a_session(at=NOW)
    await store.put(session)
    info = await raw.info()
    run_id, replid = info["run_id"], info["master_replid"]
    spelled = urlsafe_b64encode(session.digest).decode().rstrip("=")
    assert (
        await the_key(raw) == f"sidegate:v1:{run_id[:16]}-{replid[:16]}:0:s:{{{spelled}}}".encode()
    )


@pytest.fixture
async def keeping(workdir: Path) -> AsyncIterator[Server]:
    """A Redis that comes back with what it has saved."""
    server = await asyncio.to_thread(start_redis, workdir, extra_args=["--save", "3600 1"])
    yield server
    server.stop()


async def save_and_kill(server: Server, *, meanwhile: Callable[[], Awaitable[object]]) -> None:
    """Kill a Redis and start it again with what it knew before `meanwhile`."""
    async with client(server.url) as raw:
        await raw.save()
        await meanwhile()
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.restart)
    async with client(server.url) as raw:
        assert await raw.dbsize() > 0  # or nothing would be shown by what follows


async def test_what_a_snapshot_brings_back_is_not_believed(
    keeping: Server, unreadable: Counter[str]
) -> None:
    store = counting(keeping.url, unreadable)
    session, untouched = a_session(at=NOW), a_session(at=NOW)
    await store.put(session)
    await store.put(untouched)
    await save_and_kill(keeping, meanwhile=lambda: store.put(session.revoked(NOW)))
    await until_answered(lambda: answers(store))
    assert await store.find(session.digest) is None
    assert await store.find(untouched.digest) is None
    assert await store.put(untouched) == untouched
    await store.close()
    assert unreadable == {}


async def answers(store: RedisStore) -> bool:
    return not await is_unavailable(store.ping())


async def test_a_connection_of_an_earlier_life_is_not_taken_for_one_of_this(
    keeping: Server, unreadable: Counter[str]
) -> None:
    store = counting(keeping.url, unreadable)
    sessions = [a_session(at=NOW) for _ in range(20)]
    await asyncio.gather(*map(store.put, sessions))  # on many connections
    await save_and_kill(keeping, meanwhile=lambda: asyncio.sleep(0))
    for _ in range(3):
        found = await asyncio.gather(
            *(store.find(session.digest) for session in sessions), return_exceptions=True
        )
        assert not any(isinstance(answer, Session) for answer in found)
    await store.close()


# --- How long a key lives


async def seconds_off(raw: Raw, session: Session) -> float:
    """Return by how much the end of the one key misses the end of the session."""
    remaining = await raw.pttl(await the_key(raw))
    assert remaining > 0, "a key without an end"
    seconds, microseconds = await raw.time()
    ends = datetime.fromtimestamp(seconds, UTC) + timedelta(
        microseconds=microseconds, milliseconds=remaining
    )
    return abs((ends - session.expires_at).total_seconds())


async def test_a_key_ends_with_its_session(store: RedisStore, raw: Raw) -> None:
    for lifetime in (SECOND * 30, HOUR, HOUR * 24 * 365 * 50):
        session = a_session(at=NOW, expires_at=datetime.now(UTC) + lifetime)
        await store.put(session)
        assert await seconds_off(raw, session) < 1
        await raw.flushall()


async def test_a_key_moves_with_the_end_of_its_session(store: RedisStore, raw: Raw) -> None:
    session = a_session(at=NOW)
    extended = session.extended(session.expires_at + HOUR, NOW)
    await store.put(session)
    await store.put(extended)
    assert await seconds_off(raw, extended) < 1
    await store.put(session)  # too late: the fresher stays, and so does its end
    assert await seconds_off(raw, extended) < 1


async def test_a_tombstone_stays_until_its_session_would_have_ended(
    store: RedisStore, raw: Raw
) -> None:
    tombstone = a_tombstone(at=NOW)
    await store.put(tombstone)
    assert await seconds_off(raw, tombstone) < 1


@pytest.mark.parametrize("ago", [timedelta(milliseconds=1), HOUR, HOUR * 24 * 365 * 20])
async def test_a_session_that_has_ended_leaves_no_key(
    store: RedisStore, raw: Raw, ago: timedelta
) -> None:
    session = a_session(at=NOW - ago - HOUR, expires_at=NOW - ago)
    await store.put(session)
    assert await raw.keys() == []
    assert await store.find(session.digest) is None


# --- Rubbish under a key


Lay = Callable[[Raw, bytes, Session], Awaitable[object]]


async def a_list(raw: Raw, key: bytes, _: Session) -> None:
    await raw.rpush(key, b"an", b"element")


async def a_hash(raw: Raw, key: bytes, _: Session) -> None:
    await raw.hset(key, mapping={"user_id": "ada"})


def bytes_of(make: Callable[[Session], bytes]) -> Lay:
    async def lay(raw: Raw, key: bytes, session: Session) -> None:
        await raw.set(key, make(session))

    return lay


FRESHEST: Final = b"1" + b"9" * (HEAD - 1)

RUBBISH: Final[dict[str, Lay]] = {
    "a list": a_list,
    "a hash": a_hash,
    "a truncated record": bytes_of(lambda session: encode(session)[:-1]),
    "a head alone": bytes_of(lambda session: encode(session)[:HEAD]),
    "eight megabytes": bytes_of(lambda session: encode(session) + bytes(8_000_000)),
    "eight megabytes that look fresher": bytes_of(lambda _: FRESHEST + bytes(8_000_000)),
    "another's record": bytes_of(lambda _: encode(a_session(at=NOW))),
    "another's tombstone": bytes_of(lambda _: encode(a_tombstone(at=NOW + HOUR))),
    "what looks fresher than anything": bytes_of(lambda _: FRESHEST + b"\x90"),
    "a pickle": bytes_of(lambda session: pickle.dumps(session.user_id)),
    "json": bytes_of(lambda session: json.dumps({"user_id": session.user_id}).encode()),
    "a number": bytes_of(lambda _: b"1"),
    "digits": bytes_of(lambda _: b"1" * 500),
}


@pytest.mark.parametrize("name", RUBBISH)
async def test_rubbish_under_a_key_is_a_miss_and_counted_and_mended_by_the_next_put(
    store: RedisStore, raw: Raw, unreadable: Counter[str], name: str
) -> None:
    session = a_session(at=NOW)
    key = await key_of(store, raw, session.digest)
    await RUBBISH[name](raw, key, session)
    assert await store.find(session.digest) is None
    assert unreadable == {"redis": 1}
    assert await store.put(session) == session
    assert await store.find(session.digest) == session
    assert await seconds_off(raw, session) < 1


async def test_rubbish_under_one_key_hurts_no_other_answer(
    store: RedisStore, raw: Raw, unreadable: Counter[str]
) -> None:
    good, bad = [a_session(at=NOW) for _ in range(5)], [a_session(at=NOW) for _ in range(3)]
    keys = [await key_of(store, raw, session.digest) for session in bad]
    for key, lay in zip(keys, (a_list, RUBBISH["another's record"], a_hash), strict=True):
        await lay(raw, key, bad[0])
    for session in good:
        await store.put(session)
    found = await store.find_many([session.digest for session in (*good, *bad)])
    assert found == {session.digest: session for session in good}
    assert unreadable == {"redis": 3}


async def test_a_huge_value_is_not_carried_over(store: RedisStore, raw: Raw) -> None:
    session = a_session(at=NOW)
    key = await key_of(store, raw, session.digest)
    await RUBBISH["eight megabytes that look fresher"](raw, key, session)
    before = (await raw.info("stats"))["total_net_output_bytes"]
    for _ in range(3):
        await store.find(session.digest)
    await store.put(session)
    assert (await raw.info("stats"))["total_net_output_bytes"] - before < 200_000


# --- Words on the wire that nobody said


async def session_under(store: RedisStore) -> Session:
    """Return a session that the store knows."""
    session = a_session(at=NOW)
    await make_known(store, session)
    return session


@pytest.mark.parametrize("name", STRAYS)
async def test_a_stray_word_on_an_idle_connection_is_nobodys_answer(
    wire: Wire, wired: RedisStore, raw: Raw, unreadable: Counter[str], name: str
) -> None:
    session = await session_under(wired)
    heard = asyncio.Event()
    wire.inject(STRAYS[name])
    asyncio.get_running_loop().call_later(0.005, heard.set)
    await heard.wait()
    assert await wired.find(session.digest) == session
    assert unreadable == {}
    assert await raw.dbsize() == 1


@pytest.mark.parametrize("name", STRAYS)
async def test_a_stray_word_on_a_busy_connection_gives_nobody_anothers_session(
    wire: Wire, hasty_wired: RedisStore, name: str
) -> None:
    sessions = [await session_under(hasty_wired) for _ in range(3)]
    for _ in range(3):
        wire.answers = Once(STRAYS[name])
        for session in sessions * 2:
            with suppress(StoreUnavailable):
                assert await hasty_wired.find(session.digest) in (session, None)
    for session in sessions:
        await comes_right(hasty_wired, session)


async def comes_right(store: RedisStore, session: Session) -> None:
    """Return when the store knows the session; until then it may know nothing, but nothing else."""

    async def right() -> bool:
        with suppress(StoreUnavailable):
            found = await store.find(session.digest)
            assert found in (session, None)
            return found is not None
        return False

    await until_answered(right)


@pytest.mark.parametrize("name", STRAYS)
async def test_a_stray_word_at_the_greeting_gives_nobody_a_wrong_connection(
    wire: Wire, hasty_wired: RedisStore, raw: Raw, name: str
) -> None:
    session = await session_under(hasty_wired)
    wire.cut()
    wire.answers = stray = Once(STRAYS[name])
    while not stray.said:  # a connection that was reset is found out by the first who uses it
        with suppress(StoreUnavailable):
            assert await hasty_wired.find(session.digest) in (session, None)
    await comes_right(hasty_wired, session)
    await make_known(hasty_wired, session)
    assert await raw.dbsize() == 1  # nothing was written under the key of another life


@pytest.mark.parametrize("name", STRAYS)
async def test_a_stray_word_brings_no_dead_session_back(
    wire: Wire, hasty_wired: RedisStore, name: str
) -> None:
    session = a_session(at=NOW)
    tombstone = session.revoked(NOW)
    await make_known(hasty_wired, tombstone)
    for _ in range(3):
        wire.answers = Once(STRAYS[name])
        with suppress(StoreUnavailable):
            assert await hasty_wired.put(session) == tombstone
        await comes_right(hasty_wired, tombstone)


@pytest.mark.parametrize("which", ["nothing", "stale"])
async def test_a_tombstone_is_not_answered_with_a_life_it_has_ended(
    wire: Wire, wired: RedisStore, which: str
) -> None:
    session = a_session(at=NOW)
    tombstone = session.revoked(NOW)
    await wired.put(session)
    wire.answers = Once({"nothing": b"$-1\r\n", "stale": bulk(encode(session))}[which])
    assert await wired.put(tombstone) == tombstone
    await comes_right(wired, tombstone)


async def test_doubled_answers_give_nobody_anothers_session(
    wire: Wire, wired: RedisStore, unreadable: Counter[str]
) -> None:
    sessions = [await session_under(wired) for _ in range(10)]
    wire.answers = lambda _, chunk: chunk * 2
    answered = 0
    for session in sessions * 10:
        try:
            found = await wired.find(session.digest)
        except StoreUnavailable:
            continue
        assert found in (session, None)
        answered += found is not None
    assert unreadable["redis"] < 50
    wire.answers = lambda _, chunk: chunk
    for session in sessions:
        await comes_right(wired, session)


# --- A bad wire


async def test_answers_in_single_bytes_are_answers(wire: Wire, wired: RedisStore) -> None:
    wire.slice = 1
    sessions = [await session_under(wired) for _ in range(3)]
    assert [await wired.find(session.digest) for session in sessions] == sessions


@pytest.mark.parametrize("at", [1, 10, 60, 150])
async def test_a_link_cut_within_an_answer_is_an_outage_and_no_answer(
    wire: Wire, wired: RedisStore, at: int
) -> None:
    session = await session_under(wired)

    def cut(link: Link, chunk: bytes) -> bytes:
        asyncio.get_running_loop().call_later(0.005, link.cut)
        return chunk[:at]

    wire.answers = cut
    with pytest.raises(StoreUnavailable):
        await wired.find(session.digest)
    wire.answers = lambda _, chunk: chunk
    assert await wired.find(session.digest) == session


async def test_an_idle_connection_that_was_reset_costs_one_answer_at_most(
    wire: Wire, wired: RedisStore
) -> None:
    session = await session_under(wired)
    wire.cut()
    await until(lambda: not wire.links)
    with suppress(StoreUnavailable):
        assert await wired.find(session.digest) == session
    assert await wired.find(session.digest) == session


async def test_an_idle_connection_that_the_server_closed_costs_none(
    mortal: RedisStore, raw_mortal: Raw
) -> None:
    session = await session_under(mortal)
    for _ in range(3):
        await raw_mortal.execute_command("CLIENT KILL TYPE normal SKIPME yes")
        await raw_mortal.ping()  # by now the news of the end has arrived
        assert await mortal.find(session.digest) == session


async def test_a_wire_that_falls_silent_is_an_outage_soon(
    wire: Wire, hasty_wired: RedisStore
) -> None:
    session = await session_under(hasty_wired)
    wire.hold()
    await is_an_outage_within(0.2, hasty_wired)
    wire.let_go()
    await comes_right(hasty_wired, session)


async def is_an_outage_within(seconds: float, store: RedisStore) -> None:
    """Check that the store says so in time, for each verb."""
    loop = asyncio.get_running_loop()
    verbs: list[Callable[[], Awaitable[object]]] = [
        lambda: store.find(a_digest()),
        lambda: store.put(a_session(at=NOW)),
        lambda: store.server.publish("channel", [b"message"]),
        store.ping,
    ]
    for verb in verbs:
        taken = []
        for _ in range(3):  # the machine may be busy with something else for once
            start = loop.time()
            with pytest.raises(StoreUnavailable):
                await verb()
            taken.append(loop.time() - start)
        assert min(taken) < seconds


# --- A Redis that cannot answer


async def test_a_frozen_redis_is_an_outage_soon_and_answers_right_when_it_thaws(
    hasty_mortal: RedisStore, own_redis: Server
) -> None:
    sessions = [await session_under(hasty_mortal) for _ in range(5)]
    tombstone = sessions[0].revoked(NOW)
    own_redis.pause()
    await is_an_outage_within(0.2, hasty_mortal)
    with pytest.raises(StoreUnavailable):
        await hasty_mortal.put(tombstone)  # it may or may not arrive
    own_redis.resume()
    await answers_again(hasty_mortal)
    for session in sessions[1:]:
        await comes_right(hasty_mortal, session)
    await make_known(hasty_mortal, tombstone)
    await comes_right(hasty_mortal, tombstone)


async def test_a_redis_without_memory_is_an_outage_for_what_is_put_only(
    mortal: RedisStore, raw_mortal: Raw
) -> None:
    session = await session_under(mortal)
    await raw_mortal.config_set("maxmemory-policy", "noeviction")
    await raw_mortal.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable):
        await mortal.put(a_session(at=NOW))
    assert await mortal.find(session.digest) == session
    await raw_mortal.config_set("maxmemory", "0")
    await answers_again(mortal)


async def test_a_replica_is_an_outage(
    mortal: RedisStore, raw_mortal: Raw, redis_server: Server
) -> None:
    session = await session_under(mortal)
    await raw_mortal.execute_command("REPLICAOF", "127.0.0.1", redis_server.port)
    with pytest.raises(StoreUnavailable):
        await mortal.put(session)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await mortal.find(session.digest)
    await raw_mortal.execute_command("REPLICAOF", "NO", "ONE")
    await answers_again(mortal)


async def test_a_redis_that_asks_for_a_password_we_do_not_have_is_an_outage(
    mortal: RedisStore, own_redis: Server, unreadable: Counter[str]
) -> None:
    async with client(own_redis.url) as raw:
        await raw.config_set("requirepass", "secret")
    await is_an_outage_within(0.5, mortal)
    with pytest.raises(StoreUnavailable) as outage:
        await mortal.ping()
    assert outage.value.why == "AuthenticationError"
    knowing = counting(own_redis.url.replace("//", "//:secret@"), unreadable)
    await answers_again(knowing)
    await knowing.close()


async def test_a_wrong_password_is_an_outage_and_is_not_told(own_redis: Server) -> None:
    async with client(own_redis.url) as raw:
        await raw.config_set("requirepass", "secret")
    store = counting(own_redis.url.replace("//", "//:mistaken@"), Counter())
    with pytest.raises(StoreUnavailable) as outage:
        await store.ping()
    assert "mistaken" not in str(outage.value)
    await store.close()


async def test_a_redis_that_takes_no_more_clients_is_an_outage(
    mortal: RedisStore, raw_mortal: Raw
) -> None:
    await raw_mortal.config_set("maxclients", 1)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await mortal.find(a_digest())
    await raw_mortal.config_set("maxclients", 100)
    await answers_again(mortal)


async def test_a_redis_that_forbids_us_our_commands_is_an_outage(
    mortal: RedisStore, raw_mortal: Raw
) -> None:
    await session_under(mortal)
    await raw_mortal.execute_command("ACL SETUSER default -getrange -evalsha -eval -publish -ping")
    await is_an_outage_within(0.5, mortal)
    await raw_mortal.execute_command("ACL SETUSER default +@all")
    await answers_again(mortal)


async def test_a_redis_that_is_still_loading_is_an_outage(
    workdir: Path, unreadable: Counter[str]
) -> None:
    command = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"
    (workdir / "appendonly.aof").write_bytes(command * 500_000)  # takes about half a second
    give_away(workdir)
    port = free_port()
    store = counting(f"redis://127.0.0.1:{port}/0", unreadable)
    starting = asyncio.create_task(
        asyncio.to_thread(start_redis, workdir, port, ["--appendonly", "yes"])
    )
    reasons = set()
    while not starting.done():
        try:
            await store.ping()
        except StoreUnavailable as outage:
            reasons.add(outage.why)
        await asyncio.sleep(0)
    server = await starting
    assert "BusyLoadingError" in reasons
    await answers_again(store)
    await store.close()
    server.stop()


async def test_scripts_that_were_flushed_are_sent_again(store: RedisStore, raw: Raw) -> None:
    session = a_session(at=NOW)
    history = [session, session.touched(NOW + SECOND), session.revoked(NOW)]
    for copy in history:
        await raw.script_flush()
        assert await store.put(copy) == copy
        await raw.script_flush()
        assert await store.put(session) == copy
    assert await store.find(session.digest) == history[-1]


def test_whatever_the_vendor_raises_is_known_as_an_outage() -> None:
    raised = {
        kind
        for kind in vars(redis.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
    }
    assert len(raised) > 20
    assert {kind for kind in raised if not issubclass(kind, VENDOR_ERRORS)} == set()


# --- Callers who leave, and how much is open


async def connections(raw: Raw) -> int:
    """Return how many connections lead to the server, but for our own."""
    return len(await raw.client_list()) - 1


async def test_callers_who_leave_at_any_moment_shift_nobodys_answer(
    wire: Wire, wired: RedisStore, unreadable: Counter[str]
) -> None:
    dice = random.Random(20)
    loop = asyncio.get_running_loop()
    wire.delay = 0.001
    sessions = [await session_under(wired) for _ in range(50)]
    tombstones = [a_tombstone(at=NOW) for _ in range(50)]
    for tombstone in tombstones:
        await wired.put(tombstone)
    known = {session.digest: session for session in (*sessions, *tombstones)}
    right = 0
    for _ in range(30):
        asked = [dice.choice((*known, a_digest())) for _ in range(100)]
        callers = [asyncio.create_task(wired.find(digest)) for digest in asked]
        for caller in dice.sample(callers, 30):
            loop.call_later(dice.random() * 0.03, caller.cancel)
        for digest, answer in zip(
            asked, await asyncio.gather(*callers, return_exceptions=True), strict=True
        ):
            if isinstance(answer, asyncio.CancelledError):
                continue
            assert answer == known.get(digest)
            right += 1
    assert right > 2000
    assert unreadable == {}


async def test_puts_that_are_left_midway_shift_nobodys_answer(
    wire: Wire, wired: RedisStore, unreadable: Counter[str]
) -> None:
    dice = random.Random(21)
    loop = asyncio.get_running_loop()
    wire.delay = 0.001
    for _ in range(10):
        sessions = [a_session(at=NOW) for _ in range(50)]
        putting = [asyncio.create_task(wired.put(session)) for session in sessions]
        for put in dice.sample(putting, 15):
            loop.call_later(dice.random() * 0.02, put.cancel)
        for session, kept in zip(
            sessions, await asyncio.gather(*putting, return_exceptions=True), strict=True
        ):
            assert kept == session or isinstance(kept, asyncio.CancelledError)
    assert unreadable == {}


async def test_a_storm_opens_a_bounded_number_of_connections(store: RedisStore, raw: Raw) -> None:
    storm = [asyncio.create_task(store.find(a_digest())) for _ in range(2000)]
    most = 0
    while not all(caller.done() for caller in storm):
        most = max(most, await connections(raw))
        for caller in random.Random(22).sample(storm, 20):
            caller.cancel()
    assert 1 <= most <= 64 + 10  # besides those that are just being closed
    await until_answered(lambda: at_most(32, raw))
    await answers_again(store)


async def at_most(limit: int, raw: Raw) -> bool:
    return await connections(raw) <= limit


async def test_a_store_that_is_closed_leaves_no_connection(
    redis_url: str, raw: Raw, unreadable: Counter[str]
) -> None:
    store = counting(redis_url, unreadable)
    await asyncio.gather(*(store.find(a_digest()) for _ in range(20)))
    assert await connections(raw) > 1
    await store.close()
    await until_answered(lambda: at_most(0, raw))


async def test_a_store_that_was_never_asked_never_connects(
    redis_url: str, raw: Raw, unreadable: Counter[str]
) -> None:
    store = counting(redis_url, unreadable)
    assert await connections(raw) == 0
    await store.close()


async def test_connections_that_fail_are_not_kept(wire: Wire, wired: RedisStore, raw: Raw) -> None:
    await session_under(wired)
    for _ in range(20):
        wire.cut()
        wire.answers = Once(b"-ERR no\r\n")
        await is_unavailable(wired.find(a_digest()))
    wire.answers = lambda _, chunk: chunk
    await answers_again(wired)
    await until_answered(lambda: at_most(1, raw))


async def test_a_round_trip_serves_many_and_of_two_digests_of_a_session_each(
    store: RedisStore, raw: Raw
) -> None:
    current, previous = a_rotated_session(at=NOW).copies()
    await store.put(current)
    await store.put(previous)
    before = (await raw.info("commandstats"))["cmdstat_getrange"]["calls"]
    found = await store.find_many([current.digest, a_digest(), previous.digest])
    assert found == {current.digest: current, previous.digest: previous}
    assert (await raw.info("commandstats"))["cmdstat_getrange"]["calls"] == before + 3


async def test_many_are_put_in_one_round_trip_and_each_is_told_what_was_kept(
    wire: Wire, wired: RedisStore, unreadable: Counter[str]
) -> None:
    sessions = {s.digest: s for s in (a_session(at=NOW) for _ in range(40))}
    ended = next(iter(sessions.values()))
    tombstone = ended.revoked(NOW)
    await wired.put(tombstone)
    chunks = 0

    def count(_: object, chunk: bytes) -> bytes:
        nonlocal chunks
        chunks += 1
        return chunk

    wire.questions = count
    kept = await wired.put_many(sessions)
    assert kept == sessions | {ended.digest: tombstone}
    assert chunks <= 2  # one packet; the wire may read it in two
    assert unreadable == {}


async def test_rubbish_under_one_key_is_mended_and_holds_up_no_other_that_is_put(
    store: RedisStore, raw: Raw, unreadable: Counter[str]
) -> None:
    sessions = {s.digest: s for s in (a_session(at=NOW) for _ in range(3))}
    await store.put_many(sessions)
    [key, *_] = await raw.keys()
    await raw.set(key, b"1" * 39 + b"no record")
    assert await store.put_many(sessions) == sessions
    assert await store.find_many(tuple(sessions)) == sessions
    assert unreadable == {"redis": 1}


async def test_nothing_that_opens_a_door_is_written(store: RedisStore, raw: Raw) -> None:
    """A digest is all that Redis learns of a token."""
    await store.put(a_session(at=NOW))
    written = (await the_key(raw), await raw.get(await the_key(raw)))
    assert not re.search(r"sg[wmavs]_", repr(written))


async def test_closing_and_failing_leave_no_task(
    own_redis: Server, unreadable: Counter[str]
) -> None:
    async with nothing_is_left():
        store = counting(own_redis.url, unreadable, timeout=0.05)
        await session_under(store)
        own_redis.pause()
        callers = [asyncio.create_task(store.find(a_digest())) for _ in range(50)]
        await asyncio.wait(callers)
        own_redis.resume()
        await store.close()
        assert all(isinstance(caller.exception(), StoreUnavailable) for caller in callers)


async def test_who_is_still_asking_when_it_is_closed_is_told_of_an_outage(
    redis_url: str, raw: Raw, unreadable: Counter[str]
) -> None:
    async with nothing_is_left():
        for moment in range(0, 60, 3):
            store = counting(redis_url, unreadable)
            session = await session_under(store)
            callers = [asyncio.create_task(store.find(session.digest)) for _ in range(100)]
            for _ in range(moment):
                await asyncio.sleep(0)
            await store.close()
            for answer in await asyncio.gather(*callers, return_exceptions=True):
                assert answer == session or isinstance(answer, StoreUnavailable)
            await store.close()
    await until_answered(lambda: at_most(0, raw))
