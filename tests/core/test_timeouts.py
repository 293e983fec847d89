"""Timeouts become StoreUnavailable."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from sidegate.core.errors import StoreUnavailable
from sidegate.core.timeouts import with_timeout

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def block_loop(seconds: float) -> None:
    """Keep the event loop busy, as the work of many requests does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@asynccontextmanager
async def connect() -> AsyncIterator[tuple[asyncio.StreamReader, socket.socket]]:
    """Yield the stream of a connection, and its other end."""
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=near)
    with far:
        yield reader, far
        writer.close()


async def finish() -> str:
    await asyncio.sleep(0)
    return "an answer"


async def block_forever() -> str:
    await asyncio.Event().wait()
    return "no answer"


async def raise_timeout() -> str:
    raise TimeoutError("inner timeout")


async def test_result_within_the_timeout_is_returned() -> None:
    assert await with_timeout(finish(), 5, store="store") == "an answer"


@pytest.mark.parametrize("seconds", [-1, 0, 0.001])
async def test_timeout_raises_store_unavailable_with_the_store(seconds: float) -> None:
    with pytest.raises(StoreUnavailable) as outage:
        await with_timeout(block_forever(), seconds, store="store")
    assert outage.value.store == "store"


async def test_timeout_error_of_the_awaitable_is_passed_on() -> None:
    with pytest.raises(TimeoutError, match="inner timeout"):
        await with_timeout(raise_timeout(), 5, store="store")


def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], test: Callable[[], object]) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(test())  # type: ignore[arg-type]  # a coroutine function


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_answer_that_has_arrived_before_a_late_timer_is_returned(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def answer_while_the_loop_is_busy() -> None:
        async with connect() as (reader, far):

            def work() -> None:
                far.send(b"answer")  # within the timeout, and the loop reads it after
                block_loop(0.05)

            asyncio.get_running_loop().call_soon(work)
            assert await with_timeout(reader.read(6), 0.01, store="store") == b"answer"

    run(loop_factory, answer_while_the_loop_is_busy)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_timeout_ends_on_a_loop_that_is_always_late(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def never_answer() -> None:
        loop, turns = asyncio.get_running_loop(), 0

        def work() -> None:
            nonlocal turns
            turns += 1
            block_loop(0.01)
            loop.call_soon(work)

        loop.call_soon(work)
        with pytest.raises(StoreUnavailable):
            await with_timeout(block_forever(), 0.001, store="store")
        assert turns < 100

    run(loop_factory, never_answer)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can jump, as for a process that was stopped."""

    jump = 0.0

    def time(self) -> float:
        return super().time() + self.jump


def test_timeout_ends_soon_after_a_stopped_process_goes_on() -> None:
    async def stop_for_an_hour() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        waiting = asyncio.create_task(with_timeout(block_forever(), 10, store="store"))
        await asyncio.sleep(0)
        for seconds in (3600, *[1] * 10):  # the timer is late, and so are its extensions
            loop.jump += seconds
            for _ in range(5):
                await asyncio.sleep(0)
        assert waiting.done()
        with pytest.raises(StoreUnavailable):
            await waiting

    run(JumpingLoop, stop_for_an_hour)
