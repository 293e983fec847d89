"""What one instance costs before it is asked anything, and what its memory of sessions weighs."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.bench.connection import ask_each_once
from tests.bench.effort import Effort
from tests.bench.errors import WrongAnswers
from tests.bench.questions import subrequest
from tests.bench.roads import ROUTE
from tests.bench.series import Series
from tests.bench.stage import Stage
from tests.bench.target import metrics, total
from tests.support.processes import Server

CACHED: Final = 100_000
# What runs after the start (the first catch-up, the feed's subscription) has run by then.
_SETTLED_AFTER: Final = 2.0


def start_up(stage: Stage, effort: Effort) -> Mapping[str, Series]:
    """Seconds from the start of the process until /readyz says yes, with Postgres and Redis."""
    server = stage.sidegate("started", stage.usual).server
    seconds = [_seconds_to_start(stage, server) for _ in range(effort.rounds)]
    server.stop()
    return {"ready": Series(tuple(seconds))}


def memory(stage: Stage, effort: Effort) -> Mapping[str, Series]:
    """Resident megabytes (millions of bytes): idle, and what 100,000 sessions add.

    And the milliseconds that the slowest answer took while they came into memory: what a process
    holds, its garbage collector looks at while everybody waits.
    """
    database = stage.database("remembered", known=CACHED)
    sidegate = stage.sidegate("remembering", database)
    idle = [_idle_megabytes(stage, sidegate.server) for _ in range(effort.rounds)]
    stage.say(f"asking about {CACHED:,} sessions, each once")
    questions = (subrequest(known, path=ROUTE) for known in database.known)
    toll = asyncio.run(ask_each_once(sidegate.server.port, questions))
    stage.say(f"{toll.unavailable} of the answers were 503")
    kept = total(metrics(sidegate.ops_port), "sidegate_memory_sessions")
    if kept != CACHED:
        raise WrongAnswers(f"{kept:,.0f} sessions are in memory, not {CACHED:,}")
    added = _megabytes(sidegate.server) - idle[-1]
    sidegate.server.stop()
    return {
        "memory-idle": Series(tuple(idle)),
        "memory-100k": Series.of(added),
        "slowest-100k": Series.of(toll.slowest * 1000),
    }


def _seconds_to_start(stage: Stage, server: Server) -> float:
    server.stop()
    with stage.cores.serving():
        start = time.monotonic()
        server.child.start()
        return time.monotonic() - start


def _idle_megabytes(stage: Stage, server: Server) -> float:
    _seconds_to_start(stage, server)
    time.sleep(_SETTLED_AFTER)
    return _megabytes(server)


def _megabytes(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kibibytes) * 1024 / 1e6
