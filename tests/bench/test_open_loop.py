"""The load generator, with servers that answer as they are told."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from math import inf
from pathlib import Path

import pytest

from tests.bench.compilers import build_go
from tests.bench.errors import NotMeasurable, UnexpectedResponses
from tests.bench.http_requests import write_requests
from tests.bench.open_loop import CLOSED_LOOP_CONNECTIONS, Generator, parse_output
from tests.support.processes import find_free_port, skip_or_fail

REQUESTS = [f"GET /{number} HTTP/1.1\r\nHost: here\r\n\r\n" for number in range(20)]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
NO = b"HTTP/1.1 401 Unauthorized\r\n\r\n"
Write = Callable[[bytes], None]
Answer = Callable[[bytes, Write], Awaitable[None]]
"""Receives a request, and how to write to its connection."""

FOUND = {
    "seconds": 2,
    "answers": 12,
    "sent": 11,
    "good": 4,
    "unavailable": 3,
    "other": 2,
    "broken": 1,
    "unsent": 1,
    "missed": 5,
    "p50": 1000,
    "p99": 2000,
    "p999": 3000,
    "max": 4000,
    "late": 100,
}


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return build_go("open-loop")
    except NotMeasurable as why:
        skip_or_fail(str(why))


@asynccontextmanager
async def generator(program: Path, directory: Path, answer: Answer) -> AsyncIterator[Generator]:
    """Yield a generator whose requests a server answers."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await answer(await reader.readuntil(b"\r\n\r\n"), writer.write)
        writer.close()

    requests = write_requests(REQUESTS, directory / "requests")
    async with await asyncio.start_server(talk, "127.0.0.1", 0, backlog=1000) as server:
        yield Generator(program, server.sockets[0].getsockname()[1], requests)


def answering(response: bytes) -> Answer:
    async def answer(_: bytes, write: Write) -> None:
        write(response)

    return answer


async def test_requests_are_sent_at_the_given_rate(program: Path, tmp_path: Path) -> None:
    async with generator(program, tmp_path, answering(OK)) as load:
        sample = await asyncio.to_thread(load.open_loop, 200, seconds=0.5, warm_up=0)

    assert (sample.good, sample.unavailable, sample.failed, sample.missed) == (100, 0, 0, 0)
    assert (sample.offered, sample.goodput) == (200, 200)
    assert 0 < sample.p50 <= sample.p99 <= sample.p999 <= sample.max


async def test_requests_of_the_warm_up_are_not_counted(program: Path, tmp_path: Path) -> None:
    async with generator(program, tmp_path, answering(OK)) as load:
        sample = await asyncio.to_thread(load.open_loop, 100, seconds=0.3, warm_up=0.2)

    assert (sample.good, sample.answers) == (30, 50)


async def test_requests_are_those_of_the_file(program: Path, tmp_path: Path) -> None:
    received: list[str] = []

    async def answer(request: bytes, write: Write) -> None:
        received.append(request.decode())
        write(OK)

    async with generator(program, tmp_path, answer) as load:
        await asyncio.to_thread(load.open_loop, 500, seconds=0.4, warm_up=0)

    assert set(received) <= set(REQUESTS)
    assert received[:20] != REQUESTS  # in random order
    assert len(set(received)) > 1


@pytest.mark.parametrize(
    ("response", "unavailable", "failed"), [(BUSY, 20, 0), (NO, 0, 20)], ids=["503", "401"]
)
async def test_other_statuses_are_not_good(
    program: Path, tmp_path: Path, response: bytes, unavailable: int, failed: int
) -> None:
    async with generator(program, tmp_path, answering(response)) as load:
        sample = await asyncio.to_thread(load.open_loop, 100, seconds=0.2, warm_up=0)

    assert (sample.good, sample.unavailable, sample.failed) == (0, unavailable, failed)
    assert (sample.answers, sample.p999) == (20, inf)


async def test_latency_counts_from_the_moment_a_request_was_due(
    program: Path, tmp_path: Path
) -> None:
    """A server that stops for the time of twenty requests delays all of them."""
    all_received = asyncio.Event()
    received: list[bytes] = []

    async def answer(request: bytes, write: Write) -> None:
        received.append(request)
        if len(received) == 20:
            all_received.set()
        await all_received.wait()
        write(OK)

    async with generator(program, tmp_path, answer) as load:
        sample = await asyncio.to_thread(load.open_loop, 200, seconds=0.1, warm_up=0)

    assert sample.good == 20
    assert sample.max >= 19 / 200
    assert sample.p50 >= 9 / 200


async def test_request_without_a_response_fails_after_the_timeout(
    program: Path, tmp_path: Path
) -> None:
    async def answer(_: bytes, __: Write) -> None:
        pass

    async with generator(program, tmp_path, answer) as load:
        sample = await asyncio.to_thread(load.open_loop, 100, seconds=0.1, warm_up=0)

    assert (sample.good, sample.failed, sample.answers) == (0, 10, 0)


async def test_response_in_several_parts_is_read_as_one(program: Path, tmp_path: Path) -> None:
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody"

    async def answer(_: bytes, write: Write) -> None:
        for place in range(len(whole)):
            write(whole[place : place + 1])
            await asyncio.sleep(0)

    async with generator(program, tmp_path, answer) as load:
        sample = await asyncio.to_thread(load.open_loop, 50, seconds=0.2, warm_up=0)

    assert (sample.good, sample.failed) == (10, 0)


async def test_closed_connection_fails_its_request_only(program: Path, tmp_path: Path) -> None:
    received: list[bytes] = []

    async def answer(request: bytes, write: Write) -> None:
        received.append(request)
        if len(received) == 5:
            raise ConnectionError  # which closes the connection
        write(OK)

    async with generator(program, tmp_path, answer) as load:
        sample = await asyncio.to_thread(load.open_loop, 100, seconds=0.2, warm_up=0)

    assert (sample.good, sample.failed) == (19, 1)


async def test_closed_loop_has_one_request_on_each_connection(
    program: Path, tmp_path: Path
) -> None:
    outstanding, highest = 0, 0

    async def answer(_: bytes, write: Write) -> None:
        nonlocal outstanding, highest
        outstanding += 1
        highest = max(highest, outstanding)
        await asyncio.sleep(0)
        outstanding -= 1
        write(OK)

    async with generator(program, tmp_path, answer) as load:
        sample = await asyncio.to_thread(load.closed_loop, seconds=0.2, warm_up=0)

    assert sample.good > CLOSED_LOOP_CONNECTIONS
    assert (sample.unavailable, sample.failed) == (0, 0)
    assert 0 < highest <= CLOSED_LOOP_CONNECTIONS


def test_closed_port_raises(program: Path, tmp_path: Path) -> None:
    requests = write_requests(REQUESTS, tmp_path / "requests")

    with pytest.raises(UnexpectedResponses, match="connection refused"):
        Generator(program, find_free_port(), requests).open_loop(10, seconds=0.1, warm_up=0)


def test_output_is_parsed() -> None:
    sample = parse_output(json.dumps(FOUND))

    assert (sample.good, sample.unavailable, sample.failed, sample.missed) == (4, 3, 4, 5)
    assert (sample.p50, sample.p99, sample.p999, sample.max) == (0.001, 0.002, 0.003, 0.004)
    assert (sample.goodput, sample.offered, sample.late) == (2.0, 5.5, 0.0001)


def test_latency_without_good_responses_is_infinite() -> None:
    sample = parse_output(json.dumps(FOUND | {"good": 0, "p999": 0}))

    assert sample.p999 == inf
