"""Run the background tasks of a process. One that meets an unexpected error is started again.

The pause before that doubles with each failure, so that a task which always fails takes no time
from the others. An outage of a task ends when it has run for `STABLE_AFTER` seconds.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

from sidegate.core.errors import unwrap_group

FIRST_PAUSE: Final = 0.1
MAX_PAUSE: Final = 30.0
STABLE_AFTER: Final = 30.0
"""Seconds without an error after which a task counts as recovered."""

_log: Final = logging.getLogger("sidegate.tasks")


@dataclass(frozen=True, slots=True)
class BackgroundTask:
    """A task that runs as long as the process. `run` is called again after each failure.

    `on_failed` is called at each failure.
    """

    name: str
    run: Callable[[], Coroutine[Any, Any, NoReturn]]
    on_failed: Callable[[], None] = lambda: None


class TaskStopped(Exception):
    """A background task has ended without an error and without being cancelled."""


class CountFailures(Protocol):
    """Counts failures of a task; with 0, makes them known as a series."""

    def __call__(self, task: str, failures: int = 1) -> None: ...


class BackgroundTaskRunner:
    """Keeps background tasks running."""

    def __init__(
        self,
        count: CountFailures,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._count = count
        self._monotonic = monotonic
        self._sleep = sleep

    @asynccontextmanager
    async def run(self, tasks: Iterable[BackgroundTask]) -> AsyncIterator[None]:
        """Run the tasks until the block ends; then cancel them, and wait for them."""
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(self._keep_running(task), name=task.name) for task in tasks
            ]
            try:
                yield
            finally:
                for each in running:
                    each.cancel()

    async def _keep_running(self, task: BackgroundTask) -> NoReturn:
        self._count(task.name, 0)
        outage = _Outage(task.name, self._monotonic)
        while True:
            watching = asyncio.create_task(self._watch_recovery(outage), name=f"{task.name} watch")
            try:
                await _run_once(task)
            except Exception as error:  # whatever it is, the process continues
                self._count(task.name)
                outage.record_failure(error)
                task.on_failed()
                if _is_cancelled():
                    raise asyncio.CancelledError from error
            finally:
                watching.cancel()
            await self._sleep(outage.pause)

    async def _watch_recovery(self, outage: "_Outage") -> None:
        if outage.is_going_on:
            await self._sleep(STABLE_AFTER)
            outage.record_recovery()


class _Outage:
    """What has failed since a task ran well. Each kind of error is logged once."""

    def __init__(self, task: str, monotonic: Callable[[], float]) -> None:
        self._task = task
        self._monotonic = monotonic
        self._since = 0.0
        self._kinds = set[type[BaseException]]()
        self.pause = 0.0

    @property
    def is_going_on(self) -> bool:
        return bool(self._kinds)

    def record_failure(self, error: Exception) -> None:
        self.pause = min(self.pause * 2 or FIRST_PAUSE, MAX_PAUSE)
        if not self.is_going_on:
            self._since = self._monotonic()
        cause = unwrap_group(error)
        if type(cause) in self._kinds:
            return
        self._kinds.add(type(cause))
        text = f"{type(cause).__name__}: {cause}"
        _log.error(
            "background task failed", exc_info=error, extra={"task": self._task, "error": text}
        )

    def record_recovery(self) -> None:
        self._kinds.clear()
        self.pause = 0.0
        seconds = round(self._monotonic() - self._since, 1)
        _log.info(
            "background task recovered", extra={"task": self._task, "outage_seconds": seconds}
        )


async def _run_once(task: BackgroundTask) -> NoReturn:
    """Run a task until it is cancelled. Raise its error, or TaskStopped."""
    try:
        await task.run()
    except asyncio.CancelledError as cancelled:
        if _is_cancelled():
            raise
        raise TaskStopped("what it waited for was cancelled") from cancelled
    raise TaskStopped("it has returned")


def _is_cancelled() -> bool:
    """Return whether the current task was asked to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
