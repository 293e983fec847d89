"""The end of a run: kill everything, start again, and see whether what was promised is true."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

from tests.faults import leaks
from tests.faults.checker import breaches
from tests.faults.deployment import Deployment, superuser
from tests.faults.gateway import Gateway
from tests.faults.history import Check, Event, Living, Record, Result, Road, now
from tests.faults.load import LIMIT, Load
from tests.faults.population import Held
from tests.faults.rules import Breach
from tests.faults.trail import breaches_at_rest
from tests.stores.waiting import until_answered

_PATIENCE: Final = 60.0


async def ended(deployment: Deployment, load: Load, record: Record) -> list[Breach]:
    """Return what turns out not to be true. The load has ended before."""
    found = await _leaked(deployment, load)  # now: killed, Redis and the metrics hold nothing
    await _killed_and_started(deployment)
    await _until_well(load.gateway)
    first = len(record.entries)
    load.gateway.last = True
    await _everybody_once(load, record)
    await _counted(deployment, record)
    await _audited(deployment, record)
    found += [
        *_since(first, record, breaches(record.entries)),
        *breaches_at_rest(record.entries),
        *await _verified(deployment),
    ]
    found += await _leaked(deployment, load)
    return found


async def _leaked(deployment: Deployment, load: Load) -> list[Breach]:
    issued = load.population.issued.values()
    return await leaks.leaks(load.gateway.upstreams, deployment.redis, deployment.postgres, issued)


async def _killed_and_started(deployment: Deployment) -> None:
    for server in reversed(deployment.servers):
        await asyncio.to_thread(server.kill)
    for server in deployment.servers:
        await asyncio.to_thread(server.child.start)


async def _until_well(gateway: Gateway) -> None:
    """Return when every instance has found its stores; the load did not run meanwhile."""

    async def are_well() -> bool:
        told = [
            await each.look("/readyz?verbose", patience=_PATIENCE) for each in gateway.upstreams
        ]
        return not any(b"failed" in answer.body for answer in told)

    await until_answered(are_well, within=_PATIENCE)


async def _everybody_once(load: Load, record: Record) -> None:
    """Check every token there ever was; whoever could not be answered about comes again."""
    for road, group in _groups(load).items():
        rest: Sequence[Held] = group
        until = now() + _PATIENCE
        while rest and now() < until:
            first = len(record.entries)
            await load.all_of(rest, road)
            unanswered = {
                entry.token
                for entry in record.entries[first:]
                if isinstance(entry, Check) and entry.result is Result.INFO and not entry.retried
            }
            rest = [held for held in rest if held.number in unanswered]


def _groups(load: Load) -> dict[Road, list[Held]]:
    population = load.population
    living = population.living
    others = {held.number for held in (*living, *population.crowd)}
    over = [held for number, held in population.issued.items() if number not in others]
    return {
        Road.WARM: living,
        Road.CROWD: list(population.crowd),
        Road.OVER: over,
    } | population.worthless


def _since(first: int, record: Record, found: Sequence[Breach]) -> list[Breach]:
    """Leave out what was told before."""
    begun = record.entries[first].start if first < len(record.entries) else 0.0
    return [breach for breach in found if breach.when >= begun]


async def _counted(deployment: Deployment, record: Record) -> None:
    """Count who lives of those whose number is limited."""
    living = (
        "SELECT user_id, count(*) AS number FROM sessions WHERE type = 'mobile'"
        " AND revoked_at IS NULL AND expires_at > now() GROUP BY user_id"
    )
    async with superuser(deployment.postgres) as connection:
        for row in await connection.fetch(living):
            moment = now()
            record.note(
                Living(
                    start=moment,
                    end=moment,
                    user=row["user_id"],
                    sessions=row["number"],
                    limit=LIMIT,
                )
            )


async def _audited(deployment: Deployment, record: Record) -> None:
    events = "SELECT action, session_id::text, version, user_id, reason FROM audit_events"
    async with superuser(deployment.postgres) as connection:
        for row in await connection.fetch(f"{events} ORDER BY number"):
            moment = now()
            record.note(
                Event(
                    start=moment,
                    end=moment,
                    action=row["action"],
                    session=row["session_id"],
                    version=row["version"],
                    user=row["user_id"],
                    reason=row["reason"],
                )
            )


async def _verified(deployment: Deployment) -> list[Breach]:
    """Let `sidegate audit verify` follow the chain."""
    command = (sys.executable, "-m", "sidegate", "audit", "verify")
    ran = await asyncio.create_subprocess_exec(
        *command,
        env=dict(deployment.environment()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await ran.communicate()
    if ran.returncode == 0:
        return []
    words = said.decode(errors="replace").strip().splitlines()[-1:]
    return [Breach("I8", f"sidegate audit verify ended with {ran.returncode}: {words}", now())]
