"""Background tasks: restarted after an unexpected error, counted, logged once, and cancelled."""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn
from urllib.request import urlopen

import pytest

from sidegate.runtime.background_tasks import (
    MAX_PAUSE,
    STABLE_AFTER,
    BackgroundTask,
    BackgroundTaskRunner,
)
from sidegate.runtime.container import build_services
from sidegate.runtime.server import build_background_tasks
from sidegate.settings import Settings
from tests.stores.waiting import wait_until
from tests.support.processes import START_TIMEOUT
from tests.support.sidegate import Sidegate, start_sidegate


class FakeTime:
    """A clock that stands still until the test advances it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        wakeup = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, wakeup))
        await wakeup

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, and everything that happens in them."""
        end = self.now + seconds
        await settle()
        while True:
            due = [(at, wakeup) for at, wakeup in self._sleepers if at <= end]
            if not due:
                break
            at, wakeup = min(due, key=lambda each: each[0])
            self._sleepers.remove((at, wakeup))
            self.now = at
            if not wakeup.done():
                wakeup.set_result(None)
            await settle()
        self.now = end


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Job:
    """The coroutine function of a task: each run raises the next error, or goes on for ever."""

    def __init__(self, *errors: BaseException, clock: FakeTime | None = None) -> None:
        self.errors = list(errors)
        self.started_at: list[float] = []
        self._clock = clock
        self.runs = 0
        self.cancelled = 0
        self.names: set[str] = set()

    async def run(self) -> NoReturn:
        self.runs += 1
        if self._clock is not None:
            self.started_at.append(self._clock.now)
        task = asyncio.current_task()
        assert task is not None
        self.names.add(task.get_name())
        if self.errors:
            raise self.errors.pop(0)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError


class Runner:
    """A BackgroundTaskRunner with a fake clock, and what it has counted."""

    def __init__(self) -> None:
        self.time = FakeTime()
        self.failures = Counter[str]()
        self.runner = BackgroundTaskRunner(
            self.count, monotonic=self.time.monotonic, sleep=self.time.sleep
        )

    def count(self, task: str, failures: int = 1) -> None:
        self.failures[task] += failures

    def run(self, *tasks: BackgroundTask) -> Any:
        return self.runner.run(tasks)


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture(autouse=True)
def log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidegate.tasks")


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[Any]:
    return [record for record in caplog.records if record.message == name]


def errors(count: int) -> list[BaseException]:
    return [KeyError(f"number {number}") for number in range(count)]


async def test_failed_task_is_started_again_with_growing_pauses(runner: Runner) -> None:
    job = Job(*errors(12), clock=runner.time)
    async with runner.run(BackgroundTask("cleanup", job.run)):
        await runner.time.advance(1000)

    starts = [second - first for first, second in pairwise(job.started_at)]
    doubling = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, MAX_PAUSE, MAX_PAUSE, MAX_PAUSE]
    assert starts == pytest.approx(doubling)
    assert runner.failures == {"cleanup": 12}


async def test_failure_does_not_end_the_block_or_another_task(runner: Runner) -> None:
    failing, other = Job(*errors(1000)), Job()
    async with runner.run(
        BackgroundTask("failing", failing.run), BackgroundTask("other", other.run)
    ):
        await runner.time.advance(300)
        assert (other.runs, other.cancelled) == (1, 0)
        assert 10 < failing.runs < 25  # two a minute in the end


async def test_other_tasks_run_beside_one_that_fails_without_a_pause_of_its_own() -> None:
    """The real sleep: the loop is free meanwhile."""
    runner, rounds = BackgroundTaskRunner(lambda *_: None, monotonic=lambda: 0.0), 0

    async def count_rounds() -> NoReturn:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    failing = Job(*errors(10_000))
    tasks = [BackgroundTask("failing", failing.run), BackgroundTask("rounds", count_rounds)]
    async with runner.run(tasks):
        await wait_until(lambda: rounds > 1000)
    assert failing.runs < 20


async def test_outage_is_logged_once_with_its_traceback(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async with runner.run(BackgroundTask("audit", Job(*errors(5)).run)):
        await runner.time.advance(10)

    [event] = events(caplog, "background task failed")
    assert event.levelname == "ERROR"
    assert (event.task, event.error) == ("audit", "KeyError: 'number 0'")
    assert event.exc_info[0] is KeyError
    assert event.exc_info[2] is not None


async def test_error_of_another_kind_is_logged_as_well(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(KeyError("a"), OSError("b"), KeyError("c"), OSError("d"))
    async with runner.run(BackgroundTask("audit", job.run)):
        await runner.time.advance(10)

    logged = [event.error for event in events(caplog, "background task failed")]
    assert logged == ["KeyError: 'a'", "OSError: b"]


async def test_only_error_of_a_group_is_named(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", [ValueError("reason")])])
    async with runner.run(BackgroundTask("pubsub", Job(nested).run)):
        await runner.time.advance(1)

    [event] = events(caplog, "background task failed")
    assert event.error == "ValueError: reason"


async def test_task_that_runs_long_enough_has_recovered(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(*errors(2))
    async with runner.run(BackgroundTask("analytics", job.run)):
        await runner.time.advance(0.3 + STABLE_AFTER - 0.01)
        assert events(caplog, "background task recovered") == []
        await runner.time.advance(0.02)

    [event] = events(caplog, "background task recovered")
    assert (event.levelname, event.task) == ("INFO", "analytics")
    assert event.outage_seconds == pytest.approx(0.3 + STABLE_AFTER, abs=0.1)


async def test_failure_after_a_recovery_is_a_new_outage(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    again = asyncio.Event()
    runs = 0

    async def run() -> NoReturn:
        nonlocal runs
        runs += 1
        if runs == 2:
            await again.wait()
        if runs <= 3:
            raise KeyError(runs)
        await asyncio.Event().wait()
        raise AssertionError

    async with runner.run(BackgroundTask("analytics", run)):
        await runner.time.advance(0.1 + STABLE_AFTER)
        again.set()
        await runner.time.advance(0.1)
        assert runs == 3  # the first pause again, not the second

    assert len(events(caplog, "background task failed")) == 2


async def test_task_without_a_failure_is_not_logged(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async with runner.run(BackgroundTask("analytics", Job().run)):
        await runner.time.advance(1000)

    assert caplog.records == []
    assert runner.failures == {"analytics": 0}  # known as a series before it fails


@pytest.mark.parametrize("failures", [0, 1])
async def test_cancellation_ends_a_running_or_a_waiting_task(runner: Runner, failures: int) -> None:
    job = Job(*errors(failures))
    async with asyncio.timeout(10):
        async with runner.run(BackgroundTask("activity", job.run)):
            await settle()
    assert (job.runs, job.cancelled) == (1, 1 - failures)


async def test_cancelled_task_whose_cleanup_fails_is_not_started_again(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    runs = 0

    async def run() -> NoReturn:
        nonlocal runs
        runs += 1
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the last flush")

    async with asyncio.timeout(10):
        async with runner.run(BackgroundTask("activity", run)):
            await settle()

    assert runs == 1
    [event] = events(caplog, "background task failed")
    assert event.error == "OSError: the last flush"


async def cancel_what_is_awaited() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def return_at_once() -> None: ...


@pytest.mark.parametrize("end", [cancel_what_is_awaited, return_at_once])
async def test_task_that_ends_without_an_error_is_started_again(
    runner: Runner, caplog: pytest.LogCaptureFixture, end: Callable[[], Awaitable[None]]
) -> None:
    runs = 0

    async def run() -> NoReturn:
        nonlocal runs
        runs += 1
        await end()
        return None  # type: ignore[misc]  # the defect that is tested

    async with runner.run(BackgroundTask("reload", run)):
        await runner.time.advance(1)

    assert runs > 1
    [event] = events(caplog, "background task failed")
    assert event.error.startswith("TaskStopped: ")


async def test_failure_is_reported_to_the_task_s_owner(runner: Runner) -> None:
    status = list[bool]()
    job = Job(*errors(2))
    task = BackgroundTask("notify", job.run, on_failed=lambda: status.append(False))
    async with runner.run(task):
        await runner.time.advance(1)

    assert status == [False, False]


async def test_tasks_have_their_names(runner: Runner) -> None:
    job = Job(*errors(1))
    async with runner.run(BackgroundTask("clock_sync", job.run)):
        await runner.time.advance(1)

    assert job.names == {"clock_sync"}


async def test_error_of_the_block_ends_the_tasks(runner: Runner) -> None:
    job = Job()

    async def serve() -> NoReturn:
        async with runner.run(BackgroundTask("activity", job.run)):
            await settle()
            raise OSError("the listener cannot open")

    with pytest.raises(BaseExceptionGroup) as raised:
        await serve()

    assert raised.group_contains(OSError, match="cannot open")
    assert job.cancelled == 1


async def test_every_task_of_a_server_has_a_name_of_its_own(tmp_path: Path) -> None:
    async with build_services(Settings(data_dir=tmp_path)) as container:
        names = [task.name for task in build_background_tasks(Settings(), container)]

    assert {"activity", "analytics", "audit", "change_poller", "cleanup", "gc"} <= set(names)
    assert len(set(names)) == len(names)


def test_server_survives_a_task_that_always_fails(workdir: Path) -> None:
    sidegate = start_sidegate(workdir, module="tests.runtime.failing_tasks")
    try:
        session = sidegate.create_session()
        sidegate.revoke_session(session.session_id)
        wait_until_true(lambda: count_failures(sidegate, "analytics") >= 3)
        assert count_failures(sidegate, "activity") >= 1
        assert count_failures(sidegate, "audit") == 0
        lines = [json.loads(line) for line in sidegate.server.log.splitlines()]
    finally:
        sidegate.server.stop()

    failed = [line for line in lines if line["event"] == "background task failed"]
    assert sorted(line["task"] for line in failed) == ["activity", "analytics"]
    assert all("RuntimeError: on purpose" in line["exception"] for line in failed)
    assert sidegate.server.process.returncode == 0


def count_failures(sidegate: Sidegate, task: str) -> float:
    with urlopen(f"http://127.0.0.1:{sidegate.ops_port}/metrics", timeout=10) as page:
        text = page.read().decode()
    name = f'sidegate_background_task_failures_total{{task="{task}"}} '
    [count] = [line.removeprefix(name) for line in text.splitlines() if line.startswith(name)]
    return float(count)


def wait_until_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.05)
