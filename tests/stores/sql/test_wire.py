"""The wire itself: what the tests that lead through it take for granted."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.stores.sql.wire import Link, Wire
from tests.stores.waiting import nothing_is_left, until

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say again what is said, until the client has said everything or is gone."""
    try:
        while chunk := await reader.read(1000):
            writer.write(chunk)
    except ConnectionResetError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with nothing_is_left():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with Wire(server.sockets[0].getsockname()[1]) as wire:
            yield wire
        server.close()


async def connected(wire: Wire) -> Ends:
    return await asyncio.open_connection("127.0.0.1", wire.port)


async def said_back(ends: Ends, words: bytes) -> bytes:
    reader, writer = ends
    writer.write(words)
    return await asyncio.wait_for(reader.readexactly(len(words)), 5)


async def test_left_alone_it_carries_everything_both_ways(wire: Wire) -> None:
    ends = await connected(wire)
    long = bytes(range(256)) * 4000
    assert await said_back(ends, long) == long
    ends[1].close()


async def test_when_one_end_closes_the_other_is_told(wire: Wire) -> None:
    reader, writer = await connected(wire)
    await said_back((reader, writer), b"last words")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await until(lambda: not wire.links)


async def test_what_is_injected_is_heard_in_its_place(wire: Wire) -> None:
    ends = await connected(wire)
    await said_back(ends, b"true")
    wire.inject(b"false")
    assert await said_back(ends, b"true ") == b"false"
    ends[1].close()


async def test_answers_can_be_changed_under_way(wire: Wire) -> None:
    wire.answers = lambda _, chunk: chunk * 2
    ends = await connected(wire)
    ends[1].write(b"ab")
    assert await asyncio.wait_for(ends[0].readexactly(4), 5) == b"abab"
    ends[1].close()


async def test_questions_can_be_changed_under_way(wire: Wire) -> None:
    wire.questions = lambda _, chunk: chunk.upper()
    ends = await connected(wire)
    assert await said_back(ends, b"ab") == b"AB"
    ends[1].close()


async def test_a_delay_holds_in_each_direction_and_limits_no_throughput(wire: Wire) -> None:
    wire.delay = 0.05
    ends = await connected(wire)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(100):
        ends[1].write(b"x")
        await asyncio.sleep(0)
    await ends[0].readexactly(100)
    assert 0.09 < loop.time() - start < 2
    ends[1].close()


async def test_it_can_be_cut_in_slices(wire: Wire) -> None:
    wire.slice, wire.rate = 1, 10_000
    reader, writer = await connected(wire)
    writer.write(b"x" * 100)
    first = await asyncio.wait_for(reader.read(1000), 5)
    assert len(first) < 20
    assert len(first + await reader.readexactly(100 - len(first))) == 100
    writer.close()


async def test_a_cut_resets_both_ends(wire: Wire) -> None:
    ends = await connected(wire)
    await said_back(ends, b"x")
    wire.cut()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(ends[0].read(), 5)
    ends[1].close()
    await until(lambda: not wire.links)


async def test_a_link_can_be_cut_in_the_middle_of_an_answer(wire: Wire) -> None:
    def cut(link: Link, chunk: bytes) -> bytes:
        link.cut()
        return chunk

    wire.answers = cut
    reader, writer = await connected(wire)
    writer.write(b"x")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()


async def test_while_it_is_held_nothing_arrives_and_nothing_is_closed(wire: Wire) -> None:
    ends = await connected(wire)
    await said_back(ends, b"before")
    wire.hold()
    another = await connected(wire)
    ends[1].write(b"after")
    another[1].write(b"new")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ends[0].read(1), 0.02)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(another[0].read(1), 0.02)
    wire.let_go()
    assert await asyncio.wait_for(ends[0].readexactly(5), 5) == b"after"
    assert await asyncio.wait_for(another[0].readexactly(3), 5) == b"new"
    ends[1].close()
    another[1].close()


async def test_it_can_refuse_new_links_and_keep_the_old_ones(wire: Wire) -> None:
    old = await connected(wire)
    await said_back(old, b"x")
    wire.refusing = True
    new = await connected(wire)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(new[0].read(), 5)
    assert await said_back(old, b"y") == b"y"
    old[1].close()
    new[1].close()


async def test_new_links_can_be_led_elsewhere(wire: Wire) -> None:
    old = await connected(wire)
    await said_back(old, b"x")

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read(1000)).upper())
        writer.close()

    elsewhere = await asyncio.start_server(shout, "127.0.0.1", 0)
    wire.lead_to(elsewhere.sockets[0].getsockname()[1])
    new = await connected(wire)
    new[1].write(b"y")
    assert await asyncio.wait_for(new[0].read(), 5) == b"Y"
    assert await said_back(old, b"z") == b"z"
    for _, writer in (old, new):
        writer.close()
    elsewhere.close()


async def test_links_that_were_cut_are_counted(wire: Wire) -> None:
    ends = [await connected(wire) for _ in range(2)]
    for each in ends:
        await said_back(each, b"x")
    ends[0][1].close()
    await until(lambda: len(wire.links) == 1)
    wire.cut()
    await until(lambda: not wire.links)
    assert wire.torn == 1
    ends[1][1].close()


async def test_a_server_that_is_not_there_refuses() -> None:
    async with Wire(1) as wire:
        reader, writer = await connected(wire)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_taken_down_it_leaves_nothing(wire: Wire) -> None:
    async with nothing_is_left():
        async with Wire(wire.port) as second:
            ends = await connected(second)
            await said_back(ends, b"x")
        ends[1].close()
