"""What passes a wire in mischief's hands."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.faults.mischief import CutsAfterCommit, Strays, reset_each
from tests.stores.sql.wire import Wire
from tests.stores.waiting import nothing_is_left

# Two records of two sessions, as Redis replies them.
ONE, OTHER = b"$120\r\n" + b"1" * 120 + b"\r\n", b"$120\r\n" + b"2" * 120 + b"\r\n"
READY = b"Z\0\0\0\5I"


def message(kind: bytes, *words: bytes) -> bytes:
    """Spell a message of Postgres' protocol."""
    body = b"".join(word + b"\0" for word in words)
    return kind + (len(body) + 4).to_bytes(4) + body


PARSE_CHANGE = message(
    b"P", b"stmt_1", b"WITH room AS (SELECT 1) INSERT INTO sessions (id) VALUES ($1)"
)
PARSE_LOOK_UP = message(b"P", b"stmt_2", b"SELECT id FROM sessions")
BIND_CHANGE = message(b"B", b"", b"stmt_1", b"values")
BIND_LOOK_UP = message(b"B", b"", b"stmt_2", b"values")


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A wire to a server that says again what is said."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(10_000):
                writer.write(chunk)
        except ConnectionResetError:
            pass
        writer.close()

    async with nothing_is_left():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with Wire(server.sockets[0].getsockname()[1]) as wire:
            yield wire
        server.close()


class Client:
    """Says something, and hears what comes back."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def hear(self, words: bytes, length: int) -> bytes:
        """Return so many bytes of what comes back, or b"" if the connection is reset."""
        if self._ends is None:
            self._ends = await asyncio.open_connection("127.0.0.1", self._wire.port)
        reader, writer = self._ends
        writer.write(words)
        try:
            return await asyncio.wait_for(reader.readexactly(length), 5)
        except (ConnectionResetError, asyncio.IncompleteReadError):
            writer.close()
            self._ends = None
            return b""

    def leave(self) -> None:
        if self._ends is not None:
            self._ends[1].close()


async def test_a_link_is_reset_at_each_so_manieth_reply(wire: Wire) -> None:
    wire.answers = reset_each(3)
    client = Client(wire)
    heard = [await client.hear(b"x", 1) for _ in range(6)]
    assert heard == [b"x", b"x", b"", b"x", b"x", b""]
    assert wire.torn == 2


async def test_a_stray_is_another_sessions_record_or_the_same_one_twice(wire: Wire) -> None:
    strays = Strays(Random(1), share=1.0)
    wire.answers = strays.answers
    client = Client(wire)
    await client.hear(ONE, len(ONE))
    heard = {await client.hear(OTHER, 2 * len(OTHER)) for _ in range(20)}
    assert ONE + OTHER in heard
    assert OTHER + OTHER in heard
    assert strays.put == 20
    client.leave()


async def test_what_is_no_single_record_is_left_alone(wire: Wire) -> None:
    strays = Strays(Random(1), share=1.0)
    wire.answers = strays.answers
    client = Client(wire)
    for words in (ONE, b"+PONG\r\n", b"$-1\r\n", ONE + OTHER, ONE[:-1]):
        assert await client.hear(words, len(words)) == words
    assert strays.put == 0
    client.leave()


async def test_a_change_is_cut_off_when_it_is_committed(wire: Wire) -> None:
    cuts = CutsAfterCommit(Random(1), share=1.0)
    wire.questions, wire.answers = cuts.questions, cuts.answers
    client = Client(wire)
    assert await client.hear(PARSE_CHANGE, len(PARSE_CHANGE))
    assert not await client.hear(BIND_CHANGE + READY, 1)
    assert (cuts.cut, wire.torn) == (1, 1)


async def test_until_it_is_committed_a_change_is_not_cut_off(wire: Wire) -> None:
    cuts = CutsAfterCommit(Random(1), share=1.0)
    wire.questions, wire.answers = cuts.questions, cuts.answers
    client = Client(wire)
    words = PARSE_CHANGE + BIND_CHANGE
    assert await client.hear(words, len(words)) == words
    assert not await client.hear(READY, 1)
    assert cuts.cut == 1


async def test_a_look_up_is_not_cut_off(wire: Wire) -> None:
    cuts = CutsAfterCommit(Random(1), share=1.0)
    wire.questions, wire.answers = cuts.questions, cuts.answers
    client = Client(wire)
    words = PARSE_LOOK_UP + BIND_LOOK_UP + READY
    assert await client.hear(words, len(words)) == words
    assert cuts.cut == 0
    client.leave()
