"""The fast path: order, backpressure, time limits, connection limit, hand-over, shutdown."""

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
from sidegate.web.server.fast_path import ConnectionTimeouts
from sidegate.web.server.messages import Head, Response
from tests.contracts.values import build_session
from tests.support.fakes import FakeBackend
from tests.web.fake_transport import FakeTransport
from tests.web.gate.gate_harness import (
    ALICE,
    BOB,
    CAROL,
    FOREIGN_RING,
    IDLE,
    NEVER_ISSUED,
    REVOKED,
    ROUTES,
    GateHarness,
    assert_gate_response,
    bearer,
    build_gate,
    build_request,
    cookie,
    open_gate,
)
from tests.web.raw_http import RawConnection, connect, send_request

NO_TIMEOUTS = ConnectionTimeouts(head=3600.0, idle=3600.0)
NOT_PLAIN = build_request(bearer(ALICE), b"Expect: a-miracle")  # for aiohttp, which keeps it open


@pytest.fixture
async def gate() -> AsyncIterator[GateHarness]:
    """A gate with all sessions in memory."""
    async with open_gate(in_memory=True, timeouts=NO_TIMEOUTS) as harness:
        yield harness


@pytest.fixture(params=["lookup", "prefetch"])
async def cold_gate(request: pytest.FixtureRequest) -> AsyncIterator[GateHarness]:
    """A gate that has no session in memory."""
    async with open_gate(timeouts=NO_TIMEOUTS, prefetches=request.param == "prefetch") as harness:
        yield harness


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.001)


def count_connections(gate: GateHarness) -> tuple[int, int]:
    """Return the number of connections on the fast path and on the aiohttp path."""
    counts = gate.listener.count_connections()
    return counts["fast"], counts["aiohttp"]


# Without a loop iteration


def response_without_loop(gate: GateHarness, *lines: bytes) -> bytes:
    """Return what is sent before `data_received` returns, without a loop iteration."""
    transport = FakeTransport(build_gate(gate).listener)
    transport.feed(build_request(*lines))
    return transport.sent


async def test_memory_hit_is_answered_immediately() -> None:
    gate = GateHarness(in_memory=True)

    sent = response_without_loop(gate, bearer(ALICE))

    assert sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nX-Auth-User: alice\r\n" in sent
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert gate.backend.lookups == []


@pytest.mark.parametrize(
    "lines", [(), (bearer(b"junk"),), (bearer(REVOKED),), (bearer(b"x"), cookie(b"x"))]
)
async def test_denial_that_needs_no_store_is_immediate(
    lines: tuple[bytes, ...],
) -> None:
    sent = response_without_loop(GateHarness(in_memory=True), *lines)

    assert sent.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert sent.endswith(b'{"title":"Unauthorized","status":401}')


async def test_possibly_stale_session_in_memory_is_looked_up() -> None:
    gate = GateHarness(in_memory=True)
    gate.clock.advance(60 * 60)  # another instance may have recorded activity since

    assert response_without_loop(gate, bearer(ALICE)) == b""


async def test_repeated_check_gets_the_same_response_and_is_counted(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        responses = []
        for _ in range(3):
            await connection.send(build_request(bearer(ALICE)))
            responses.append(await connection.read_response())

    assert {response.raw for response in responses} == {responses[0].raw}
    assert gate.checks == [("auth-request", "allow", "ok")] * 3


async def test_each_gateway_gets_its_own_response_headers(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        names_by_route = []
        for route in (*ROUTES, *ROUTES):
            await connection.send(build_request(bearer(ALICE), target=route))
            response = await connection.read_response()
            assert_gate_response(response)
            names_by_route.append([name for name, _ in response.fields])

    assert names_by_route[:3] == names_by_route[3:]
    assert ["X-Auth-Status" in names for names in names_by_route[:3]] == [True, False, False]
    assert ["x-envoy-auth-headers-to-remove" in names for names in names_by_route[:3]] == [
        False,
        False,
        True,
    ]


async def test_newer_copy_of_a_session_replaces_the_cached_reply(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        users = []
        for user in ("alice", "alicia"):
            gate.backend.sessions[ALICE.digest()] = build_session(
                user_id=user, digest=ALICE.digest()
            )
            await connection.send(build_request(bearer(ALICE)))
            users.append((await connection.read_response()).get_one("X-Auth-User"))

    assert users == ["alice", "alicia"]


async def test_revocation_in_memory_denies_the_next_check(gate: GateHarness) -> None:
    alice = gate.backend.sessions[ALICE.digest()]
    async with connect(gate.address) as connection:
        await connection.send(build_request(bearer(ALICE)))
        before = await connection.read_response()
        gate.backend.sessions[ALICE.digest()] = alice.revoked(gate.clock.now())
        await connection.send(build_request(bearer(ALICE)))
        after = await connection.read_response()

    assert (before.status, after.status) == (200, 401)


async def test_requests_of_all_gateways_use_the_fast_path(gate: GateHarness) -> None:
    nginx = (b"X-Original-URI: /a?b", b"X-Original-Method: POST", b"X-Real-IP: 192.0.2.1")
    traefik = (b"X-Forwarded-Method: GET", b"X-Forwarded-Uri: /", b"Accept-Encoding: gzip")
    envoy = (b"content-length: 0", b"x-envoy-expected-rq-timeout-ms: 200", b"cookie: a=b")
    haproxy = (b"Connection: keep-alive", b"User-Agent: haproxy", b"Content-Type: text/plain")
    async with connect(gate.address) as connection:
        for route, lines in zip(
            (*ROUTES, ROUTES[0]), (nginx, traefik, envoy, haproxy), strict=True
        ):
            await connection.send(build_request(bearer(ALICE), *lines, target=route))
            assert (await connection.read_response()).get_one("X-Auth-User") == "alice"

        assert count_connections(gate) == (1, 0)


async def test_session_status_request_stays_on_the_fast_path(
    gate: GateHarness,
) -> None:
    async with connect(gate.address) as connection:
        await connection.send(build_request(cookie(ALICE), target="/session"))
        assert b'"ends_at"' in (await connection.read_response()).body
        await connection.send(build_request(cookie(ALICE)))
        assert (await connection.read_response()).status == 200
        assert count_connections(gate) == (1, 0)


# Order


async def test_requests_behind_a_miss_wait_for_it(cold_gate: GateHarness) -> None:
    cold_gate.backend.unblocked.clear()
    async with connect(cold_gate.address) as connection:
        await connection.send(build_request(bearer(ALICE)))
        await until(lambda: cold_gate.backend.lookups)
        await connection.send(
            build_request(bearer(b"junk")) + build_request(bearer(BOB), target="/forward-auth")
        )
        cold_gate.backend.unblocked.set()
        responses = await connection.read_responses(3)

    received = [(response.status, *response.get_all("X-Auth-User")) for response in responses]
    assert received == [(200, "alice"), (401,), (200, "bob")]


async def test_hit_does_not_overtake_a_miss_on_its_connection(gate: GateHarness) -> None:
    del gate.backend.sessions[CAROL.digest()]
    gate.backend.unblocked.clear()
    async with connect(gate.address) as connection:
        await connection.send(build_request(bearer(CAROL)) + build_request(bearer(ALICE)))
        await until(lambda: gate.backend.lookups)
        gate.backend.unblocked.set()
        responses = await connection.read_responses(2)

    assert [response.status for response in responses] == [401, 200]


async def test_miss_does_not_delay_other_connections(gate: GateHarness) -> None:
    gate.backend.unblocked.clear()
    async with connect(gate.address) as waiting, connect(gate.address) as other:
        await waiting.send(build_request(bearer(NEVER_ISSUED)))
        await until(lambda: gate.backend.lookups)
        await other.send(build_request(bearer(ALICE)))
        assert (await other.read_response()).status == 200
        gate.backend.unblocked.set()
        assert (await waiting.read_response()).status == 401


async def test_request_that_is_not_plain_is_answered_in_order(gate: GateHarness) -> None:
    raw = (
        build_request(bearer(BOB)),
        NOT_PLAIN,
        build_request(bearer(CAROL)),
        build_request(bearer(ALICE)),
    )
    async with connect(gate.address) as connection:
        await connection.send(b"".join(raw))
        responses = await connection.read_responses(4)

    assert [response.get_one("X-Auth-User") for response in responses] == [
        "bob",
        "alice",
        "carol",
        "alice",
    ]


async def test_request_that_is_not_plain_waits_behind_a_miss(cold_gate: GateHarness) -> None:
    cold_gate.backend.unblocked.clear()
    async with connect(cold_gate.address) as connection:
        await connection.send(build_request(bearer(BOB)) + NOT_PLAIN)
        await until(lambda: cold_gate.backend.lookups)
        assert count_connections(cold_gate) == (1, 0)
        cold_gate.backend.unblocked.set()
        responses = await connection.read_responses(2)

    assert [response.get_one("X-Auth-User") for response in responses] == ["bob", "alice"]


async def test_pipelined_requests_yield_to_other_connections() -> None:
    gate = GateHarness(in_memory=True)
    transport = FakeTransport(build_gate(gate).listener)

    transport.feed(build_request(bearer(ALICE)) * 1000)
    sent_at_once = transport.sent.count(b"HTTP/1.1 200 OK")
    await until(lambda: transport.sent.count(b"HTTP/1.1 200 OK") == 1000)

    assert 0 < sent_at_once < 100


# Prefetch


async def test_concurrent_prefetches_share_one_task_and_one_batch() -> None:
    gate = GateHarness(prefetches=True)
    listener = build_gate(gate).listener
    transports = [FakeTransport(listener) for _ in range(100)]
    gate.backend.unblocked.clear()

    for transport, token in zip(transports, 50 * (ALICE, BOB), strict=True):
        transport.feed(build_request(bearer(token)))
    await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    gate.backend.unblocked.set()
    await until(lambda: all(transport.sent for transport in transports))

    assert len(tasks) == 1
    assert gate.backend.lookups == [(ALICE.digest(), BOB.digest())]
    assert {transport.sent.count(b"X-Auth-User: alice") for transport in transports[::2]} == {1}
    assert {transport.sent.count(b"X-Auth-User: bob") for transport in transports[1::2]} == {1}
    assert gate.checks == [("auth-request", "allow", "ok")] * 100
    assert len(gate.durations) == 100  # each is timed
    assert min(gate.durations) > 0


async def test_failed_prefetch_falls_back_to_the_lookup() -> None:
    alice = build_session(user_id="alice", digest=ALICE.digest())
    async with open_gate(prefetches=True, finder=FakeBackend(alice)) as gate:
        gate.backend.down = True
        response = await send_request(gate.address, build_request(bearer(ALICE)))

    assert (response.status, response.get_one("X-Auth-User")) == (200, "alice")
    assert gate.checks == [("auth-request", "allow", "ok")]


async def test_prefetch_miss_falls_back_to_the_lookup() -> None:
    alice = build_session(user_id="alice", digest=ALICE.digest())
    async with open_gate(prefetches=True, finder=FakeBackend(alice)) as gate:
        gate.backend.sessions.clear()
        response = await send_request(gate.address, build_request(bearer(ALICE)))

    assert (response.status, response.get_one("X-Auth-User")) == (200, "alice")


async def test_prefetched_idle_session_is_looked_up() -> None:
    active = build_session(user_id="ivy", digest=IDLE.digest())
    async with open_gate(prefetches=True, finder=FakeBackend(active)) as gate:
        response = await send_request(gate.address, build_request(bearer(IDLE)))

    assert (response.status, response.get_one("X-Auth-User")) == (200, "ivy")


async def test_unknown_token_gets_401_and_an_outage_503() -> None:
    async with open_gate(prefetches=True) as gate, connect(gate.address) as connection:
        gate.backend.sessions.clear()
        await connection.send(build_request(bearer(ALICE)))
        unknown = await connection.read_response()
        gate.backend.down = True
        await connection.send(build_request(bearer(ALICE)))
        unavailable = await connection.read_response()

    assert_gate_response(unknown)
    assert_gate_response(unavailable)
    assert (unknown.status, unavailable.status) == (401, 503)
    assert gate.checks == [
        ("auth-request", "deny", "unknown"),
        ("auth-request", "unavailable", "backend"),
    ]


async def test_duration_includes_the_prefetch_that_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handle, elapsed_seconds = Check.handle, list[float | None]()

    async def record_elapsed(check: Check, head: Head, elapsed: float | None = None) -> Response:
        elapsed_seconds.append(elapsed)
        return await handle(check, head, elapsed)

    monkeypatch.setattr(Check, "handle", record_elapsed)
    async with open_gate(prefetches=True) as gate:
        gate.backend.sessions.clear()
        await send_request(gate.address, build_request(bearer(ALICE)))

    (elapsed,) = elapsed_seconds
    assert elapsed is not None
    assert 0 < elapsed < gate.durations[0]


async def test_forged_token_is_not_prefetched() -> None:
    async with open_gate(prefetches=True) as gate:
        response = await send_request(
            gate.address, build_request(bearer(FOREIGN_RING.mint(SessionType.WEB)))
        )

    assert (response.status, gate.backend.lookups) == (401, [])


# Backpressure


async def test_peer_that_does_not_read_responses_is_not_read_from() -> None:
    gate = GateHarness(in_memory=True)
    transport = FakeTransport(build_gate(gate).listener)
    transport.protocol.pause_writing()

    for _ in range(30):
        transport.feed(build_request(bearer(ALICE)) * 100)
    await asyncio.sleep(0)
    unread_size = transport.unread_size

    assert transport.sent == b""
    assert unread_size > 0
    transport.protocol.resume_writing()
    await until(lambda: transport.sent.count(b"HTTP/1.1 200 OK") == 3000)
    assert transport.unread_size == 0


async def test_reading_pauses_while_too_much_waits_behind_a_miss(
    cold_gate: GateHarness,
) -> None:
    cold_gate.backend.unblocked.clear()
    transport = FakeTransport(
        build_gate(GateHarness(backend=cold_gate.backend, prefetches=cold_gate.prefetches)).listener
    )

    for _ in range(30):
        transport.feed(build_request(bearer(BOB)) * 100)
    await asyncio.sleep(0)

    assert transport.unread_size > 0
    cold_gate.backend.unblocked.set()
    await until(lambda: transport.sent.count(b"\r\nX-Auth-User: bob\r\n") == 3000)


async def test_reading_pauses_for_a_peer_that_sends_too_fast() -> None:
    gate = GateHarness(in_memory=True)
    transport = FakeTransport(build_gate(gate).listener)

    for _ in range(30):
        transport.feed(build_request(bearer(ALICE)) * 100)
    sent_at_once = transport.sent.count(b"HTTP/1.1 200 OK")

    assert transport.unread_size > 0
    assert 0 < sent_at_once < 100  # one batch, however much is sent
    await until(lambda: transport.sent.count(b"HTTP/1.1 200 OK") == 3000)
    assert transport.unread_size == 0


async def test_reset_connection_is_not_read_further() -> None:
    gate = GateHarness(in_memory=True)
    transport = FakeTransport(build_gate(gate).listener)

    for _ in range(30):
        transport.feed(build_request(bearer(ALICE)) * 100)
    transport.abort()
    await until(lambda: gate.listener.count_connections() == {"fast": 0, "aiohttp": 0})

    assert transport.unread_size > 0


async def test_flood_is_answered_once_the_peer_reads(gate: GateHarness) -> None:
    async with connect(gate.address) as flood:
        sending = asyncio.create_task(flood.send(build_request(bearer(ALICE)) * 5000))
        assert (await send_request(gate.address, build_request(bearer(BOB)))).get_one(
            "X-Auth-User"
        ) == "bob"
        for _ in range(5000):
            await flood.read_response()
        await sending


# Timeouts


async def test_incomplete_head_gets_408() -> None:
    async with (
        open_gate(timeouts=ConnectionTimeouts(head=0.05)) as gate,
        connect(gate.address) as connection,
    ):
        await connection.send(build_request(bearer(ALICE))[:-2])
        response = await connection.read_response()
        assert await connection.read_until_closed() == b""

    assert_gate_response(response)
    assert (response.status, response.closes, gate.checks) == (408, True, [])


async def test_slow_bytes_do_not_extend_the_head_timeout() -> None:
    async with (
        open_gate(timeouts=ConnectionTimeouts(head=0.2)) as gate,
        connect(gate.address) as connection,
    ):
        answered = asyncio.create_task(connection.read_response())
        for byte in build_request(b"X: " + b"x" * 50_000):
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.001)
            if answered.done():
                break

        assert (await answered).status == 408


async def test_complete_head_stops_the_head_timeout() -> None:
    half = len(build_request(bearer(ALICE))) // 2
    async with (
        open_gate(timeouts=ConnectionTimeouts(head=0.1)) as gate,
        connect(gate.address) as ended,
        connect(gate.address) as unfinished,
    ):
        await ended.send(build_request(bearer(ALICE))[:half])
        await ended.send(build_request(bearer(ALICE))[half:])
        assert (await ended.read_response()).status == 200
        await unfinished.send(build_request(bearer(ALICE))[:half])
        assert (await unfinished.read_response()).status == 408  # both timeouts have passed
        await ended.send(build_request(bearer(BOB)))

        assert (await ended.read_response()).get_one("X-Auth-User") == "bob"


async def test_idle_connection_is_closed() -> None:
    async with (
        open_gate(timeouts=ConnectionTimeouts(idle=0.05)) as gate,
        connect(gate.address) as connection,
    ):
        await connection.send(build_request(bearer(ALICE)))
        assert (await connection.read_response()).status == 200
        assert await connection.read_until_closed() == b""
        await until(lambda: count_connections(gate) == (0, 0))


async def test_connection_with_a_request_in_progress_is_not_idle() -> None:
    async with (
        open_gate(timeouts=ConnectionTimeouts(idle=0.1)) as gate,
        connect(gate.address) as waiting,
        connect(gate.address) as silent,
    ):
        gate.backend.unblocked.clear()
        await waiting.send(build_request(bearer(ALICE)))
        assert await silent.read_until_closed() == b""  # both timeouts have passed
        gate.backend.unblocked.set()

        assert (await waiting.read_response()).status == 200


def test_idle_timeout_is_longer_than_any_gateways() -> None:
    assert ConnectionTimeouts().idle > 3600


# Connection limit


@pytest.mark.parametrize("fast_path", [True, False])
async def test_connection_beyond_the_limit_gets_503(fast_path: bool) -> None:
    async with open_gate(fast_path=fast_path, max_connections=2) as gate:
        async with connect(gate.address) as one, connect(gate.address) as two:
            for connection in (one, two):
                await connection.send(build_request(bearer(ALICE)))
                assert (await connection.read_response()).status == 200
            async with connect(gate.address) as third:
                await third.send(build_request(bearer(ALICE)))
                response = await third.read_response()
                assert await third.read_until_closed() == b""
            assert (response.status, response.get_one("Retry-After"), response.closes) == (
                503,
                "1",
                True,
            )
            assert (gate.overloads, len(gate.checks)) == (1, 2)
        await until(lambda: sum(count_connections(gate)) == 0)
        assert (await send_request(gate.address, build_request(bearer(ALICE)))).status == 200


async def test_handed_over_connection_counts_once() -> None:
    async with (
        open_gate(max_connections=2) as gate,
        connect(gate.address) as not_plain,
        connect(gate.address) as plain,
    ):
        await not_plain.send(NOT_PLAIN)
        assert (await not_plain.read_response()).status == 200
        await plain.send(build_request(bearer(ALICE)))

        assert (await plain.read_response()).status == 200
        assert count_connections(gate) == (1, 1)


async def test_silent_connection_beyond_the_limit_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sidegate.web.server.listener._OVERLOAD_TIMEOUT", 0.05)
    async with open_gate(max_connections=1) as gate, connect(gate.address) as one:
        await one.send(build_request())
        await one.read_response()
        async with connect(gate.address) as another:
            assert await another.read_until_closed() == b""


# Hand-over


async def test_connection_stays_on_the_aiohttp_path_after_a_hand_over(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        await connection.send(build_request(bearer(ALICE)))
        await connection.read_response()
        assert count_connections(gate) == (1, 0)
        for raw in (NOT_PLAIN, build_request(bearer(BOB))):
            await connection.send(raw)
            assert (await connection.read_response()).status == 200
            assert count_connections(gate) == (0, 1)


async def test_untrusted_peer_gets_403(gate: GateHarness) -> None:
    async with connect(gate.address, source="127.0.0.2") as connection:
        await connection.send(build_request(bearer(ALICE)))
        assert (await connection.read_response()).status == 403

    assert (gate.refused_peers, gate.checks) == (1, [])


async def test_trusted_peer_stays_on_the_fast_path() -> None:
    async with (
        open_gate(trusted=["127.0.0.0/8"], in_memory=True) as gate,
        connect(gate.address, source="127.0.0.9") as connection,
    ):
        for token in (ALICE, BOB) * 5:
            await connection.send(build_request(bearer(token)))
            assert (await connection.read_response()).status == 200
        assert count_connections(gate) == (1, 0)


@pytest.mark.parametrize("route", ROUTES)
async def test_header_with_two_roles_is_served_by_aiohttp(route: str) -> None:
    name = b"x-forwarded-for" if route == "/forward-auth" else b"x-real-ip"
    policy = GatewayPolicy(CredentialSources(header=name))
    async with open_gate(policy=policy) as gate, connect(gate.address) as connection:
        token = ALICE.text.encode()
        await connection.send(build_request(name + b": " + token, target=route))

        assert (await connection.read_response()).get_one("X-Auth-User") == "alice"
        assert count_connections(gate) == (0, 1)


# Methods and versions


async def test_head_request_gets_no_body(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        for lines, status in (((bearer(ALICE),), 200), ((), 401)):
            await connection.send(build_request(*lines, method=b"HEAD"))
            assert (await connection.read_response(to_head=True)).status == status
        await connection.send(build_request(bearer(BOB)))
        assert (await connection.read_response()).get_one("X-Auth-User") == "bob"
        assert count_connections(gate) == (1, 0)


async def test_http_1_0_request_that_closes_is_plain(gate: GateHarness) -> None:
    raw = build_request(b"Connection: close", bearer(ALICE)).replace(b"HTTP/1.1", b"HTTP/1.0")
    async with connect(gate.address) as connection:
        await connection.send(raw)
        response = await connection.read_response()
        assert await connection.read_until_closed() == b""

    assert (response.version, response.status, response.closes) == ("HTTP/1.0", 200, True)
    assert count_connections(gate) == (0, 0)


# Errors and shutdown


def raise_bug(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("unexpected failure")


async def assert_bug_is_logged(gate: GateHarness, caplog: pytest.LogCaptureFixture) -> None:
    async with connect(gate.address) as connection:
        await connection.send(build_request(bearer(ALICE)) + build_request(bearer(BOB)))
        response = await connection.read_response()
        assert await connection.read_until_closed() == b""

    assert_gate_response(response)
    assert (response.status, response.closes) == (500, True)
    assert [record.getMessage() for record in caplog.records] == ["request handling failed"]
    assert "unexpected failure" in caplog.text


async def test_bug_in_a_lookup_is_logged_and_gets_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class BrokenFinder:
        async def find(self, _: object) -> NoReturn:
            raise_bug()

    async with open_gate(finder=BrokenFinder()) as gate:
        await assert_bug_is_logged(gate, caplog)


async def test_bug_in_memory_is_logged_and_gets_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_gate(memory=raise_bug) as gate:
        await assert_bug_is_logged(gate, caplog)


async def test_bug_after_a_prefetch_is_logged_and_gets_500(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GateHarness, "record_check", raise_bug)
    async with open_gate(prefetches=True) as gate:
        await assert_bug_is_logged(gate, caplog)


async def test_clients_that_disconnect_while_waiting_leave_no_trace(
    cold_gate: GateHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    cold_gate.backend.unblocked.clear()
    for _ in range(20):
        async with connect(cold_gate.address) as connection:
            await connection.send(build_request(bearer(ALICE)))
    await until(lambda: count_connections(cold_gate) == (0, 0))
    cold_gate.backend.unblocked.set()

    assert (await send_request(cold_gate.address, build_request(bearer(BOB)))).get_one(
        "X-Auth-User"
    ) == "bob"
    assert caplog.text == ""


async def test_draining_closes_each_connection_after_its_next_response(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        await connection.send(build_request(bearer(ALICE)))
        assert not (await connection.read_response()).closes
        gate.listener.drain()
        await connection.send(build_request(bearer(ALICE)) * 3)
        assert (await connection.read_response()).closes
        assert await connection.read_until_closed() == b""


async def test_close_waits_only_for_requests_in_progress(
    cold_gate: GateHarness,
) -> None:
    cold_gate.backend.unblocked.clear()
    async with (
        connect(cold_gate.address) as in_progress,
        connect(cold_gate.address) as idle,
        connect(cold_gate.address) as begun,
    ):
        await idle.send(build_request())
        await idle.read_response()
        await begun.send(build_request(bearer(ALICE))[:40])
        await in_progress.send(build_request(bearer(ALICE)))
        await until(lambda: cold_gate.backend.lookups)
        closing = asyncio.create_task(cold_gate.listener.close(drain_timeout=30))
        assert await idle.read_until_closed() == b""
        assert await begun.read_until_closed() == b""
        assert not closing.done()
        cold_gate.backend.unblocked.set()
        response = await in_progress.read_response()
        await closing

    assert (response.get_one("X-Auth-User"), response.closes) == ("alice", True)


async def test_close_aborts_after_the_drain_timeout(cold_gate: GateHarness) -> None:
    cold_gate.backend.unblocked.clear()
    async with connect(cold_gate.address) as connection:
        await connection.send(build_request(bearer(ALICE)))
        await until(lambda: cold_gate.backend.lookups)

        async with asyncio.timeout(10):
            await cold_gate.listener.close(drain_timeout=0.05)

        assert await connection.read_until_closed() == b""
        assert count_connections(cold_gate) == (0, 0)


# Event loops and sockets


async def send_all_kinds(connection: RawConnection) -> list[int]:
    """Return the statuses of a hit, a miss, pipelined requests, one for aiohttp and a last one."""
    statuses = []
    for raw in (
        build_request(bearer(ALICE)),
        build_request(bearer(NEVER_ISSUED)),
        build_request(cookie(BOB)) * 2,
    ):
        for piece in (raw[:30], raw[30:]):
            await connection.send(piece)
            await asyncio.sleep(0)
        statuses += [(await connection.read_response()).status for _ in range(raw.count(b"GET "))]
    for raw in (
        NOT_PLAIN,
        build_request(bearer(CAROL)),
        build_request(bearer(ALICE), b"Connection: close"),
    ):
        await connection.send(raw)
        statuses.append((await connection.read_response()).status)
    assert await connection.read_until_closed() == b""
    return statuses


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
@pytest.mark.parametrize("unix", [True, False])
def test_every_loop_and_socket_type_serves_the_same(
    run: Callable[[Awaitable[Any]], Any], unix: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("gate") / "gate.sock")

    def open_() -> AbstractAsyncContextManager[GateHarness]:
        address = Address(path=path) if unix else Address("127.0.0.1", 0)
        return open_gate(address, in_memory=True)

    async def serve() -> list[int]:
        async with open_() as gate, connect(gate.address) as connection:
            return await send_all_kinds(connection)

    assert run(serve()) == [200, 401, 200, 200, 200, 200, 200]
