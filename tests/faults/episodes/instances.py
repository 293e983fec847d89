"""Episodes with faults of an instance itself."""

import asyncio
import sys
from pathlib import Path
from typing import Final

from tests.faults.context import Episode, FaultContext, run_in_thread
from tests.faults.deployment import send_commands, start_with_commands
from tests.faults.history import now

_OUTAGE_TIME: Final = 8.0
_PAUSE_TIME: Final = 10.0
_SKEW_TIME: Final = 8.0
_BLOCK_TIME: Final = 2.0


async def do_nothing(context: FaultContext) -> None:
    """No fault: the baseline."""
    await context.wait(15.0)


async def kill(context: FaultContext) -> None:
    """kill -9 of one instance."""
    failed_requests = context.target.gate.failed_requests
    async with context.excuse_instance(context.target):
        await run_in_thread(context.target.sidegate.server.kill)
        await context.wait(_OUTAGE_TIME)
        await run_in_thread(context.target.sidegate.server.child.start)
    context.expect(
        "no request failed", observed=context.target.gate.failed_requests - failed_requests
    )


async def restart_rolling(context: FaultContext) -> None:
    """SIGTERM and restart, one instance after the other."""
    for upstream in context.load.gateway.upstreams:
        server = upstream.sidegate.server
        before = server.process.pid
        async with context.excuse_instance(upstream):
            await run_in_thread(server.stop)
            context.expect(
                "the instance did not exit with 0", observed=server.process.returncode == 0
            )
            await run_in_thread(server.child.start)
        context.expect("the process was not replaced", observed=server.process.pid != before)
        await asyncio.sleep(1.0)


async def pause(context: FaultContext) -> None:
    """SIGSTOP of one instance, which answers the requests received meanwhile when it continues."""
    server = context.target.sidegate.server
    async with context.excuse_instance(context.target):
        await run_in_thread(server.pause)
        try:
            await asyncio.sleep(_PAUSE_TIME)  # longer than a cache entry in memory lives
            context.expect(
                "the instance was not stopped", observed=_state(server.process.pid) == "T"
            )
        finally:
            await run_in_thread(server.resume)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def block_event_loop(context: FaultContext) -> None:
    """Block the event loop of one instance."""
    started_at = now()
    async with context.excuse_instance(context.target):
        await send_commands(context.target.sidegate, block=_BLOCK_TIME)
        await context.target.get("/livez", timeout=30)
    context.expect(
        "the event loop was not blocked", observed=now() - started_at >= _BLOCK_TIME * 0.9
    )


def skew_clock(seconds: float) -> Episode:
    """Shift the clock of one instance by so many seconds, and restart it with that clock."""

    async def episode(context: FaultContext) -> None:
        sidegate = context.target.sidegate
        await send_commands(sidegate, clock=seconds)
        await context.wait(_SKEW_TIME)
        async with context.excuse_instance(context.target):
            await run_in_thread(sidegate.server.stop)
            await start_with_commands(sidegate, clock=seconds)
        await context.wait(_SKEW_TIME)
        await send_commands(sidegate, clock=0.0)

    return episode


async def starve_cpu(context: FaultContext) -> None:
    """Run two busy loops beside the instances."""
    command = (sys.executable, "-c", "while True: pass")
    loops = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
    try:
        await context.wait(_PAUSE_TIME)
    finally:
        for loop in loops:
            loop.kill()
            await loop.wait()
