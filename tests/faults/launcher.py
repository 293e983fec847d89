"""Start `sidegate` as the rig wants it: able to take orders, and perhaps broken on purpose.

RIG_ORDERS      a file; at the start and on SIGUSR1 its orders are obeyed, and it is removed:
                {"clock": 3600} shifts the clock by so many seconds, {"block": 2.0} keeps the
                event loop from running for so long
RIG_BROKEN      the name of a way to be broken (broken.py)
"""

import asyncio
import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sidegate.cli import main as cli
from sidegate.core.clock import SystemClock
from sidegate.runtime import server as app
from sidegate.settings import Settings
from tests.faults.broken import BUILDS

_serve = app.serve
_shift = timedelta(0)


def main() -> None:
    """Prepare, then do what the command line says."""
    broken = os.environ.get("RIG_BROKEN")
    if broken:
        BUILDS[broken].breaking()
    setattr(SystemClock, "now", _now)  # noqa: B010  # for every room at once, and past mypy
    if _orders().exists():
        _obey()
    setattr(app, "serve", _obedient)  # noqa: B010  # whatever else it takes, it is passed on
    cli.main()


async def _obedient(settings: Settings, **how: Any) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _obey)
    await _serve(settings, **how)


def _now(_: SystemClock) -> datetime:
    return datetime.now(UTC) + _shift


def _orders() -> Path:
    return Path(os.environ["RIG_ORDERS"])


def _obey() -> None:
    wanted = json.loads(_orders().read_text("ascii"))
    _orders().unlink()
    global _shift  # the one clock of this process
    _shift = timedelta(seconds=wanted.get("clock", _shift.total_seconds()))
    time.sleep(wanted.get("block", 0.0))


if __name__ == "__main__":
    main()
