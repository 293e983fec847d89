"""Monitor CPU starvation and the readiness of instances while the load runs."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final

from tests.faults.client import ConnectionBroken
from tests.faults.deployment import Deployment
from tests.faults.gateway import Upstream
from tests.faults.history import POSTGRES, REDIS, RIG, HistoryRecorder, Stall, now
from tests.faults.resources import CpuWaits

# Seconds between two samples of CPU waits, and the shortest wait that is recorded.
_STALL_INTERVAL: Final = 0.02
_MIN_STALL: Final = 0.005

# Seconds between two readiness checks of a gateway.
_READINESS_INTERVAL: Final = 0.25


@asynccontextmanager
async def monitor(
    recorder: HistoryRecorder, deployment: Deployment, upstreams: Sequence[Upstream]
) -> AsyncIterator[None]:
    """Monitor for the duration of the block."""
    waits = {upstream.name: CpuWaits(upstream.sidegate.server) for upstream in upstreams}
    waits |= {REDIS: CpuWaits(deployment.redis), POSTGRES: CpuWaits(deployment.postgres)}
    tasks = [asyncio.create_task(_record_stalls(recorder, waits))]
    tasks += [asyncio.create_task(_poll_readiness(upstream)) for upstream in upstreams]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _record_stalls(recorder: HistoryRecorder, waits: Mapping[str, CpuWaits]) -> None:
    """Record when the rig, an instance or a store was runnable but got no CPU."""
    started_at = now()
    while True:
        await asyncio.sleep(_STALL_INTERVAL)
        ended = now()
        waits_by_process = {RIG: ended - started_at - _STALL_INTERVAL} | {
            process: wait.read() for process, wait in waits.items()
        }
        for process, seconds in waits_by_process.items():
            if seconds > _MIN_STALL:
                recorder.add(Stall(start=started_at, end=ended, process=process, waited=seconds))
        started_at = ended


async def _poll_readiness(upstream: Upstream) -> None:
    """Update `upstream.ready`. An instance that does not answer is detected by its requests."""
    while True:
        with suppress(ConnectionBroken, TimeoutError):
            response = await upstream.get("/readyz", timeout=1.0)
            upstream.ready = response.status == HTTPStatus.OK
        await asyncio.sleep(_READINESS_INTERVAL)
