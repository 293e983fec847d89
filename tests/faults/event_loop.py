"""Measure for how long an event loop is blocked, in the process of an instance."""

import asyncio
import time
from pathlib import Path
from typing import Final

# Seconds between two ticks.
_INTERVAL: Final = 0.005

# Of the main thread, which runs the event loop.
_SCHEDULING: Final = Path("/proc/self/schedstat")


class EventLoopWatch:
    """The longest time for which the loop did not run what was due, without waits for the CPU."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.ticks = 0
        self._task = asyncio.get_running_loop().create_task(self._tick())

    def stop(self) -> None:
        self._task.cancel()

    async def _tick(self) -> None:
        due, waited = time.monotonic(), _read_cpu_wait()
        while True:
            due += _INTERVAL
            await asyncio.sleep(due - time.monotonic())
            now, waited_before = time.monotonic(), waited
            waited = _read_cpu_wait()
            self.longest = max(self.longest, now - due - (waited - waited_before))
            self.ticks += 1
            due = now


def _read_cpu_wait() -> float:
    """Return for how long the thread was runnable but not scheduled, in seconds."""
    return int(_SCHEDULING.read_text("ascii").split()[1]) / 1e9
