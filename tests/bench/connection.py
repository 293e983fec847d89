"""A single HTTP connection for requests that are not load."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from tests.bench.errors import UnexpectedResponses

_ATTEMPTS: Final = 20
_RETRY_DELAY: Final = 0.1
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Connection:
    """Sends requests one at a time. Responses must have a Content-Length or no body."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self, request: str) -> tuple[int, str]:
        """Return status and head of the response."""
        status, head, _ = await self._exchange(request)
        return status, head.decode("latin-1")

    async def fetch(self, request: str) -> tuple[int, bytes]:
        """Return status and body of the response."""
        status, _, body = await self._exchange(request)
        return status, body

    async def _exchange(self, request: str) -> tuple[int, bytes, bytes]:
        self._writer.write(request.encode("ascii"))
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = b"" if length is None else await self._reader.readexactly(int(length[1]))
        return int(head.split(b" ", 2)[1]), head, body


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Connection]:
    """Yield a connection to a local port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@dataclass(slots=True)
class RequestStats:
    """The slowest response in seconds, and the number of 503 responses."""

    slowest: float = 0.0
    unavailable: int = 0


async def request_each_once(
    port: int, requests: Iterable[str], *, connections: int = 16
) -> RequestStats:
    """Send each request until its response is 200. After a 503 it is sent again.

    Raise UnexpectedResponses for any other response, or too many 503.
    """
    waiting, stats = iter(requests), RequestStats()

    async def send_remaining() -> None:
        async with connect(port) as connection:
            for request in waiting:  # shared by the connections
                await _request_until_allowed(connection, request, stats)

    await asyncio.gather(*(send_remaining() for _ in range(connections)))
    return stats


async def _request_until_allowed(connection: Connection, request: str, stats: RequestStats) -> None:
    now = asyncio.get_running_loop().time
    for _ in range(_ATTEMPTS):
        start = now()
        status, head = await connection.request(request)
        stats.slowest = max(stats.slowest, now() - start)
        if status == 200:
            return
        if status != 503:
            raise UnexpectedResponses(f"neither 200 nor 503: {head}")
        stats.unavailable += 1
        await asyncio.sleep(_RETRY_DELAY)
    raise UnexpectedResponses(f"503, {_ATTEMPTS} times in a row")
