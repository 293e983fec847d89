"""Run one fault after the other: inject, hold, repair, and observe the recovery."""

import asyncio
import gc
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from tests.faults import history
from tests.faults.context import Episode, FaultContext, answered_lookups
from tests.faults.deployment import start_deployment
from tests.faults.evaluation import evaluate
from tests.faults.faults import Fault
from tests.faults.final_check import run_final_check
from tests.faults.history import HistoryRecorder, TokenCategory, now
from tests.faults.plan import Outcome, Plan, Row
from tests.faults.preparation import prepare
from tests.faults.resources import ResourceUsage, read_usage
from tests.faults.rules import Violation

Progress = Callable[[str], None]

_BASELINE_TIME: Final = 2.0  # seconds of load before each fault
_OBSERVATION_TIME: Final = 3.0  # seconds after the expected recovery
_OUTAGE_TIME: Final = 1.0
# Seconds after which cache entries in memory have expired.
_MEMORY_MAX_AGE: Final = 5.0
_RELEASE_TIMEOUT: Final = 60.0


async def run(plan: Plan, path: Path, progress: Progress, on_row: Callable[[Row], None]) -> Outcome:
    """Run the plan, write the history to `path`, and report each row when it is complete."""
    async with AsyncExitStack() as stack:
        progress("starting Redis, Postgres and two instances")
        deployment = await stack.enter_async_context(
            start_deployment(broken_build=plan.broken_build)
        )
        recorder = stack.enter_context(HistoryRecorder(path))
        progress(f"creating {plan.sessions} sessions of {plan.users} users")
        context = await stack.enter_async_context(prepare(plan, deployment, recorder))
        base = await _cause_first_outages(context, progress) if plan.final_check else None
        rows = []
        for fault in plan.faults:
            rows.append(await _run_fault(fault, context, progress))
            on_row(rows[-1])
        found: list[Violation] = []
        if base is not None:
            progress("waiting until resource usage is back to its baseline")
            found += await _wait_for_release(base, context)
            progress("final check: kill -9 everything, restart, check every session once")
            found += await run_final_check(deployment, context.load, recorder)
        return Outcome(tuple(rows), tuple(found), recorder.cpu_wait_seconds)


async def _cause_first_outages(context: FaultContext, progress: Progress) -> ResourceUsage:
    """Take each store down once before the baseline of the resource usage is measured."""
    progress("taking each store down once, before the baseline is measured")
    async with context.load.running():
        for proxy in (context.redis_proxy, context.postgres_proxy):
            await asyncio.sleep(_OUTAGE_TIME)
            proxy.refuse_new = True
            proxy.reset_connections()
            await asyncio.sleep(_OUTAGE_TIME)
            proxy.refuse_new = False
        await _fill_redis(context)
        await asyncio.sleep(_BASELINE_TIME)
        return await _read_usage(context)


async def _fill_redis(context: FaultContext) -> None:
    """Fill Redis with all sessions. With more concurrency, writes to the cache are dropped."""
    await context.load.check_all(context.load.population.active, TokenCategory.WARM, concurrency=4)
    context.load.population.mark_all_warm()


async def _run_fault(fault: Fault, context: FaultContext, progress: Progress) -> Row:
    """Run a fault with all of its episodes, and evaluate it."""
    gc.freeze()  # objects that exist by now live until the end: exempt them from collection
    context.missing_effects.clear()
    context.violations.clear()
    context.recorder.discard_checks()
    async with context.load.running():
        if fault.exclude_cold:
            # Trust in Redis may just have ended: between two faults the rig, and the proxies with
            # it, are blocked for a short time. Redis is filled when the entries in memory have
            # expired.
            await asyncio.sleep(_MEMORY_MAX_AGE)
            await _fill_redis(context)
        async with context.expect_redis_hits("before the fault"):
            await context.wait(_BASELINE_TIME)
        periods = []
        for name, episode in fault.episodes:
            progress(f"{fault.number} {fault.name}{f': {name}' if name else ''}")
            periods.append(await _run_episode(fault, name, episode, context))
    return evaluate(fault, periods, context)


async def _run_episode(
    fault: Fault, name: str, episode: Episode, context: FaultContext
) -> history.FaultPeriod:
    """Run an episode, then observe the recovery."""
    before = await context.fetch_counters()
    context.mark_started()
    await episode(context)
    recovery = fault.recovery or 0.0  # not scaled: it is a promise
    period = history.FaultPeriod(
        start=context.started_at,
        end=now(),
        observed_until=now() + recovery + _OBSERVATION_TIME,
        number=fault.number,
        episode=name,
        bound=fault.bound,
        exclude_cold=fault.exclude_cold,
        cpu_starved=fault.cpu_starved,
    )
    context.recorder.add(period)
    await asyncio.sleep(recovery)
    async with context.expect_redis_hits(f"from {recovery:g} s after the fault"):
        await asyncio.sleep(_OBSERVATION_TIME)
    after = await context.fetch_counters()
    for store in ("redis", "postgres"):
        context.expect(
            f"{store} answered no lookup", observed=answered_lookups(store)(before, after)
        )
    return period


async def _wait_for_release(base: ResourceUsage, context: FaultContext) -> list[Violation]:
    """Wait until resource usage is back to `base`; I10 is violated if it takes too long."""
    deadline = now() + _RELEASE_TIMEOUT
    async with context.load.running():
        while excess := list((await _read_usage(context)).exceeding(base)):
            if now() > deadline:
                return [Violation("I10", f"after a minute: {', '.join(excess)}", now())]
            await asyncio.sleep(1.0)
    return []


async def _read_usage(context: FaultContext) -> ResourceUsage:
    proxies = context.redis_proxy, context.postgres_proxy
    return await read_usage(
        context.load.gateway.upstreams, *(len(proxy.connections) for proxy in proxies)
    )
