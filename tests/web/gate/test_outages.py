"""When something behind the gate fails: neither yes nor no, in time, and not a word too many."""

import logging
import time
from collections.abc import AsyncIterator

import pytest

from sidegate.core.session import Session
from sidegate.core.token import Digest
from sidegate.stores.memory import MemoryStore
from sidegate.stores.read_through import ReadThrough
from tests.support.clock import FakeClock
from tests.support.fakes import Shelf
from tests.web.gate.gate_rig import (
    ALICE,
    FORGED,
    NEVER_ISSUED,
    ROUTES,
    Gatehouse,
    bearer,
    check_manners,
    known_sessions,
    open_gate,
    request,
    spells_a_token,
)
from tests.web.raw_http import ask, wire

ENVOY = "/ext-authz/app"


@pytest.fixture(params=["express", "aiohttp"])
async def gate(request: pytest.FixtureRequest) -> AsyncIterator[Gatehouse]:
    async with open_gate(express=request.param == "express") as opened:
        yield opened


@pytest.mark.parametrize("route", ROUTES)
async def test_an_outage_is_told_as_one_to_whoever_might_be_known(
    gate: Gatehouse, route: str
) -> None:
    gate.shelf.down = True

    for token in (ALICE, NEVER_ISSUED):
        reply = await ask(gate.address, request(bearer(token), target=route))
        check_manners(reply)
        assert (reply.status, reply.only("Retry-After")) == (503, "1")
    assert {check[1:] for check in gate.checks} == {("unavailable", "shelf")}


async def test_nginx_is_told_of_an_outage_where_it_can_read_it(gate: Gatehouse) -> None:
    gate.shelf.down = True

    assert (await ask(gate.address, request(bearer(ALICE)))).only("X-Auth-Status") == "503"


@pytest.mark.parametrize("route", ROUTES)
async def test_in_an_outage_junk_is_still_refused(gate: Gatehouse, route: str) -> None:
    gate.shelf.down = True

    for lines in ([], [bearer(FORGED)], [bearer(b"junk")]):
        reply = await ask(gate.address, request(*lines, target=route))
        assert reply.status == 401
    assert gate.shelf.asked == []


async def test_a_record_nobody_can_read_is_no_denial(gate: Gatehouse) -> None:
    gate.shelf.unreadable.add(ALICE.digest())

    assert (await ask(gate.address, request(bearer(ALICE)))).status == 503


async def test_an_outage_ends_with_the_outage_on_the_same_connection(gate: Gatehouse) -> None:
    async with wire(gate.address) as line:
        statuses = []
        for gate.shelf.down in (False, True, False):
            await line.send(request(bearer(ALICE)))
            statuses.append((await line.reply()).status)

    assert statuses == [200, 503, 200]


async def test_who_is_in_memory_is_known_in_an_outage_until_the_copy_is_too_old() -> None:
    clock, far = FakeClock(), Shelf(*known_sessions())
    local = MemoryStore(max_bytes=2**30, max_sessions=10, max_age=5, clock=clock, jitter=lambda: 0)
    finder = ReadThrough(local, far, clock=clock)
    async with open_gate(finder=finder) as gate:
        before = await ask(gate.address, request(bearer(ALICE)))
        far.down = True
        within = await ask(gate.address, request(bearer(ALICE)))
        clock.advance(6)
        after = await ask(gate.address, request(bearer(ALICE)))

    assert [before.status, within.status, after.status] == [200, 200, 503]


async def test_envoy_is_answered_before_it_stops_waiting(gate: Gatehouse) -> None:
    gate.shelf.open.clear()
    budget = b"x-envoy-expected-rq-timeout-ms: 100"

    start = time.monotonic()
    reply = await ask(gate.address, request(bearer(ALICE), budget, target=ENVOY))

    assert time.monotonic() - start < 1
    check_manners(reply)
    assert reply.status == 503
    assert gate.checks == [("ext-authz", "unavailable", "deadline")]


@pytest.mark.parametrize("route", ["/auth-request", "/forward-auth"])
async def test_a_budget_is_no_other_gateways_to_state(gate: Gatehouse, route: str) -> None:
    gate.shelf.open.clear()
    async with wire(gate.address) as line:
        await line.send(request(bearer(ALICE), b"x-envoy-expected-rq-timeout-ms: 0", target=route))
        gate.shelf.open.set()
        assert (await line.reply()).status == 200


class Broken(Shelf):
    """Fails as nobody expects, with the secret in its hands."""

    def __init__(self, failure: type[Exception]) -> None:
        super().__init__()
        self._failure = failure

    async def find(self, digest: Digest) -> Session | None:
        secret = ALICE.text
        raise self._failure(f"{len(secret)} and {len(digest)}")


@pytest.mark.parametrize("failure", [RuntimeError, TimeoutError, ConnectionResetError, KeyError])
@pytest.mark.parametrize("route", ROUTES)
async def test_a_bug_is_told_to_nobody_but_the_log(
    failure: type[Exception], route: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_gate(finder=Broken(failure)) as gate, wire(gate.address) as line:
        await line.send(request(bearer(ALICE), b"Accept: text/html", target=route))
        reply = await line.reply()
        assert await line.until_closed() == b""

    assert reply.status in (500, 504)
    assert reply.closes
    assert reply.only("Cache-Control") == "no-store"
    assert reply.body.startswith(b'{"title":')
    assert failure.__name__.encode() not in reply.raw
    assert not spells_a_token(reply.raw + caplog.text.encode())
    assert gate.bad_requests == 0


async def test_a_bug_leaves_its_trace_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with open_gate(finder=Broken(RuntimeError)) as gate:
        await ask(gate.address, request(bearer(ALICE)))

    (record,) = [each for each in caplog.records if each.name == "sidegate.door"]
    assert (record.levelname, record.getMessage()) == ("ERROR", "the gate door failed")
    assert record.exc_info is not None
    assert "RuntimeError: 60 and 32" in caplog.text
