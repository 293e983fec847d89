"""Start-up time and memory of one instance."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.bench.connection import request_each_once
from tests.bench.effort import Effort
from tests.bench.environment import HUNDRED_THOUSAND, Environment
from tests.bench.errors import UnexpectedResponses
from tests.bench.http_requests import build_subrequest
from tests.bench.series import Series
from tests.bench.sidegate_targets import ROUTE
from tests.bench.target import fetch_metrics, sum_samples
from tests.support.processes import Server

# A sidecar has no admin listener.
_SIDECAR: Final = {"SIDEGATE_ADMIN__KEYS": "[]"}
# Seconds until the first change poll and the feed subscription have completed.
_SETTLE_TIME: Final = 2.0


def measure_startup(environment: Environment, effort: Effort) -> Mapping[str, Series]:
    """Return seconds from the process start until /readyz is 200, with Postgres and Redis."""
    server = environment.get_instance("started", environment.default_database).server
    seconds = [_seconds_to_start(environment, server) for _ in range(effort.rounds)]
    server.stop()
    return {"ready": Series(tuple(seconds))}


def measure_memory(environment: Environment, effort: Effort) -> Mapping[str, Series]:
    """Return resident memory of a sidecar in MB: idle, and added by 100,000 sessions.

    MB are millions of bytes. Also the slowest response in milliseconds while they are cached: the
    garbage collector's pauses grow with the number of objects.
    """
    database = environment.hundred_thousand_database
    sidegate = environment.get_instance("remembering", database, settings=_SIDECAR)
    idle = [_idle_megabytes(environment, sidegate.server) for _ in range(effort.rounds)]
    environment.progress(f"checking {HUNDRED_THOUSAND:,} sessions, each once")
    requests = (build_subrequest(session, path=ROUTE) for session in database.sessions)
    stats = asyncio.run(request_each_once(sidegate.server.port, requests))
    environment.progress(f"{stats.unavailable} of the responses were 503")
    cached = sum_samples(fetch_metrics(sidegate.ops_port), "sidegate_memory_sessions")
    if cached != HUNDRED_THOUSAND:
        raise UnexpectedResponses(f"{cached:,.0f} sessions are cached, not {HUNDRED_THOUSAND:,}")
    added = _megabytes(sidegate.server) - idle[-1]
    sidegate.server.stop()
    return {
        "memory-idle": Series(tuple(idle)),
        "memory-100k": Series.of(added),
        "slowest-100k": Series.of(stats.slowest * 1000),
    }


def _seconds_to_start(environment: Environment, server: Server) -> float:
    server.stop()
    with environment.cores.pinned_to_server_core():
        start = time.monotonic()
        server.child.start()
        return time.monotonic() - start


def _idle_megabytes(environment: Environment, server: Server) -> float:
    _seconds_to_start(environment, server)
    time.sleep(_SETTLE_TIME)
    return _megabytes(server)


def _megabytes(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kibibytes) * 1024 / 1e6
