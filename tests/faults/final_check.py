"""The end of a run: kill everything, restart, and check that acknowledged changes persisted."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

from tests.faults import leaks
from tests.faults.checker import find_violations
from tests.faults.consistency import find_final_violations
from tests.faults.deployment import Deployment, connect_as_superuser
from tests.faults.gateway import SimulatedGateway
from tests.faults.history import (
    ActiveCount,
    AuditEvent,
    Check,
    HistoryRecorder,
    Result,
    TokenCategory,
    now,
)
from tests.faults.load import LIMIT, Load
from tests.faults.population import ClientToken
from tests.faults.rules import Violation
from tests.stores.waiting import wait_until_async

_TIMEOUT: Final = 60.0


async def run_final_check(
    deployment: Deployment, load: Load, recorder: HistoryRecorder
) -> list[Violation]:
    """Return the violations found at the end. The load must have ended."""
    found = await _find_leaks(deployment, load)  # before Redis and the metrics are lost
    await _kill_and_restart(deployment)
    await _wait_until_ready(load.gateway)
    first = len(recorder.entries)
    load.gateway.after_restart = True
    await _check_every_token(load, recorder)
    await _record_active_counts(deployment, recorder)
    await _record_audit_events(deployment, recorder)
    found += [
        *_new_since(first, recorder, find_violations(recorder.entries)),
        *find_final_violations(recorder.entries),
        *await _verify_chain(deployment),
    ]
    found += await _find_leaks(deployment, load)
    return found


async def _find_leaks(deployment: Deployment, load: Load) -> list[Violation]:
    issued = load.population.issued.values()
    return await leaks.find_leaks(
        load.gateway.upstreams, deployment.redis, deployment.postgres, issued
    )


async def _kill_and_restart(deployment: Deployment) -> None:
    for server in reversed(deployment.servers):
        await asyncio.to_thread(server.kill)
    for server in deployment.servers:
        await asyncio.to_thread(server.child.start)


async def _wait_until_ready(gateway: SimulatedGateway) -> None:
    """Return when every instance has connected to its stores."""

    async def are_ready() -> bool:
        responses = [
            await each.get("/readyz?verbose", timeout=_TIMEOUT) for each in gateway.upstreams
        ]
        return not any(b"failed" in response.body for response in responses)

    await wait_until_async(are_ready, within=_TIMEOUT)


async def _check_every_token(load: Load, recorder: HistoryRecorder) -> None:
    """Check every token ever issued, and repeat the checks that were unavailable."""
    for category, group in _groups(load).items():
        rest: Sequence[ClientToken] = group
        deadline = now() + _TIMEOUT
        while rest and now() < deadline:
            first = len(recorder.entries)
            await load.check_all(rest, category)
            unanswered = {
                entry.token
                for entry in recorder.entries[first:]
                if isinstance(entry, Check) and entry.result is Result.INFO and not entry.retried
            }
            rest = [token for token in rest if token.number in unanswered]


def _groups(load: Load) -> dict[TokenCategory, list[ClientToken]]:
    population = load.population
    active = population.active
    others = {token.number for token in (*active, *population.at_limit)}
    ended = [token for number, token in population.issued.items() if number not in others]
    return {
        TokenCategory.WARM: active,
        TokenCategory.AT_LIMIT: list(population.at_limit),
        TokenCategory.ENDED: ended,
    } | population.never_valid


def _new_since(
    first: int, recorder: HistoryRecorder, found: Sequence[Violation]
) -> list[Violation]:
    """Return the violations that were not reported with a fault."""
    started_at = recorder.entries[first].start if first < len(recorder.entries) else 0.0
    return [violation for violation in found if violation.time >= started_at]


async def _record_active_counts(deployment: Deployment, recorder: HistoryRecorder) -> None:
    """Record the number of active sessions of each user with a session limit."""
    query = (
        "SELECT user_id, count(*) AS number FROM sessions WHERE type = 'mobile'"
        " AND revoked_at IS NULL AND expires_at > now() GROUP BY user_id"
    )
    async with connect_as_superuser(deployment.postgres) as connection:
        for row in await connection.fetch(query):
            at = now()
            recorder.add(
                ActiveCount(
                    start=at,
                    end=at,
                    user=row["user_id"],
                    sessions=row["number"],
                    limit=LIMIT,
                )
            )


async def _record_audit_events(deployment: Deployment, recorder: HistoryRecorder) -> None:
    events = "SELECT action, session_id::text, version, user_id, reason FROM audit_events"
    async with connect_as_superuser(deployment.postgres) as connection:
        for row in await connection.fetch(f"{events} ORDER BY number"):
            at = now()
            recorder.add(
                AuditEvent(
                    start=at,
                    end=at,
                    action=row["action"],
                    session=row["session_id"],
                    version=row["version"],
                    user=row["user_id"],
                    reason=row["reason"],
                )
            )


async def _verify_chain(deployment: Deployment) -> list[Violation]:
    """Run `sidegate audit verify` over the chain."""
    command = (sys.executable, "-m", "sidegate", "audit", "verify")
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(deployment.environment()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode == 0:
        return []
    last_line = output.decode(errors="replace").strip().splitlines()[-1:]
    return [
        Violation(
            "I8", f"sidegate audit verify ended with {process.returncode}: {last_line}", now()
        )
    ]
