"""Requests that start one by one."""

import asyncio

import pytest

from sidegate.web.server.pacing import InputPacer, RequestPacer
from tests.stores.waiting import no_leaks


async def test_one_request_starts_in_each_iteration_of_the_loop() -> None:
    pacer, iteration, started = RequestPacer(), 0, list[int]()

    async def request() -> None:
        await pacer.wait_for_turn()
        started.append(iteration)

    requests = [asyncio.create_task(request()) for _ in range(20)]
    while not all(each.done() for each in requests):
        iteration += 1
        await asyncio.sleep(0)

    assert len(set(started)) == len(started) == 20


async def test_requests_start_in_order() -> None:
    pacer, started = RequestPacer(), list[int]()

    async def request(number: int) -> None:
        await pacer.wait_for_turn()
        started.append(number)

    await asyncio.gather(*(request(number) for number in range(50)))

    assert started == list(range(50))


async def test_request_alone_does_not_wait() -> None:
    pacer = RequestPacer(interval=3600)

    async with asyncio.timeout(5):
        await pacer.wait_for_turn()


async def test_interval_is_the_time_between_two_requests() -> None:
    loop, pacer = asyncio.get_running_loop(), RequestPacer(interval=0.02)
    began = loop.time()

    for _ in range(4):
        await pacer.wait_for_turn()

    assert loop.time() - began >= 0.06 - 0.01


@pytest.mark.parametrize("interval", [0.0, 0.001])
async def test_cancelled_request_does_not_hold_up_the_others(interval: float) -> None:
    pacer = RequestPacer(interval)
    async with no_leaks(), asyncio.timeout(5):
        first, *rest = [asyncio.create_task(pacer.wait_for_turn()) for _ in range(5)]
        await first
        for each in rest[:3]:
            each.cancel()
        await rest[3]
        await asyncio.wait(rest)


class Unparsed:
    """A connection with some pieces of input, which notes when each was parsed."""

    def __init__(self, pacer: InputPacer, *, pieces: int, parsed: list["Unparsed"]) -> None:
        self._pacer = pacer
        self._pieces = pieces
        self._parsed = parsed

    def parse_piece(self) -> None:
        self._parsed.append(self)
        self._pieces -= 1
        if self._pieces:
            self._pacer.add(self)


async def test_one_piece_of_all_connections_is_parsed_in_each_iteration() -> None:
    pacer, parsed = InputPacer(), list[Unparsed]()
    large, small = (Unparsed(pacer, pieces=number, parsed=parsed) for number in (4, 2))
    pacer.add(large)
    pacer.add(small)

    for iteration in range(8):
        assert len(parsed) == min(iteration, 6)
        await asyncio.sleep(0)

    assert parsed == [large, small, large, small, large, large]


async def test_closed_connection_takes_no_turn() -> None:
    pacer, parsed = InputPacer(), list[Unparsed]()
    closed, other = (Unparsed(pacer, pieces=1, parsed=parsed) for _ in range(2))
    pacer.add(closed)
    pacer.add(other)
    pacer.discard(closed)

    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert parsed == [other]
