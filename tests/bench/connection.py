"""One HTTP connection of our own, for what is not load: a question at a time, sent as it stands."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from tests.bench.errors import WrongAnswers

_ATTEMPTS: Final = 20
_BREATH: Final = 0.1
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Connection:
    """Asks and reads whole answers. They have to have a Content-Length, or no body."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: str) -> tuple[int, str]:
        """Return status and head of the answer."""
        self._writer.write(request.encode("ascii"))
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is not None:
            await self._reader.readexactly(int(length[1]))
        return int(head.split(b" ", 2)[1]), head.decode("latin-1")


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """Lend a connection to this machine's `port`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@dataclass(slots=True)
class Toll:
    """What asking took: the longest wait for an answer, in seconds, and how many were 503."""

    slowest: float = 0.0
    unavailable: int = 0


async def ask_each_once(port: int, requests: Iterable[str], *, connections: int = 16) -> Toll:
    """Ask everything until it is answered with 200. A 503 is asked again.

    WrongAnswers: there was any other answer, or there were too many 503.
    """
    waiting, toll = iter(requests), Toll()

    async def ask_until_none_is_left() -> None:
        async with connected(port) as connection:
            for request in waiting:  # shared: each of them takes the next one
                await _insist(connection, request, toll)

    await asyncio.gather(*(ask_until_none_is_left() for _ in range(connections)))
    return toll


async def _insist(connection: Connection, request: str, toll: Toll) -> None:
    now = asyncio.get_running_loop().time
    for _ in range(_ATTEMPTS):
        start = now()
        status, head = await connection.ask(request)
        toll.slowest = max(toll.slowest, now() - start)
        if status == 200:
            return
        if status != 503:
            raise WrongAnswers(f"neither yes nor 503: {head}")
        toll.unavailable += 1
        await asyncio.sleep(_BREATH)
    raise WrongAnswers(f"503, {_ATTEMPTS} times in a row")
