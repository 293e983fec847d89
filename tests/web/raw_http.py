"""A raw HTTP client: bytes are sent unchanged, and responses are parsed strictly."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from sidegate.core.address import Address

# Seconds until a test fails instead of hanging. Responses take milliseconds, and a large body in
# small pieces seconds on a slow machine.
_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class RawResponse:
    """One response as received."""

    version: str
    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    raw: bytes

    def get_all(self, name: str) -> list[str]:
        """Return the values of each header line with this name, in any case."""
        return [value for each, value in self.fields if each.lower() == name.lower()]

    def get_one(self, name: str) -> str:
        """Return the value of a header that must occur exactly once."""
        (value,) = self.get_all(name)
        return value

    @property
    def closes(self) -> bool:
        """Whether the response announces that the connection closes."""
        options = [each.lower() for each in self.get_all("Connection")]
        return "close" in options or (self.version != "HTTP/1.1" and "keep-alive" not in options)


class RawConnection:
    """A client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def own_host(self) -> str:
        return str(self._writer.get_extra_info("sockname")[0])

    async def send(self, raw: bytes) -> None:
        """Send, and ignore a closed connection: its response can still be read."""
        self._writer.write(raw)
        # Not `wait_for`: until Python 3.12 it loses a cancellation that meets the end of the wait.
        with suppress(ConnectionError):
            async with asyncio.timeout(_TIMEOUT):
                await self._writer.drain()

    async def read_response(self, *, to_head: bool = False) -> RawResponse:
        """Read one response. Raise EOFError if the connection was closed."""
        async with asyncio.timeout(_TIMEOUT):
            return await self._read_response(to_head)

    async def read_responses(self, count: int) -> list[RawResponse]:
        return [await self.read_response() for _ in range(count)]

    async def read_until_closed(self) -> bytes:
        """Return the bytes received until the server closes."""
        async with asyncio.timeout(_TIMEOUT):
            with suppress(ConnectionError):
                return await self._reader.read()
        return b""

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _read_response(self, to_head: bool) -> RawResponse:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (ConnectionError, asyncio.IncompleteReadError):
            raise EOFError from None
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        version, status, _ = first.split(" ", 2)
        fields = tuple(_parse_field(line) for line in lines)
        length = next((int(v) for n, v in fields if n.lower() == "content-length"), 0)
        body = b"" if to_head else await self._reader.readexactly(length)
        return RawResponse(version, int(status), fields, body, head + body)


def _parse_field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    assert colon
    assert name == name.strip()
    return name, value.strip(" ")


@asynccontextmanager
async def connect(address: Address, *, source: str | None = None) -> AsyncIterator[RawConnection]:
    """Connect, from the local address `source` if given, and close afterwards."""
    if address.path is not None:
        opened = await asyncio.open_unix_connection(address.path)
    else:
        local_address = None if source is None else (source, 0)
        opened = await asyncio.open_connection(address.host, address.port, local_addr=local_address)
        # Send each write as its own segment.
        opened[1].get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = RawConnection(*opened)
    try:
        yield connection
    finally:
        await connection.close()


async def send_request(
    address: Address, raw: bytes, *, source: str | None = None, to_head: bool = False
) -> RawResponse:
    """Send on a new connection and return the first response."""
    async with connect(address, source=source) as connection:
        await connection.send(raw)
        return await connection.read_response(to_head=to_head)
