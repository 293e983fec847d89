"""How long after a revocation on one instance another instance still allows the session.

The time is from sending the revocation (not from its response, which would hide its cost) until the
first denial by the other instance, which has the session cached in memory. It is polled every
millisecond.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from tests.bench.connection import Connection, connect
from tests.bench.effort import Effort
from tests.bench.environment import Environment
from tests.bench.errors import UnexpectedResponses
from tests.bench.http_requests import build_revoke_request, build_subrequest
from tests.bench.series import Series, percentile
from tests.bench.sessions import KnownSession
from tests.bench.sidegate_targets import ROUTE
from tests.support.sidegate import Sidegate

_ALLOWED: Final = 200
_DENIED: Final = 401
_POLL_INTERVAL: Final = 0.001
_TIMEOUT: Final = 30.0


def measure_delay(environment: Environment, effort: Effort) -> Mapping[str, Series]:
    """Return percentiles in milliseconds over the revocations of all rounds."""
    database = environment.get_database("revoked", sessions=effort.rounds * effort.revocations)
    revoking = environment.get_instance("revoking", database)
    denying = environment.get_instance("refusing", database)
    environment.progress(f"revoking {len(database.sessions)} sessions, one after another")
    seconds = asyncio.run(
        _measure_delays(revoking, denying, database.sessions, environment.admin_key)
    )
    revoking.server.stop()
    denying.server.stop()
    return {
        f"revoked-p{share}": Series.of(percentile(seconds, share / 100) * 1000)
        for share in (50, 99)
    }


async def _measure_delays(
    revoking: Sidegate, denying: Sidegate, sessions: Sequence[KnownSession], key: str
) -> list[float]:
    async with connect(revoking.admin_port) as admin, connect(denying.server.port) as gate:
        return [await _measure_one(admin, gate, session, key) for session in sessions]


async def _measure_one(
    admin: Connection, gate: Connection, session: KnownSession, key: str
) -> float:
    request, now = build_subrequest(session, path=ROUTE), asyncio.get_running_loop().time
    await _expect(_ALLOWED, gate, request)  # now it is cached in memory there
    async with asyncio.timeout(_TIMEOUT):
        refusal = asyncio.ensure_future(_wait_for_denial(gate, request))
        start = now()
        await _expect(_ALLOWED, admin, build_revoke_request(session.session_id, key))
        return await refusal - start


async def _wait_for_denial(gate: Connection, request: str) -> float:
    """Return the time of the first denial."""
    while True:
        status, head = await gate.request(request)
        if status == _DENIED:
            return asyncio.get_running_loop().time()
        if status != _ALLOWED:
            raise UnexpectedResponses(f"neither 200 nor 401: {head}")
        await asyncio.sleep(_POLL_INTERVAL)


async def _expect(status: int, connection: Connection, request: str) -> None:
    answered, head = await connection.request(request)
    if answered != status:
        raise UnexpectedResponses(f"expected {status}, got {head}")
