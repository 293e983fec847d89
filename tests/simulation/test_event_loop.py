"""The deterministic event loop: virtual time, processes, crashes, and one order for each seed."""

import asyncio
import itertools
from collections.abc import Callable
from random import Random

import pytest

from tests.simulation.event_loop import Deadlock, EndlessLoop, Process, SimulatedLoop, run

HOUR = 3600.0


@pytest.fixture
def loop() -> SimulatedLoop:
    return SimulatedLoop(Random(1))


def test_time_passes_only_in_pauses(loop: SimulatedLoop) -> None:
    async def work() -> float:
        await asyncio.sleep(HOUR)
        for _ in range(100):
            await asyncio.sleep(0)
        return loop.time()

    assert run(loop, work()) == HOUR


def test_timeout_expires_in_virtual_time(loop: SimulatedLoop) -> None:
    async def work() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(HOUR):
                await loop.create_future()
        return loop.time()

    assert run(loop, work()) == HOUR


def interleave(seed: int) -> list[str]:
    """Return the order in which three processes take their steps."""
    loop = SimulatedLoop(Random(seed))
    order: list[str] = []

    async def step(name: str) -> None:
        for number in range(5):
            order.append(f"{name}{number}")
            await asyncio.sleep(0)

    async def work() -> None:
        await asyncio.gather(*(Process(loop, name).spawn(step(name)) for name in "abc"))

    run(loop, work())
    return order


def test_equal_seeds_give_equal_orders() -> None:
    assert interleave(1) == interleave(1)
    assert len({tuple(interleave(seed)) for seed in range(10)}) == 10


def test_each_process_keeps_its_own_order() -> None:
    for name in "abc":
        own = [step for step in interleave(3) if step.startswith(name)]
        assert own == [f"{name}{number}" for number in range(5)]


def count_steps(loop: SimulatedLoop, stop: Callable[[Process], None]) -> tuple[int, list[str]]:
    """Return the steps of a process that is stopped after 2.5 s, and how it has ended."""
    steps, ends = 0, list[str]()

    async def tick() -> None:
        nonlocal steps
        try:
            while True:
                await asyncio.sleep(1.0)
                steps += 1
        finally:
            ends.append("finally")

    async def work() -> tuple[int, list[str]]:
        process = Process(loop, "ticking")
        process.spawn(tick())
        await asyncio.sleep(2.5)
        stop(process)
        await asyncio.sleep(10.0)
        return steps, ends[:]

    return run(loop, work())


def test_killed_process_takes_no_step_and_runs_no_handler(loop: SimulatedLoop) -> None:
    assert count_steps(loop, Process.kill) == (2, [])


def test_frozen_process_goes_on_when_it_is_thawed(loop: SimulatedLoop) -> None:
    def freeze_for_two_seconds(process: Process) -> None:
        process.freeze()
        loop.call_later(2.0, process.thaw)

    # The step due at 3.0 is taken at 4.5, and the next ones one second after each other.
    assert count_steps(loop, freeze_for_two_seconds) == (2 + 8, [])


def test_work_without_end_is_noticed(loop: SimulatedLoop) -> None:
    async def work() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    with pytest.raises(EndlessLoop):
        run(loop, work())


def test_wait_for_nothing_is_noticed(loop: SimulatedLoop) -> None:
    async def work() -> None:
        await loop.create_future()

    with pytest.raises(Deadlock):
        run(loop, work())
