"""GET /session: a front end gets the times of its own session, and nothing else."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from sidegate.core.token import Token
from tests.support.clock import NOON
from tests.web.gate.gate_harness import (
    ALICE,
    BOB,
    EXPIRED,
    IDENTITY_HEADERS,
    NEVER_ISSUED,
    REUSED,
    REVOKED,
    GateHarness,
    bearer,
    build_request,
    cookie,
    open_gate,
)
from tests.web.raw_http import RawResponse, send_request


@pytest.fixture
async def gate() -> AsyncIterator[GateHarness]:
    async with open_gate() as harness:
        yield harness


async def get_status(gate: GateHarness, *lines: bytes) -> RawResponse:
    return await send_request(gate.address, build_request(*lines, target="/session"))


@pytest.mark.parametrize("credential", [bearer(ALICE), cookie(ALICE)], ids=["bearer", "cookie"])
async def test_response_has_the_times_and_the_type(gate: GateHarness, credential: bytes) -> None:
    response = await get_status(gate, credential)
    assert response.status == 200
    assert json.loads(response.body) == {
        "type": "web",
        "ends_at": "2026-03-05T00:00:00Z",
        "idle_at": "2026-03-04T12:30:00Z",
        "refresh_after": "2026-03-04T18:00:00Z",
    }


async def test_response_contains_nothing_else(gate: GateHarness) -> None:
    response = await get_status(gate, bearer(ALICE))
    names = {name.lower() for name, _ in response.fields}
    assert names.isdisjoint(name.lower() for name in IDENTITY_HEADERS)
    assert response.get_one("Cache-Control") == "no-store"
    assert b"alice" not in response.raw


@pytest.mark.parametrize("token", [EXPIRED, REVOKED, REUSED, NEVER_ISSUED])
async def test_ended_or_unknown_session_gets_401(gate: GateHarness, token: Token) -> None:
    response = await get_status(gate, bearer(token))
    assert response.status == 401


async def test_missing_or_ambiguous_credential_gets_401(gate: GateHarness) -> None:
    assert (await get_status(gate)).status == 401
    assert (await get_status(gate, bearer(ALICE), cookie(BOB))).status == 401


async def test_outage_gets_503(gate: GateHarness) -> None:
    gate.backend.down = True
    response = await get_status(gate, bearer(ALICE))
    assert response.status == 503
    assert response.get_one("Retry-After") == "1"


async def test_request_records_no_activity(gate: GateHarness) -> None:
    before = gate.backend.sessions[ALICE.digest()]
    gate.clock.advance(timedelta(minutes=20))
    await get_status(gate, bearer(ALICE))
    gate.clock.advance(timedelta(minutes=10))
    assert (await get_status(gate, bearer(ALICE))).status == 401
    assert gate.backend.sessions[ALICE.digest()] == before
    assert gate.checks == []
    assert before.last_seen_at == NOON
