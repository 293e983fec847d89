"""Episodes in which clients misbehave, and nothing of ours is hurt."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from typing import Final

from tests.faults.gateway import Upstream
from tests.faults.history import WORTHLESS, Check, Road, now
from tests.faults.population import Held, forged
from tests.faults.stage import Stage, answered
from tests.faults.watch import descriptors

_LASTS: Final = 10.0
_FLOOD: Final = 3000.0
_SLOW: Final = 500
_IDLE: Final = 1000

_REQUEST: Final = b"GET /forward-auth HTTP/1.1\r\nHost: gate\r\nX-Slow: " + b"x" * 1000

# So many more descriptors than an instance has open may it open; not enough for all who come.
_SPARE: Final = 600


async def flooded(stage: Stage) -> None:
    """Random tokens, well-formed, three times as many as all others: they cost no look-up."""
    text = stage.load.population.worthless[Road.UNKNOWN][0].text
    them = cycle([Held(forged(text)) for _ in range(2000)])
    begun, before = now(), await stage.counters()
    rate = _FLOOD * stage.factor
    async with stage.load.also(rate, lambda: stage.load.gateway.check(next(them), Road.FORGED)):
        await stage.wait(_LASTS)
    await asyncio.sleep(0.3)
    after = await stage.counters()
    flood = after.since(before, "sidegate_checks_total", reason="forged")
    stage.expect("the flood did not come", seen=flood > rate * _LASTS * stage.scale / 2)
    looked, most = answered("memory")(before, after), _with_a_good_tag(stage, begun)
    stage.expect(f"{looked:.0f} look-ups for {most} good tokens", seen=looked <= most)


def _with_a_good_tag(stage: Stage, since: float) -> int:
    """Count the checks for which anybody had to be asked, those under way before too."""
    unread = WORTHLESS - {Road.UNKNOWN, Road.EXPIRED}
    return sum(
        isinstance(entry, Check) and entry.road not in unread and entry.end >= since - 1.0
        for entry in stage.record.entries
    )


async def crowded(stage: Stage) -> None:
    """Connections that say one byte a second, or nothing, until there are no descriptors left."""
    async with _few_descriptors(stage), asyncio.TaskGroup() as clients:
        held = [
            clients.create_task(_connection(upstream, slow=number < _SLOW))
            for number in range(_SLOW + _IDLE)
            for upstream in (stage.load.gateway.upstreams[number % 2],)
        ]
        await stage.wait(_LASTS)
        open_ = list(map(descriptors, _pids(stage)))
        for client in held:
            client.cancel()
    stage.expect(f"only {open_} descriptors were in use", seen=min(open_) > _SPARE / 2)


def _pids(stage: Stage) -> list[int]:
    return [each.sidegate.server.process.pid for each in stage.load.gateway.upstreams]


@asynccontextmanager
async def _few_descriptors(stage: Stage) -> AsyncIterator[None]:
    pids = _pids(stage)
    limits = [resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids]
    for pid, (_, hard) in zip(pids, limits, strict=True):
        few = descriptors(pid) + _SPARE
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, hard))
    try:
        yield
    finally:
        for pid, limit in zip(pids, limits, strict=True):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)


async def _connection(upstream: Upstream, *, slow: bool) -> None:
    """Hold a connection to the gate, and come again when it is closed."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", upstream.sidegate.server.port
            )
            try:
                await (_spelled_out(reader, writer) if slow else reader.read(1))
            finally:
                writer.close()
        await asyncio.sleep(1.0)


async def _spelled_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say a request one byte a second; return when the other side has had enough."""
    for place in range(len(_REQUEST)):
        writer.write(_REQUEST[place : place + 1])
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await reader.read(1)
                return


async def leaving(stage: Stage) -> None:
    """Three in ten clients hang up before they are answered."""
    begun = now()
    stage.load.gateway.leaving = 0.3
    try:
        await stage.wait(_LASTS)
    finally:
        stage.load.gateway.leaving = 0.0
    left = sum(
        isinstance(entry, Check) and entry.left and entry.start >= begun
        for entry in stage.record.entries
    )
    stage.expect("nobody left", seen=left)
