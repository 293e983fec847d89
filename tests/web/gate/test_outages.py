"""Outages behind the gate: 503 in time, without details in the response."""

import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidegate.core.digest import Digest
from sidegate.core.session import Session
from sidegate.stores.client.batching import Batched
from sidegate.stores.lookup import SessionLookup
from sidegate.stores.memory import MemoryStore
from sidegate.stores.negative_cache import NegativeCache
from tests.support.clock import FakeClock
from tests.support.fakes import FakeBackend
from tests.web.gate.gate_harness import (
    ALICE,
    EXPIRED,
    FORGED,
    NEVER_ISSUED,
    REVOKED,
    ROUTES,
    GateHarness,
    assert_gate_response,
    bearer,
    build_request,
    build_sessions,
    contains_token,
    open_gate,
)
from tests.web.raw_http import connect, send_request

ENVOY = "/ext-authz/app"


@pytest.fixture(params=["fast_path", "aiohttp"])
async def gate(request: pytest.FixtureRequest) -> AsyncIterator[GateHarness]:
    async with open_gate(fast_path=request.param == "fast_path") as harness:
        yield harness


@pytest.mark.parametrize("route", ROUTES)
async def test_outage_gets_503_for_known_and_unknown_tokens(gate: GateHarness, route: str) -> None:
    gate.backend.down = True

    for token in (ALICE, NEVER_ISSUED):
        response = await send_request(gate.address, build_request(bearer(token), target=route))
        assert_gate_response(response)
        assert (response.status, response.get_one("Retry-After")) == (503, "1")
    assert {check[1:] for check in gate.checks} == {("unavailable", "backend")}


@pytest.mark.parametrize(
    "options", [{"fast_path": False}, {}, {"in_memory": True}, {"prefetches": True}], ids=str
)
@pytest.mark.parametrize("route", ROUTES)
async def test_token_gets_503_until_the_clock_is_set(route: str, options: dict[str, Any]) -> None:
    async with open_gate(**options) as gate:
        gate.clock.is_set = False
        await assert_no_token_is_judged(gate, route)
        gate.clock.is_set = True
        response = await send_request(gate.address, build_request(bearer(ALICE), target=route))
        assert response.status == 200


async def assert_no_token_is_judged(gate: GateHarness, route: str) -> None:
    for token in (ALICE, EXPIRED, REVOKED, NEVER_ISSUED):
        response = await send_request(gate.address, build_request(bearer(token), target=route))
        assert_gate_response(response)
        assert response.status == 503
    for credential in (bearer(FORGED), b"Authorization: Bearer x"):
        response = await send_request(gate.address, build_request(credential, target=route))
        assert_gate_response(response)
        assert response.status == 401
    unavailable, denied = gate.checks[:4], gate.checks[4:]
    assert {check[1:] for check in unavailable} == {("unavailable", "clock")}
    assert [check[1:] for check in denied] == [("deny", "forged"), ("deny", "malformed")]


async def test_outage_status_is_in_nginx_status_header(gate: GateHarness) -> None:
    gate.backend.down = True

    assert (await send_request(gate.address, build_request(bearer(ALICE)))).get_one(
        "X-Auth-Status"
    ) == "503"


@pytest.mark.parametrize("route", ROUTES)
async def test_invalid_credential_gets_401_in_an_outage(gate: GateHarness, route: str) -> None:
    gate.backend.down = True

    for lines in ([], [bearer(FORGED)], [bearer(b"junk")]):
        response = await send_request(gate.address, build_request(*lines, target=route))
        assert response.status == 401
    assert gate.backend.lookups == []


async def test_unreadable_record_gets_503(gate: GateHarness) -> None:
    gate.backend.unreadable.add(ALICE.digest())

    assert (await send_request(gate.address, build_request(bearer(ALICE)))).status == 503


async def test_connection_serves_again_after_an_outage(gate: GateHarness) -> None:
    async with connect(gate.address) as connection:
        statuses = []
        for gate.backend.down in (False, True, False):
            await connection.send(build_request(bearer(ALICE)))
            statuses.append((await connection.read_response()).status)

    assert statuses == [200, 503, 200]


async def test_session_in_memory_is_allowed_in_an_outage_until_it_is_stale() -> None:
    clock, database = FakeClock(), FakeBackend(*build_sessions())
    memory = MemoryStore(max_bytes=2**30, max_sessions=10, max_age=5, clock=clock, jitter=lambda: 0)
    finder = SessionLookup(
        memory,
        database=Batched(database),
        negative_cache=NegativeCache(max_digests=9, max_age=1.0, clock=clock),
        deadline=60.0,
        clock=clock,
    )
    async with open_gate(finder=finder) as gate:
        before = await send_request(gate.address, build_request(bearer(ALICE)))
        database.down = True
        within = await send_request(gate.address, build_request(bearer(ALICE)))
        clock.advance(6)
        after = await send_request(gate.address, build_request(bearer(ALICE)))

    assert [before.status, within.status, after.status] == [200, 200, 503]


async def test_envoy_gets_503_within_its_timeout(gate: GateHarness) -> None:
    gate.backend.unblocked.clear()
    budget = b"x-envoy-expected-rq-timeout-ms: 100"

    start = time.monotonic()
    response = await send_request(gate.address, build_request(bearer(ALICE), budget, target=ENVOY))

    assert time.monotonic() - start < 1
    assert_gate_response(response)
    assert response.status == 503
    assert gate.checks == [("ext-authz", "unavailable", "deadline")]


@pytest.mark.parametrize("route", ["/auth-request", "/forward-auth"])
async def test_other_gateways_cannot_state_a_budget(gate: GateHarness, route: str) -> None:
    gate.backend.unblocked.clear()
    async with connect(gate.address) as connection:
        await connection.send(
            build_request(bearer(ALICE), b"x-envoy-expected-rq-timeout-ms: 0", target=route)
        )
        gate.backend.unblocked.set()
        assert (await connection.read_response()).status == 200


class BrokenBackend(FakeBackend):
    """Fails unexpectedly, with a token in a memory variable."""

    def __init__(self, failure: type[Exception]) -> None:
        super().__init__()
        self._failure = failure

    async def find(self, digest: Digest) -> Session | None:
        secret = ALICE.text
        raise self._failure(f"{len(secret)} and {len(digest)}")


@pytest.mark.parametrize("failure", [RuntimeError, TimeoutError, ConnectionResetError, KeyError])
@pytest.mark.parametrize("route", ROUTES)
async def test_bug_gets_500_or_504_without_details(
    failure: type[Exception], route: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        open_gate(finder=BrokenBackend(failure)) as gate,
        connect(gate.address) as connection,
    ):
        await connection.send(build_request(bearer(ALICE), b"Accept: text/html", target=route))
        response = await connection.read_response()
        assert await connection.read_until_closed() == b""

    assert response.status in (500, 504)
    assert response.closes
    assert response.get_one("Cache-Control") == "no-store"
    assert response.body.startswith(b'{"title":')
    assert failure.__name__.encode() not in response.raw
    assert not contains_token(response.raw + caplog.text.encode())
    assert gate.bad_requests == 0


async def test_bug_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with open_gate(finder=BrokenBackend(RuntimeError)) as gate:
        await send_request(gate.address, build_request(bearer(ALICE)))

    (record,) = [each for each in caplog.records if each.name == "sidegate.listener"]
    assert (record.levelname, record.getMessage()) == ("ERROR", "request handling failed")
    assert record.exc_info is not None
    assert "RuntimeError: 60 and 32" in caplog.text
