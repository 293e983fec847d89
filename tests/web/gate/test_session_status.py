"""GET /session: a front end learns how long its own session lasts, and nothing else."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from sidegate.core.token import Token
from tests.support.clock import NOON
from tests.web.gate.gate_rig import (
    ALICE,
    BOB,
    EXPIRED,
    IDENTITY,
    NEVER_ISSUED,
    REUSED,
    REVOKED,
    Gatehouse,
    bearer,
    cookie,
    open_gate,
    request,
)
from tests.web.raw_http import Reply, ask


@pytest.fixture
async def gate() -> AsyncIterator[Gatehouse]:
    async with open_gate() as opened:
        yield opened


async def ask_for_session(gate: Gatehouse, *lines: bytes) -> Reply:
    return await ask(gate.address, request(*lines, target="/session"))


@pytest.mark.parametrize("credential", [bearer(ALICE), cookie(ALICE)], ids=["bearer", "cookie"])
async def test_the_owner_learns_the_times_and_the_type(gate: Gatehouse, credential: bytes) -> None:
    reply = await ask_for_session(gate, credential)
    assert reply.status == 200
    assert json.loads(reply.body) == {
        "type": "web",
        "ends_at": "2026-03-05T00:00:00Z",
        "idle_at": "2026-03-04T12:30:00Z",
        "refresh_after": "2026-03-04T18:00:00Z",
    }


async def test_nothing_else_is_told(gate: Gatehouse) -> None:
    reply = await ask_for_session(gate, bearer(ALICE))
    names = {name.lower() for name, _ in reply.fields}
    assert names.isdisjoint(name.lower() for name in IDENTITY)
    assert reply.only("Cache-Control") == "no-store"
    assert b"alice" not in reply.raw


@pytest.mark.parametrize("token", [EXPIRED, REVOKED, REUSED, NEVER_ISSUED])
async def test_whoever_has_no_living_session_is_refused(gate: Gatehouse, token: Token) -> None:
    reply = await ask_for_session(gate, bearer(token))
    assert reply.status == 401


async def test_without_and_with_two_credentials_it_is_refused(gate: Gatehouse) -> None:
    assert (await ask_for_session(gate)).status == 401
    assert (await ask_for_session(gate, bearer(ALICE), cookie(BOB))).status == 401


async def test_an_outage_is_not_an_end(gate: Gatehouse) -> None:
    gate.shelf.down = True
    reply = await ask_for_session(gate, bearer(ALICE))
    assert reply.status == 503
    assert reply.only("Retry-After") == "1"


async def test_asking_is_not_being_active(gate: Gatehouse) -> None:
    before = gate.shelf.sessions[ALICE.digest()]
    gate.clock.advance(timedelta(minutes=20))
    await ask_for_session(gate, bearer(ALICE))
    gate.clock.advance(timedelta(minutes=10))
    assert (await ask_for_session(gate, bearer(ALICE))).status == 401
    assert gate.shelf.sessions[ALICE.digest()] == before
    assert gate.checks == []
    assert before.last_seen_at == NOON
