"""What goes on beside the load: a look at the clock, and at the health of the instances."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final

from tests.faults.client import Broken
from tests.faults.deployment import Deployment
from tests.faults.gateway import Upstream
from tests.faults.history import POSTGRES, REDIS, RIG, Record, Stall, now
from tests.faults.watch import CpuWaits

# So often the rig looks whether it came late, and who else waited for the CPU; less is no matter.
_BEAT: Final = 0.02
_STALLED: Final = 0.005

# So often a gateway looks whether an instance wants to be asked.
_LOOK: Final = 0.25


@asynccontextmanager
async def beside(
    record: Record, deployment: Deployment, upstreams: Sequence[Upstream]
) -> AsyncIterator[None]:
    """Keep watch for as long as the block lasts."""
    waits = {upstream.name: CpuWaits(upstream.sidegate.server) for upstream in upstreams}
    waits |= {REDIS: CpuWaits(deployment.redis), POSTGRES: CpuWaits(deployment.postgres)}
    tasks = [asyncio.create_task(_heart(record, waits))]
    tasks += [asyncio.create_task(_health(upstream)) for upstream in upstreams]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _heart(record: Record, waits: Mapping[str, CpuWaits]) -> None:
    """Note who wanted the CPU and did not get it: the rig itself, an instance, or a store."""
    begun = now()
    while True:
        await asyncio.sleep(_BEAT)
        ended = now()
        longer = {RIG: ended - begun - _BEAT} | {who: of.since() for who, of in waits.items()}
        for who, seconds in longer.items():
            if seconds > _STALLED:
                record.note(Stall(start=begun, end=ended, who=who, waited=seconds))
        begun = ended


async def _health(upstream: Upstream) -> None:
    """Ask whether it wants to be asked. Whoever does not answer is found out by who asks it."""
    while True:
        with suppress(Broken, TimeoutError):
            answer = await upstream.look("/readyz", patience=1.0)
            upstream.ready = answer.status == HTTPStatus.OK
        await asyncio.sleep(_LOOK)
