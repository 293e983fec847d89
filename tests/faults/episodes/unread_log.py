"""Episodes in which nothing takes the log of an instance: a pipe that is not read, a full disk."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.faults.context import CounterChange, FaultContext
from tests.faults.deployment import send_commands
from tests.faults.gateway import Upstream
from tests.faults.history import TokenCategory, now
from tests.faults.rules import Violation

_HOLD_TIME: Final = 10.0

# What a write to it ends with is that of a full disk.
_FULL_DISK: Final = Path("/dev/full")

# Checks, each a line at the level debug, between two looks at the metrics; and for how many seconds
# they are sent until the pipe and the queue of the instance are full.
_CHECKS: Final = 500
_FILL_TIMEOUT: Final = 60.0

# Seconds within which an instance writes again, once the pipe is read or the disk has room.
_RECOVERY_TIME: Final = 2.0
_POLL_INTERVAL: Final = 0.02

_REPORT: Final = b"log lines dropped"


async def leave_pipe_unread(context: FaultContext) -> None:
    """The log goes into a pipe that is not read; more is logged than fits into the queue."""
    pipe = context.target.sidegate.server.directory / "log.pipe"
    os.mkfifo(pipe)
    # Without waiting for a writer, and for what was not written yet.
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with _write_log_to(context, pipe):
            await _fill_queue(context)
            context.mark_started()
            async with context.expect_change("no log line was dropped", dropped_lines("full")):
                await context.wait(_HOLD_TIME)
            log = await _read_until_report(context, reader)
        _append_to_log(context.target, log + await _read_rest(reader))
    finally:
        os.close(reader)
        pipe.unlink()


async def fill_log_disk(context: FaultContext) -> None:
    """The disk of the log is full: every write to it fails."""
    size = _log_file(context.target).stat().st_size
    async with (
        context.expect_change("no log line was dropped", dropped_lines("failed")),
        _write_log_to(context, _FULL_DISK),
    ):
        context.mark_started()
        await context.wait(_HOLD_TIME)
    await _expect_report(context, since=size)


@asynccontextmanager
async def _write_log_to(context: FaultContext, path: Path) -> AsyncIterator[None]:
    """Let the target log every check, and write its log to `path` during the block."""
    instance = context.target.sidegate
    await send_commands(instance, log_to=str(path), log_level="DEBUG")
    try:
        yield
    finally:
        await send_commands(instance, log_to=str(_log_file(context.target)), log_level="INFO")


async def _fill_queue(context: FaultContext) -> None:
    """Let the instance log until it drops lines."""
    tokens = context.load.population.never_valid[TokenCategory.FORGED]
    many = (tokens * _CHECKS)[:_CHECKS]
    before, deadline = await context.fetch_counters(), now() + _FILL_TIMEOUT
    while not dropped_lines("full")(before, await context.fetch_counters()) and now() < deadline:
        await context.load.check_all(many, TokenCategory.FORGED)


async def _read_until_report(context: FaultContext, reader: int) -> bytes:
    """Read the pipe until the instance reports the lines that it has dropped."""
    log, deadline = b"", now() + _RECOVERY_TIME
    while _REPORT not in log and now() < deadline:
        await asyncio.sleep(_POLL_INTERVAL)
        log += await _read_rest(reader)
    _expect_recovery(context, is_reported=_REPORT in log)
    return log


async def _read_rest(reader: int) -> bytes:
    """Read what is in the pipe, and what is written into it meanwhile."""
    log = b""
    while True:
        try:
            chunk = os.read(reader, 1 << 20)
        except BlockingIOError:
            return log
        if not chunk:  # the instance writes to another file
            return log
        log += chunk
        await asyncio.sleep(0)


async def _expect_report(context: FaultContext, *, since: int) -> None:
    """Expect the report in the log file after its first `since` bytes."""
    is_reported, deadline = False, now() + _RECOVERY_TIME
    while not is_reported and now() < deadline:
        await asyncio.sleep(_POLL_INTERVAL)
        is_reported = _REPORT in _log_file(context.target).read_bytes()[since:]
    _expect_recovery(context, is_reported=is_reported)


def _expect_recovery(context: FaultContext, *, is_reported: bool) -> None:
    if not is_reported:
        message = f"the log of {context.target.name} does not tell of the dropped lines"
        context.violations.append(Violation("I12", message, now()))


def _append_to_log(upstream: Upstream, log: bytes) -> None:
    """Add to the log file what went into the pipe: it is searched for tokens at the end."""
    with _log_file(upstream).open("ab") as file:
        file.write(log)


def _log_file(upstream: Upstream) -> Path:
    server = upstream.sidegate.server
    return server.directory / f"{server.name}.log"


def dropped_lines(cause: str) -> CounterChange:
    """Count the log lines that were dropped because the queue was `full`, or writing `failed`."""
    return lambda before, after: after.increase(
        before, "sidegate_log_lines_dropped_total", cause=cause
    )


EPISODES: Final = (("not read", leave_pipe_unread), ("disk full", fill_log_disk))
