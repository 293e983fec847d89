"""The express lane: order, pressure both ways, time limits, the cap, the hand-over, the end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NoReturn

import pytest
import uvloop

from sidegate.core.address import Address
from sidegate.core.session_type import SessionType
from sidegate.web.gate.check import Check
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.server.fast_path import HeadTimeouts
from sidegate.web.server.messages import Head, Response
from tests.contracts.values import a_session
from tests.support.fakes import Shelf
from tests.web.gate.gate_rig import (
    ALICE,
    BOB,
    CAROL,
    IDLE,
    NEVER_ISSUED,
    REVOKED,
    ROUTES,
    STRANGERS,
    Gatehouse,
    bearer,
    build_gate,
    check_manners,
    cookie,
    open_gate,
    request,
)
from tests.web.raw_http import Wire, ask, wire
from tests.web.tape import Tape

FOREVER = HeadTimeouts(head=3600.0, idle=3600.0)
ODD = request(bearer(ALICE), b"Expect: a-miracle")  # aiohttp's, and the connection goes on


@pytest.fixture
async def gate() -> AsyncIterator[Gatehouse]:
    """A gate on whose shelf all is in memory, too."""
    async with open_gate(remembers=True, patience=FOREVER) as opened:
        yield opened


@pytest.fixture(params=["looks up", "fetches"])
async def forgetful(request: pytest.FixtureRequest) -> AsyncIterator[Gatehouse]:
    """A gate that has to ask each time."""
    async with open_gate(patience=FOREVER, fetches=request.param == "fetches") as opened:
        yield opened


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.001)


def lanes(gate: Gatehouse) -> tuple[int, int]:
    """How many connections are in the express lane, and how many are aiohttp's."""
    counts = gate.door.lanes()
    return counts["express"], counts["aiohttp"]


# At once


def a_plain_answer(gate: Gatehouse, *lines: bytes) -> bytes:
    """Return what the lane says before `data_received` returns: no loop has turned since."""
    tape = Tape(build_gate(gate).door)
    tape.feed(request(*lines))
    return tape.sent


async def test_a_hit_in_memory_is_answered_before_anybody_else_has_his_turn() -> None:
    gate = Gatehouse(remembers=True)

    sent = a_plain_answer(gate, bearer(ALICE))

    assert sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nX-Auth-User: alice\r\n" in sent
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert gate.shelf.asked == []


@pytest.mark.parametrize(
    "lines", [(), (bearer(b"junk"),), (bearer(REVOKED),), (bearer(ALICE), cookie(BOB))]
)
async def test_a_no_that_needs_no_store_is_told_at_once(lines: tuple[bytes, ...]) -> None:
    sent = a_plain_answer(Gatehouse(remembers=True), *lines)

    assert sent.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert sent.endswith(b'{"title":"Unauthorized","status":401}')


async def test_what_memory_cannot_tell_for_certain_is_asked_for() -> None:
    gate = Gatehouse(remembers=True)
    gate.clock.advance(60 * 60)  # whoever lives may have been seen elsewhere since

    assert a_plain_answer(gate, bearer(ALICE)) == b""


async def test_the_same_answer_is_given_again_and_counted_again(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        replies = []
        for _ in range(3):
            await line.send(request(bearer(ALICE)))
            replies.append(await line.reply())

    assert {reply.raw for reply in replies} == {replies[0].raw}
    assert gate.checks == [("auth-request", "allow", "ok")] * 3


async def test_each_gateway_is_told_in_its_own_words(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        told = []
        for route in (*ROUTES, *ROUTES):
            await line.send(request(bearer(ALICE), target=route))
            reply = await line.reply()
            check_manners(reply)
            told.append([name for name, _ in reply.fields])

    assert told[:3] == told[3:]
    assert ["X-Auth-Status" in names for names in told[:3]] == [True, False, False]
    assert ["x-envoy-auth-headers-to-remove" in names for names in told[:3]] == [False, False, True]


async def test_a_newer_copy_is_told_anew(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        users = []
        for user in ("alice", "alicia"):
            gate.shelf.sessions[ALICE.digest()] = a_session(user_id=user, digest=ALICE.digest())
            await line.send(request(bearer(ALICE)))
            users.append((await line.reply()).only("X-Auth-User"))

    assert users == ["alice", "alicia"]


async def test_a_session_ends_in_memory_too(gate: Gatehouse) -> None:
    alice = gate.shelf.sessions[ALICE.digest()]
    async with wire(gate.address) as line:
        await line.send(request(bearer(ALICE)))
        before = await line.reply()
        gate.shelf.sessions[ALICE.digest()] = alice.revoked(gate.clock.now())
        await line.send(request(bearer(ALICE)))
        after = await line.reply()

    assert (before.status, after.status) == (200, 401)


async def test_gateways_ask_by_this_lane(gate: Gatehouse) -> None:
    like_nginx = (b"X-Original-URI: /a?b", b"X-Original-Method: POST", b"X-Real-IP: 192.0.2.1")
    like_traefik = (b"X-Forwarded-Method: GET", b"X-Forwarded-Uri: /", b"Accept-Encoding: gzip")
    like_envoy = (b"content-length: 0", b"x-envoy-expected-rq-timeout-ms: 200", b"cookie: a=b")
    like_haproxy = (b"Connection: keep-alive", b"User-Agent: haproxy", b"Content-Type: text/plain")
    async with wire(gate.address) as line:
        for route, lines in zip(
            (*ROUTES, ROUTES[0]), (like_nginx, like_traefik, like_envoy, like_haproxy), strict=True
        ):
            await line.send(request(bearer(ALICE), *lines, target=route))
            assert (await line.reply()).only("X-Auth-User") == "alice"

        assert lanes(gate) == (1, 0)


async def test_a_front_ends_question_does_not_cost_the_connection_its_lane(
    gate: Gatehouse,
) -> None:
    async with wire(gate.address) as line:
        await line.send(request(cookie(ALICE), target="/session"))
        assert b'"ends_at"' in (await line.reply()).body
        await line.send(request(cookie(ALICE)))
        assert (await line.reply()).status == 200
        assert lanes(gate) == (1, 0)


# Order


async def test_what_comes_behind_a_miss_waits_for_it(forgetful: Gatehouse) -> None:
    forgetful.shelf.open.clear()
    async with wire(forgetful.address) as line:
        await line.send(request(bearer(ALICE)))
        await until(lambda: forgetful.shelf.asked)
        await line.send(request(bearer(b"junk")) + request(bearer(BOB), target="/forward-auth"))
        forgetful.shelf.open.set()
        replies = await line.replies(3)

    told = [(reply.status, *reply.every("X-Auth-User")) for reply in replies]
    assert told == [(200, "alice"), (401,), (200, "bob")]


async def test_a_hit_does_not_overtake_a_miss_on_its_connection(gate: Gatehouse) -> None:
    del gate.shelf.sessions[CAROL.digest()]
    gate.shelf.open.clear()
    async with wire(gate.address) as line:
        await line.send(request(bearer(CAROL)) + request(bearer(ALICE)))
        await until(lambda: gate.shelf.asked)
        gate.shelf.open.set()
        replies = await line.replies(2)

    assert [reply.status for reply in replies] == [401, 200]


async def test_a_miss_holds_up_no_other_connection(gate: Gatehouse) -> None:
    gate.shelf.open.clear()
    async with wire(gate.address) as waits, wire(gate.address) as other:
        await waits.send(request(bearer(NEVER_ISSUED)))
        await until(lambda: gate.shelf.asked)
        await other.send(request(bearer(ALICE)))
        assert (await other.reply()).status == 200
        gate.shelf.open.set()
        assert (await waits.reply()).status == 401


async def test_an_odd_request_among_plain_ones_is_answered_in_its_place(gate: Gatehouse) -> None:
    raw = (request(bearer(BOB)), ODD, request(bearer(CAROL)), request(bearer(ALICE)))
    async with wire(gate.address) as line:
        await line.send(b"".join(raw))
        replies = await line.replies(4)

    assert [reply.only("X-Auth-User") for reply in replies] == ["bob", "alice", "carol", "alice"]


async def test_an_odd_request_behind_a_miss_waits_too(forgetful: Gatehouse) -> None:
    forgetful.shelf.open.clear()
    async with wire(forgetful.address) as line:
        await line.send(request(bearer(BOB)) + ODD)
        await until(lambda: forgetful.shelf.asked)
        assert lanes(forgetful) == (1, 0)
        forgetful.shelf.open.set()
        replies = await line.replies(2)

    assert [reply.only("X-Auth-User") for reply in replies] == ["bob", "alice"]


async def test_a_thousand_requests_in_a_row_let_others_have_their_turn() -> None:
    gate = Gatehouse(remembers=True)
    tape = Tape(build_gate(gate).door)

    tape.feed(request(bearer(ALICE)) * 1000)
    at_once = tape.sent.count(b"HTTP/1.1 200 OK")
    await until(lambda: tape.sent.count(b"HTTP/1.1 200 OK") == 1000)

    assert 0 < at_once < 100


# Fetched


async def test_a_hundred_that_want_to_be_fetched_take_one_task_and_one_question() -> None:
    gate = Gatehouse(fetches=True)
    door = build_gate(gate).door
    tapes = [Tape(door) for _ in range(100)]
    gate.shelf.open.clear()

    for tape, token in zip(tapes, 50 * (ALICE, BOB), strict=True):
        tape.feed(request(bearer(token)))
    await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    gate.shelf.open.set()
    await until(lambda: all(tape.sent for tape in tapes))

    assert len(tasks) == 1
    assert gate.shelf.asked == [(ALICE.digest(), BOB.digest())]
    assert {tape.sent.count(b"X-Auth-User: alice") for tape in tapes[::2]} == {1}
    assert {tape.sent.count(b"X-Auth-User: bob") for tape in tapes[1::2]} == {1}
    assert gate.checks == [("auth-request", "allow", "ok")] * 100
    assert len(gate.seconds) == 100  # each is timed, for each has waited
    assert min(gate.seconds) > 0


async def test_an_outage_while_something_is_fetched_is_no_answer() -> None:
    alice = a_session(user_id="alice", digest=ALICE.digest())
    async with open_gate(fetches=True, finder=Shelf(alice)) as gate:
        gate.shelf.down = True
        reply = await ask(gate.address, request(bearer(ALICE)))

    assert (reply.status, reply.only("X-Auth-User")) == (200, "alice")
    assert gate.checks == [("auth-request", "allow", "ok")]


async def test_that_a_hot_store_knows_nothing_is_no_answer() -> None:
    alice = a_session(user_id="alice", digest=ALICE.digest())
    async with open_gate(fetches=True, finder=Shelf(alice)) as gate:
        gate.shelf.sessions.clear()
        reply = await ask(gate.address, request(bearer(ALICE)))

    assert (reply.status, reply.only("X-Auth-User")) == (200, "alice")


async def test_what_looks_idle_when_it_is_fetched_is_looked_up() -> None:
    seen = a_session(user_id="ivy", digest=IDLE.digest())
    async with open_gate(fetches=True, finder=Shelf(seen)) as gate:
        reply = await ask(gate.address, request(bearer(IDLE)))

    assert (reply.status, reply.only("X-Auth-User")) == (200, "ivy")


async def test_whom_no_store_knows_is_denied_and_without_a_store_nobody_is() -> None:
    async with open_gate(fetches=True) as gate, wire(gate.address) as line:
        gate.shelf.sessions.clear()
        await line.send(request(bearer(ALICE)))
        unknown = await line.reply()
        gate.shelf.down = True
        await line.send(request(bearer(ALICE)))
        unavailable = await line.reply()

    check_manners(unknown)
    check_manners(unavailable)
    assert (unknown.status, unavailable.status) == (401, 503)
    assert gate.checks == [
        ("auth-request", "deny", "unknown"),
        ("auth-request", "unavailable", "shelf"),
    ]


async def test_the_time_that_was_waited_for_nothing_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer, told = Check.answer, list[float | None]()

    async def noted(check: Check, head: Head, waited: float | None = None) -> Response:
        told.append(waited)
        return await answer(check, head, waited)

    monkeypatch.setattr(Check, "answer", noted)
    async with open_gate(fetches=True) as gate:
        gate.shelf.sessions.clear()
        await ask(gate.address, request(bearer(ALICE)))

    (waited,) = told
    assert waited is not None
    assert 0 < waited < gate.seconds[0]


async def test_what_is_forged_is_not_fetched() -> None:
    async with open_gate(fetches=True) as gate:
        reply = await ask(gate.address, request(bearer(STRANGERS.mint(SessionType.WEB))))

    assert (reply.status, gate.shelf.asked) == (401, [])


# Pressure


async def test_whoever_does_not_read_his_answers_is_not_listened_to() -> None:
    gate = Gatehouse(remembers=True)
    tape = Tape(build_gate(gate).door)
    tape.protocol.pause_writing()

    for _ in range(30):
        tape.feed(request(bearer(ALICE)) * 100)
    await asyncio.sleep(0)
    unheard = tape.unheard

    assert tape.sent == b""
    assert unheard > 0
    tape.protocol.resume_writing()
    await until(lambda: tape.sent.count(b"HTTP/1.1 200 OK") == 3000)
    assert tape.unheard == 0


async def test_whoever_sends_much_while_he_waits_is_not_read_from(forgetful: Gatehouse) -> None:
    forgetful.shelf.open.clear()
    tape = Tape(build_gate(Gatehouse(shelf=forgetful.shelf, fetches=forgetful.fetches)).door)

    for _ in range(30):
        tape.feed(request(bearer(BOB)) * 100)
    await asyncio.sleep(0)

    assert tape.unheard > 0
    forgetful.shelf.open.set()
    await until(lambda: tape.sent.count(b"\r\nX-Auth-User: bob\r\n") == 3000)


async def test_whoever_reads_his_answers_but_sends_faster_is_not_read_from() -> None:
    gate = Gatehouse(remembers=True)
    tape = Tape(build_gate(gate).door)

    for _ in range(30):
        tape.feed(request(bearer(ALICE)) * 100)
    at_once = tape.sent.count(b"HTTP/1.1 200 OK")

    assert tape.unheard > 0
    assert 0 < at_once < 100  # one row: to send more gives no more turns
    await until(lambda: tape.sent.count(b"HTTP/1.1 200 OK") == 3000)
    assert tape.unheard == 0


async def test_a_flood_that_ends_in_a_reset_is_not_read_on() -> None:
    gate = Gatehouse(remembers=True)
    tape = Tape(build_gate(gate).door)

    for _ in range(30):
        tape.feed(request(bearer(ALICE)) * 100)
    tape.abort()
    await until(lambda: gate.door.lanes() == {"express": 0, "aiohttp": 0})

    assert tape.unheard > 0


async def test_a_flood_is_answered_when_somebody_reads_it(gate: Gatehouse) -> None:
    async with wire(gate.address) as flood:
        sending = asyncio.create_task(flood.send(request(bearer(ALICE)) * 5000))
        assert (await ask(gate.address, request(bearer(BOB)))).only("X-Auth-User") == "bob"
        for _ in range(5000):
            await flood.reply()
        await sending


# Time


async def test_a_head_that_does_not_end_is_given_up() -> None:
    async with open_gate(patience=HeadTimeouts(head=0.05)) as gate, wire(gate.address) as line:
        await line.send(request(bearer(ALICE))[:-2])
        reply = await line.reply()
        assert await line.until_closed() == b""

    check_manners(reply)
    assert (reply.status, reply.closes, gate.checks) == (408, True, [])


async def test_a_head_gets_no_more_time_for_coming_in_drops() -> None:
    async with open_gate(patience=HeadTimeouts(head=0.2)) as gate, wire(gate.address) as line:
        answered = asyncio.create_task(line.reply())
        for byte in request(b"X: " + b"x" * 50_000):
            await line.send(bytes([byte]))
            await asyncio.sleep(0.001)
            if answered.done():
                break

        assert (await answered).status == 408


async def test_a_head_that_has_ended_is_not_given_up() -> None:
    half = len(request(bearer(ALICE))) // 2
    async with (
        open_gate(patience=HeadTimeouts(head=0.1)) as gate,
        wire(gate.address) as ended,
        wire(gate.address) as unfinished,
    ):
        await ended.send(request(bearer(ALICE))[:half])
        await ended.send(request(bearer(ALICE))[half:])
        assert (await ended.reply()).status == 200
        await unfinished.send(request(bearer(ALICE))[:half])
        assert (await unfinished.reply()).status == 408  # so the time of both is over
        await ended.send(request(bearer(BOB)))

        assert (await ended.reply()).only("X-Auth-User") == "bob"


async def test_a_silent_connection_is_closed_in_the_end() -> None:
    async with open_gate(patience=HeadTimeouts(idle=0.05)) as gate, wire(gate.address) as line:
        await line.send(request(bearer(ALICE)))
        assert (await line.reply()).status == 200
        assert await line.until_closed() == b""
        await until(lambda: lanes(gate) == (0, 0))


async def test_an_answer_that_takes_long_is_no_silence() -> None:
    async with (
        open_gate(patience=HeadTimeouts(idle=0.1)) as gate,
        wire(gate.address) as waits,
        wire(gate.address) as silent,
    ):
        gate.shelf.open.clear()
        await waits.send(request(bearer(ALICE)))
        assert await silent.until_closed() == b""  # so the time of both is over
        gate.shelf.open.set()

        assert (await waits.reply()).status == 200


def test_an_idle_connection_outlives_every_gateways_own() -> None:
    assert HeadTimeouts().idle > 3600


# Room


@pytest.mark.parametrize("express", [True, False])
async def test_one_connection_too_many_is_told_of_an_outage(express: bool) -> None:
    async with open_gate(express=express, max_connections=2) as gate:
        async with wire(gate.address) as one, wire(gate.address) as two:
            for line in (one, two):
                await line.send(request(bearer(ALICE)))
                assert (await line.reply()).status == 200
            async with wire(gate.address) as third:
                await third.send(request(bearer(ALICE)))
                reply = await third.reply()
                assert await third.until_closed() == b""
            assert (reply.status, reply.only("Retry-After"), reply.closes) == (503, "1", True)
            assert (gate.turned_away, len(gate.checks)) == (1, 2)
        await until(lambda: sum(lanes(gate)) == 0)
        assert (await ask(gate.address, request(bearer(ALICE)))).status == 200


async def test_a_connection_that_was_handed_over_takes_the_room_of_one() -> None:
    async with (
        open_gate(max_connections=2) as gate,
        wire(gate.address) as odd,
        wire(gate.address) as plain,
    ):
        await odd.send(ODD)
        assert (await odd.reply()).status == 200
        await plain.send(request(bearer(ALICE)))

        assert (await plain.reply()).status == 200
        assert lanes(gate) == (1, 1)


async def test_whoever_is_one_too_many_and_says_nothing_is_hung_up_on() -> None:
    async with open_gate(max_connections=1) as gate, wire(gate.address) as one:
        await one.send(request())
        await one.reply()
        async with wire(gate.address) as another:
            assert await another.until_closed() == b""


# Hand-over


async def test_what_is_not_plain_is_aiohttps_and_so_is_all_that_follows(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        await line.send(request(bearer(ALICE)))
        await line.reply()
        assert lanes(gate) == (1, 0)
        for raw in (ODD, request(bearer(BOB))):
            await line.send(raw)
            assert (await line.reply()).status == 200
            assert lanes(gate) == (0, 1)


async def test_a_stranger_never_uses_the_lane(gate: Gatehouse) -> None:
    async with wire(gate.address, source="127.0.0.2") as line:
        await line.send(request(bearer(ALICE)))
        assert (await line.reply()).status == 403

    assert (gate.untrusted, gate.checks) == (1, [])


async def test_a_peer_is_judged_once_for_all_of_its_connection() -> None:
    async with (
        open_gate(trusted=["127.0.0.0/8"], remembers=True) as gate,
        wire(gate.address, source="127.0.0.9") as line,
    ):
        for token in (ALICE, BOB) * 5:
            await line.send(request(bearer(token)))
            assert (await line.reply()).status == 200
        assert lanes(gate) == (1, 0)


@pytest.mark.parametrize("route", ROUTES)
async def test_a_header_in_two_roles_is_left_to_aiohttp(route: str) -> None:
    name = b"x-forwarded-for" if route == "/forward-auth" else b"x-real-ip"
    manners = GatewayPolicy(CredentialSources(header=name))
    async with open_gate(manners=manners) as gate, wire(gate.address) as line:
        token = ALICE.text.encode()
        await line.send(request(name + b": " + token, target=route))

        assert (await line.reply()).only("X-Auth-User") == "alice"
        assert lanes(gate) == (0, 1)


# Methods and versions


async def test_to_head_nothing_but_the_head_is_said(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        for lines, status in (((bearer(ALICE),), 200), ((), 401)):
            await line.send(request(*lines, method=b"HEAD"))
            assert (await line.reply(to_head=True)).status == status
        await line.send(request(bearer(BOB)))
        assert (await line.reply()).only("X-Auth-User") == "bob"
        assert lanes(gate) == (1, 0)


async def test_nginx_without_keepalive_is_plain_too(gate: Gatehouse) -> None:
    raw = request(b"Connection: close", bearer(ALICE)).replace(b"HTTP/1.1", b"HTTP/1.0")
    async with wire(gate.address) as line:
        await line.send(raw)
        reply = await line.reply()
        assert await line.until_closed() == b""

    assert (reply.version, reply.status, reply.closes) == ("HTTP/1.0", 200, True)
    assert lanes(gate) == (0, 0)


# The end


def a_bug(*_: object) -> NoReturn:
    raise RuntimeError("nobody foresaw this")


async def check_that_the_bug_is_told(gate: Gatehouse, caplog: pytest.LogCaptureFixture) -> None:
    async with wire(gate.address) as line:
        await line.send(request(bearer(ALICE)) + request(bearer(BOB)))
        reply = await line.reply()
        assert await line.until_closed() == b""

    check_manners(reply)
    assert (reply.status, reply.closes) == (500, True)
    assert [record.getMessage() for record in caplog.records] == ["the gate door failed"]
    assert "nobody foresaw this" in caplog.text


async def test_a_bug_in_what_is_looked_up_ends_the_connection_and_leaves_its_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        async def find(self, _: object) -> NoReturn:
            a_bug()

    async with open_gate(finder=Broken()) as gate:
        await check_that_the_bug_is_told(gate, caplog)


async def test_a_bug_in_what_is_answered_at_once_is_told_like_any_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_gate(memory=a_bug) as gate:
        await check_that_the_bug_is_told(gate, caplog)


async def test_a_bug_in_what_is_fetched_is_told_like_any_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gatehouse, "check", a_bug)
    async with open_gate(fetches=True) as gate:
        await check_that_the_bug_is_told(gate, caplog)


async def test_a_client_that_leaves_while_it_waits_harms_nobody(
    forgetful: Gatehouse, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    forgetful.shelf.open.clear()
    for _ in range(20):
        async with wire(forgetful.address) as line:
            await line.send(request(bearer(ALICE)))
    await until(lambda: lanes(forgetful) == (0, 0))
    forgetful.shelf.open.set()

    assert (await ask(forgetful.address, request(bearer(BOB)))).only("X-Auth-User") == "bob"
    assert caplog.text == ""


async def test_draining_ends_each_connection_with_its_next_answer(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        await line.send(request(bearer(ALICE)))
        assert not (await line.reply()).closes
        gate.door.drain()
        await line.send(request(bearer(ALICE)) * 3)
        assert (await line.reply()).closes
        assert await line.until_closed() == b""


async def test_a_closing_door_waits_for_what_is_asked_and_for_nobody_else(
    forgetful: Gatehouse,
) -> None:
    forgetful.shelf.open.clear()
    async with (
        wire(forgetful.address) as asks,
        wire(forgetful.address) as idle,
        wire(forgetful.address) as begun,
    ):
        await idle.send(request())
        await idle.reply()
        await begun.send(request(bearer(ALICE))[:40])
        await asks.send(request(bearer(ALICE)))
        await until(lambda: forgetful.shelf.asked)
        closing = asyncio.create_task(forgetful.door.close(patience=30))
        assert await idle.until_closed() == b""
        assert await begun.until_closed() == b""
        assert not closing.done()
        forgetful.shelf.open.set()
        reply = await asks.reply()
        await closing

    assert (reply.only("X-Auth-User"), reply.closes) == ("alice", True)


async def test_a_closing_door_does_not_wait_for_ever(forgetful: Gatehouse) -> None:
    forgetful.shelf.open.clear()
    async with wire(forgetful.address) as line:
        await line.send(request(bearer(ALICE)))
        await until(lambda: forgetful.shelf.asked)

        async with asyncio.timeout(10):
            await forgetful.door.close(patience=0.05)

        assert await line.until_closed() == b""
        assert lanes(forgetful) == (0, 0)


# The loop that serves


async def tour(line: Wire) -> list[int]:
    """Ask for a hit, a miss, in pieces, in a row, oddly, and in the end."""
    statuses = []
    for raw in (request(bearer(ALICE)), request(bearer(NEVER_ISSUED)), request(cookie(BOB)) * 2):
        for piece in (raw[:30], raw[30:]):
            await line.send(piece)
            await asyncio.sleep(0)
        statuses += [(await line.reply()).status for _ in range(raw.count(b"GET "))]
    for raw in (ODD, request(bearer(CAROL)), request(bearer(ALICE), b"Connection: close")):
        await line.send(raw)
        statuses.append((await line.reply()).status)
    assert await line.until_closed() == b""
    return statuses


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
@pytest.mark.parametrize("unix", [True, False])
def test_every_loop_and_socket_serves_the_same(
    run: Callable[[Awaitable[Any]], Any], unix: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("gate") / "gate.sock")

    def opened() -> AbstractAsyncContextManager[Gatehouse]:
        address = Address(path=path) if unix else Address("127.0.0.1", 0)
        return open_gate(address, remembers=True)

    async def there_and_back() -> list[int]:
        async with opened() as gate, wire(gate.address) as line:
            return await tour(line)

    assert run(there_and_back()) == [200, 401, 200, 200, 200, 200, 200]
