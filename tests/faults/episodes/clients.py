"""Episodes with misbehaving clients."""

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from itertools import cycle
from typing import Final

from tests.faults.client import ConnectionBroken, ConnectionPool
from tests.faults.context import FaultContext, answered_lookups
from tests.faults.deployment import connect_as_superuser
from tests.faults.gateway import Upstream
from tests.faults.history import NEVER_VALID, Check, Create, Result, TokenCategory, now
from tests.faults.load import LIMIT
from tests.faults.many_clients import ASKING, IDLE, SPREAD
from tests.faults.population import ClientToken, forge
from tests.faults.resources import count_descriptors
from tests.faults.rules import Violation

_FAULT_TIME: Final = 10.0
_FLOOD_RATE: Final = 3000.0
_SLOW_CLIENTS: Final = 500
_IDLE_CLIENTS: Final = 1000

_REQUEST: Final = b"GET /forward-auth HTTP/1.1\r\nHost: gate\r\nX-Slow: " + b"x" * 1000

# Seconds between two probes of an orchestrator, and for which it waits for an answer.
_PROBE_INTERVAL: Final = 0.25
_PROBE_TIMEOUT: Final = 1.0
_PROBE_PATHS: Final = ("/livez", "/readyz", "/metrics")

# Log-ins in a burst, compared with the usual ones.
_BURST: Final = 10

# Descriptors that an instance may open in addition: too few for all clients.
_SPARE_DESCRIPTORS: Final = 600


async def flood(context: FaultContext) -> None:
    """Flood with well-formed random tokens, which must not cause lookups."""
    text = context.load.population.never_valid[TokenCategory.UNKNOWN][0].text
    tokens = cycle([ClientToken(forge(text)) for _ in range(2000)])
    started_at, before = now(), await context.fetch_counters()
    rate = _FLOOD_RATE * context.load_factor
    async with context.load.extra_stream(
        rate, lambda: context.load.gateway.check(next(tokens), TokenCategory.FORGED)
    ):
        await context.wait(_FAULT_TIME)
    await asyncio.sleep(0.3)
    after = await context.fetch_counters()
    received = after.increase(before, "sidegate_checks_total", reason="forged")
    context.expect(
        "the flood did not arrive", observed=received > rate * _FAULT_TIME * context.time_scale / 2
    )
    lookups, limit = (
        answered_lookups("memory")(before, after),
        _count_valid_tags(context, started_at),
    )
    context.expect(f"{lookups:.0f} lookups for {limit} valid tags", observed=lookups <= limit)


def _count_valid_tags(context: FaultContext, since: float) -> int:
    """Return the number of checks that need a lookup, including those already in progress."""
    without_lookup = NEVER_VALID - {TokenCategory.UNKNOWN, TokenCategory.EXPIRED}
    return sum(
        isinstance(entry, Check)
        and entry.category not in without_lookup
        and entry.end >= since - 1.0
        for entry in context.recorder.entries
    )


async def exhaust_descriptors(context: FaultContext) -> None:
    """Open slow and idle connections until the descriptors are exhausted."""
    async with _limit_descriptors(context), asyncio.TaskGroup() as clients:
        tasks = [
            clients.create_task(_stay_connected(upstream, slow=number < _SLOW_CLIENTS))
            for number in range(_SLOW_CLIENTS + _IDLE_CLIENTS)
            for upstream in (context.load.gateway.upstreams[number % 2],)
        ]
        await context.wait(_FAULT_TIME)
        in_use = list(map(count_descriptors, _pids(context)))
        for client in tasks:
            client.cancel()
    context.expect(
        f"only {in_use} descriptors were in use", observed=min(in_use) > _SPARE_DESCRIPTORS / 2
    )


def _pids(context: FaultContext) -> list[int]:
    return [each.sidegate.server.process.pid for each in context.load.gateway.upstreams]


@asynccontextmanager
async def _limit_descriptors(context: FaultContext) -> AsyncIterator[None]:
    pids = _pids(context)
    limits = [resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids]
    for pid, (_, hard) in zip(pids, limits, strict=True):
        soft = count_descriptors(pid) + _SPARE_DESCRIPTORS
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        for pid, limit in zip(pids, limits, strict=True):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)


async def _stay_connected(upstream: Upstream, *, slow: bool) -> None:
    """Keep a connection to the gate listener open, and reopen it when it is closed."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", upstream.sidegate.server.port
            )
            try:
                await (_send_slowly(reader, writer) if slow else reader.read(1))
            finally:
                writer.close()
        await asyncio.sleep(1.0)


async def _send_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a request at one byte a second; return when the other side closes or responds."""
    for index in range(len(_REQUEST)):
        writer.write(_REQUEST[index : index + 1])
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await reader.read(1)
                return


async def abort_requests(context: FaultContext) -> None:
    """Three in ten clients disconnect before the response."""
    started_at = now()
    context.load.gateway.abort_share = 0.3
    try:
        await context.wait(_FAULT_TIME)
    finally:
        context.load.gateway.abort_share = 0.0
    aborted = sum(
        isinstance(entry, Check) and entry.aborted and entry.start >= started_at
        for entry in context.recorder.entries
    )
    context.expect("no client disconnected", observed=aborted)


async def crowd_other_listeners(context: FaultContext) -> None:
    """Ask the ops listener of one instance without end, and hold connections to ops and admin.

    All come from one address, and probes from another: what is closed for a new connection is one
    of the same address.
    """
    sidegate = context.target.sidegate
    ports = (str(sidegate.ops_port), str(sidegate.admin_port))
    command = (sys.executable, "-m", "tests.faults.many_clients", *ports)
    clients = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        await asyncio.sleep(SPREAD)
        context.mark_started()
        until = now() + _FAULT_TIME * context.time_scale
        while now() < until:
            for path in _PROBE_PATHS:
                await _probe(context, path)
            await asyncio.sleep(_PROBE_INTERVAL)
        clients.terminate()
        output, _ = await clients.communicate()
    finally:
        if clients.returncode is None:
            clients.kill()
            await clients.wait()
    done = json.loads(output)
    context.expect(f"only {done} was asked", observed=done["answered"] > 2 * ASKING)
    context.expect(f"only {done} was opened", observed=done["opened"] >= 2 * IDLE)


async def _probe(context: FaultContext, path: str) -> None:
    """Probe the target on a new connection; report a violation without an answer in time."""
    request = f"GET {path} HTTP/1.1\r\nHost: ops\r\n\r\n".encode("ascii")
    pool, answer = ConnectionPool(context.target.sidegate.ops_port), "no answer"
    with suppress(ConnectionBroken, TimeoutError):
        answer = str((await pool.request(request, timeout=_PROBE_TIMEOUT)).status)
    await pool.close()
    if answer != str(HTTPStatus.OK):
        message = f"a probe of {path} at {context.target.name} got {answer}"
        context.violations.append(Violation("I12", message, now()))


async def burst_logins(context: FaultContext) -> None:
    """Log in at ten times the usual rate, users at their limit as well."""
    load, started_at = context.load, now()
    usual, pairs = load.rates.creates, load.rates.login_pairs
    async with (
        load.extra_stream(usual * (_BURST - 1), load.create),
        load.extra_stream(pairs * (_BURST - 1), load.create_pair),
    ):
        await context.wait(_FAULT_TIME)
    created = sum(
        isinstance(entry, Create) and entry.result is Result.OK and entry.start >= started_at
        for entry in context.recorder.entries
    )
    expected = (usual + 2 * pairs) * _BURST * _FAULT_TIME * context.time_scale
    context.expect(f"only {created} log-ins", observed=created > expected / 2)
    await expect_limits(context)


async def expect_limits(context: FaultContext) -> None:
    """Report a violation for each user who has more active sessions than the limit."""
    query = (
        "SELECT user_id, count(*) AS number FROM sessions WHERE type = 'mobile'"
        " AND revoked_at IS NULL AND expires_at > now() GROUP BY user_id HAVING count(*) > $1"
    )
    async with connect_as_superuser(context.postgres) as connection:
        for row in await connection.fetch(query, LIMIT):
            message = f"{row['user_id']} has {row['number']} active sessions, not {LIMIT}"
            context.violations.append(Violation("I7", message, now()))
