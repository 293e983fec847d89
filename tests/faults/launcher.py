"""Start `sidegate` so that the rig can send it commands, optionally as a broken build.

RIG_COMMANDS      a file with commands, which are run at the start and on SIGUSR1; then it is
                  removed. {"clock": 3600} sets the clock's offset in seconds, {"block": 2.0}
                  blocks the event loop for so many seconds, {"watch": 1} begins to measure for how
                  long it is blocked, and {"watch": 0} writes the longest time, in seconds, to the
                  file RIG_COMMANDS.blocked; {"log_to": PATH} writes the log to another file, and
                  {"log_level": "DEBUG"} sets its level
RIG_BROKEN_BUILD  the name of a build in broken_builds.py
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sidegate.cli import main as cli
from sidegate.core.clock import SystemClock
from sidegate.runtime import server as app
from sidegate.settings import Settings
from tests.faults.broken_builds import BUILDS
from tests.faults.event_loop import EventLoopWatch

_serve = app.serve
_clock_offset = timedelta(0)
_watch: EventLoopWatch | None = None


def main() -> None:
    """Apply the patches and the first commands, then run the command line."""
    name = os.environ.get("RIG_BROKEN_BUILD")
    if name:
        BUILDS[name].inject()
    setattr(SystemClock, "now", _now)  # noqa: B010  # mypy rejects the assignment
    if _command_file().exists():
        _run_commands()
    setattr(app, "serve", _serve_with_commands)  # noqa: B010  # other arguments are passed on
    cli.main()


async def _serve_with_commands(settings: Settings, **options: Any) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _run_commands)
    await _serve(settings, **options)


def _now(_: SystemClock) -> datetime:
    return datetime.now(UTC) + _clock_offset


def _command_file() -> Path:
    return Path(os.environ["RIG_COMMANDS"])


def _run_commands() -> None:
    commands = json.loads(_command_file().read_text("ascii"))
    _command_file().unlink()
    global _clock_offset  # the one clock of this process
    _clock_offset = timedelta(seconds=commands.get("clock", _clock_offset.total_seconds()))
    time.sleep(commands.get("block", 0.0))
    if "watch" in commands:
        _watch_event_loop(begin=commands["watch"])
    if "log_to" in commands:
        _write_log_to(commands["log_to"])
    if "log_level" in commands:
        logging.getLogger("sidegate").setLevel(commands["log_level"])


def _watch_event_loop(*, begin: bool) -> None:
    global _watch  # of the one event loop of this process
    watch, _watch = _watch, EventLoopWatch() if begin else None
    if watch is not None:
        watch.stop()
        result = _command_file().with_suffix(".blocked")
        result.with_suffix(".part").write_text(str(watch.longest), "ascii")
        result.with_suffix(".part").rename(result)


def _write_log_to(path: str) -> None:
    """Let stdout be another file. A write that waits for the previous one still waits for it."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, sys.stdout.fileno())
    os.close(file)


if __name__ == "__main__":
    main()
