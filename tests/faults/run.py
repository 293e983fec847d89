"""One fault after the other: begin, last, heal, and watch it recover."""

import asyncio
import gc
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from tests.faults import history
from tests.faults.deployment import deployed
from tests.faults.ending import ended
from tests.faults.faults import Fault
from tests.faults.history import Record, Road, now
from tests.faults.judging import row_of
from tests.faults.plan import Outcome, Plan, Row
from tests.faults.rules import Breach
from tests.faults.setting import set_up
from tests.faults.stage import Episode, Stage, answered
from tests.faults.watch import Holdings, holdings

Progress = Callable[[str], None]

_BASE: Final = 2.0  # seconds before each fault
_WATCHED: Final = 3.0  # after its recovery should be over
_MOMENT: Final = 1.0
# Seconds after which no instance believes what it has in memory now.
_AGED: Final = 5.0
_HOLDINGS_BACK: Final = 60.0


async def run(plan: Plan, path: Path, progress: Progress, told: Callable[[Row], None]) -> Outcome:
    """Run the plan, write the history to `path`, and tell each row as soon as it is there."""
    async with AsyncExitStack() as stack:
        progress("starting Redis, Postgres and two instances")
        deployment = await stack.enter_async_context(deployed(broken=plan.broken))
        record = stack.enter_context(Record(path))
        progress(f"beginning {plan.sessions} sessions of {plan.users} users")
        stage = await stack.enter_async_context(set_up(plan, deployment, record))
        base = await _seasoned(stage, progress) if plan.ending else None
        rows = []
        for fault in plan.faults:
            rows.append(await _had(fault, stage, progress))
            told(rows[-1])
        found: list[Breach] = []
        if base is not None:
            progress("waiting until no more is held on to than in the beginning")
            found += await _given_back(base, stage)
            progress("the end: kill -9 everything, start again, check every session once")
            found += await ended(deployment, stage.load, record)
        return Outcome(tuple(rows), tuple(found), record.stalled)


async def _seasoned(stage: Stage, progress: Progress) -> Holdings:
    """Let the instances lose each store once, so that they hold what they hold ever after."""
    progress("losing each store for a moment, to have seen everything once")
    async with stage.load.running():
        for wire in (stage.redis_wire, stage.postgres_wire):
            await asyncio.sleep(_MOMENT)
            wire.refusing = True
            wire.cut()
            await asyncio.sleep(_MOMENT)
            wire.refusing = False
        await _filled(stage)
        await asyncio.sleep(_BASE)
        return await _held(stage)


async def _filled(stage: Stage) -> None:
    """Let everybody be in Redis. Not too many at once: who has to wait leaves no copy there."""
    await stage.load.all_of(stage.load.population.living, Road.WARM, at_once=4)
    stage.load.population.warm_up()


async def _had(fault: Fault, stage: Stage, progress: Progress) -> Row:
    """Let a fault happen, with all of its episodes."""
    gc.freeze()  # what is there by now stays: it need not be looked through again and again
    stage.absent.clear()
    stage.breaches.clear()
    stage.record.forget_checks()
    async with stage.load.running():
        if fault.without_cold:
            # Redis may just have been given up: between two faults the rig is busy for moments, and
            # the wires with it. What an instance has in memory it puts there when it has aged.
            await asyncio.sleep(_AGED)
            await _filled(stage)
        async with stage.believing("before it"):
            await stage.wait(_BASE)
        marks = []
        for name, episode in fault.episodes:
            progress(f"{fault.number} {fault.name}{f': {name}' if name else ''}")
            marks.append(await _episode(fault, name, episode, stage))
    return row_of(fault, marks, stage)


async def _episode(fault: Fault, name: str, episode: Episode, stage: Stage) -> history.Mark:
    """Let it begin, last and end, and watch until it should be over and a little longer."""
    before = await stage.counters()
    stage.begins()
    await episode(stage)
    mark = history.Mark(
        start=stage.begun,
        end=now(),
        number=fault.number,
        episode=name,
        bound=fault.bound,
        without_cold=fault.without_cold,
        starving=fault.starving,
    )
    stage.record.note(mark)
    recovery = fault.recovery or 0.0  # a promise is not scaled
    await asyncio.sleep(recovery)
    async with stage.believing(f"from {recovery:g} s after it"):  # each episode leaves it well
        await asyncio.sleep(_WATCHED)
    after = await stage.counters()
    for store in ("redis", "postgres"):
        stage.expect(f"{store} answered no look-up", seen=answered(store)(before, after))
    return mark


async def _given_back(base: Holdings, stage: Stage) -> list[Breach]:
    """Wait until no more is held on to than before; what is kept too long is a breach (I10)."""
    until = now() + _HOLDINGS_BACK
    async with stage.load.running():
        while kept := list((await _held(stage)).beyond(base)):
            if now() > until:
                return [Breach("I10", f"after a minute: {', '.join(kept)}", now())]
            await asyncio.sleep(1.0)
    return []


async def _held(stage: Stage) -> Holdings:
    wires = stage.redis_wire, stage.postgres_wire
    return await holdings(stage.load.gateway.upstreams, *(len(wire.links) for wire in wires))
