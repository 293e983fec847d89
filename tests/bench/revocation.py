"""How long after a revocation on one instance another one still lets the session in.

From the moment the revocation is sent (not answered: that would hide what it costs) until the other
instance, which has the session in its memory, is first seen to refuse it. It is asked every
millisecond.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from tests.bench.connection import Connection, connected
from tests.bench.effort import Effort
from tests.bench.errors import WrongAnswers
from tests.bench.questions import revocation, subrequest
from tests.bench.roads import ROUTE
from tests.bench.series import Series, percentile
from tests.bench.sessions import Known
from tests.bench.stage import Stage
from tests.support.sidegate import Sidegate

_ALLOWED: Final = 200
_REFUSED: Final = 401
_EVERY: Final = 0.001
_PATIENCE: Final = 30.0


def delay(stage: Stage, effort: Effort) -> Mapping[str, Series]:
    """Milliseconds, of all revocations of all rounds together."""
    database = stage.database("revoked", known=effort.rounds * effort.revocations)
    here = stage.sidegate("revoking", database)
    there = stage.sidegate("refusing", database)
    stage.say(f"revoking {len(database.known)} sessions, one after another")
    seconds = asyncio.run(_delays(here, there, database.known, stage.admin_key))
    here.server.stop()
    there.server.stop()
    return {
        f"revoked-p{share}": Series.of(percentile(seconds, share / 100) * 1000)
        for share in (50, 99)
    }


async def _delays(
    here: Sidegate, there: Sidegate, sessions: Sequence[Known], key: str
) -> list[float]:
    async with connected(here.admin_port) as admin, connected(there.server.port) as gate:
        return [await _delay(admin, gate, known, key) for known in sessions]


async def _delay(admin: Connection, gate: Connection, known: Known, key: str) -> float:
    question, now = subrequest(known, path=ROUTE), asyncio.get_running_loop().time
    await _expect(_ALLOWED, gate, question)  # from here on it is in that instance's memory
    async with asyncio.timeout(_PATIENCE):
        refusal = asyncio.ensure_future(_first_refusal(gate, question))
        start = now()
        await _expect(_ALLOWED, admin, revocation(known.session_id, key))
        return await refusal - start


async def _first_refusal(gate: Connection, question: str) -> float:
    """Return when the session was first refused."""
    while True:
        status, head = await gate.ask(question)
        if status == _REFUSED:
            return asyncio.get_running_loop().time()
        if status != _ALLOWED:
            raise WrongAnswers(f"neither yes nor no: {head}")
        await asyncio.sleep(_EVERY)


async def _expect(status: int, connection: Connection, request: str) -> None:
    answered, head = await connection.ask(request)
    if answered != status:
        raise WrongAnswers(f"{status} was expected, not {head}")
