"""Episodes in which an instance itself is hurt."""

import asyncio
import sys
from pathlib import Path
from typing import Final

from tests.faults.deployment import order, start_with
from tests.faults.history import now
from tests.faults.stage import Episode, Stage, apart

_DOWN: Final = 8.0
_STOPPED: Final = 10.0
_SKEWED: Final = 8.0
_BLOCKED: Final = 2.0


async def none(stage: Stage) -> None:
    """Nothing happens: what all the rest is compared with."""
    await stage.wait(15.0)


async def killed(stage: Stage) -> None:
    """kill -9 of one instance."""
    broken = stage.one.gate.broken
    async with stage.hurting(stage.one):
        await apart(stage.one.sidegate.server.kill)
        await stage.wait(_DOWN)
        await apart(stage.one.sidegate.server.child.start)
    stage.expect("no client noticed", seen=stage.one.gate.broken - broken)


async def rolled(stage: Stage) -> None:
    """SIGTERM and a new start, one instance after the other, as a roll-out does."""
    for upstream in stage.load.gateway.upstreams:
        server = upstream.sidegate.server
        before = server.process.pid
        async with stage.hurting(upstream):
            await apart(server.stop)
            stage.expect("the end was not an orderly one", seen=server.process.returncode == 0)
            await apart(server.child.start)
        stage.expect("it is the same process", seen=server.process.pid != before)
        await asyncio.sleep(1.0)


async def stopped(stage: Stage) -> None:
    """SIGSTOP of one instance. What it was asked meanwhile it answers when it goes on."""
    server = stage.one.sidegate.server
    async with stage.hurting(stage.one):
        await apart(server.pause)
        try:
            await asyncio.sleep(_STOPPED)  # longer than a copy in memory is believed
            stage.expect("the instance ran", seen=_state(server.process.pid) == "T")
        finally:
            await apart(server.resume)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def blocked(stage: Stage) -> None:
    """Something keeps the event loop of one instance from running."""
    begun = now()
    async with stage.hurting(stage.one):
        await order(stage.one.sidegate, block=_BLOCKED)
        await stage.one.look("/livez", patience=30)
    stage.expect("the event loop ran", seen=now() - begun >= _BLOCKED * 0.9)


def skewed(seconds: float) -> Episode:
    """The clock of one instance is put wrong by so many seconds, and it starts with it, too."""

    async def episode(stage: Stage) -> None:
        sidegate = stage.one.sidegate
        await order(sidegate, clock=seconds)
        await stage.wait(_SKEWED)
        async with stage.hurting(stage.one):
            await apart(sidegate.server.stop)
            await start_with(sidegate, clock=seconds)
        await stage.wait(_SKEWED)
        await order(sidegate, clock=0.0)

    return episode


async def starved(stage: Stage) -> None:
    """Two busy loops want the CPU as well."""
    command = (sys.executable, "-c", "while True: pass")
    loops = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
    try:
        await stage.wait(_STOPPED)
    finally:
        for loop in loops:
            loop.kill()
            await loop.wait()
