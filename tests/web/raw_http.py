"""Speak HTTP in raw bytes: what is sent goes out as it is, what comes back is read strictly."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from sidegate.core.address import Address

# A hang is a failure and not a slow test; what is healthy answers within milliseconds.
_PATIENCE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, as it came."""

    version: str
    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    raw: bytes

    def every(self, name: str) -> list[str]:
        """Return the values of each line of that name, in whatever case."""
        return [value for each, value in self.fields if each.lower() == name.lower()]

    def only(self, name: str) -> str:
        """Return the value of a header that must be there exactly once."""
        (value,) = self.every(name)
        return value

    @property
    def closes(self) -> bool:
        """Whether the server says that this connection ends here."""
        wish = [each.lower() for each in self.every("Connection")]
        return "close" in wish or (self.version != "HTTP/1.1" and "keep-alive" not in wish)


class Wire:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def own_host(self) -> str:
        return str(self._writer.get_extra_info("sockname")[0])

    async def send(self, raw: bytes) -> None:
        """Send, unless the other end has gone already: what it said can still be read."""
        self._writer.write(raw)
        with suppress(ConnectionError):
            await asyncio.wait_for(self._writer.drain(), _PATIENCE)

    async def reply(self, *, to_head: bool = False) -> Reply:
        """Read one whole reply. EOFError: the connection ended instead."""
        async with asyncio.timeout(_PATIENCE):
            return await self._reply(to_head)

    async def replies(self, count: int) -> list[Reply]:
        return [await self.reply() for _ in range(count)]

    async def until_closed(self) -> bytes:
        """Return what is still said until the other end closes."""
        async with asyncio.timeout(_PATIENCE):
            with suppress(ConnectionError):
                return await self._reader.read()
        return b""

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _reply(self, to_head: bool) -> Reply:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (ConnectionError, asyncio.IncompleteReadError):
            raise EOFError from None
        first, *lines = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
        version, status, _ = first.split(" ", 2)
        fields = tuple(_field(line) for line in lines)
        length = next((int(v) for n, v in fields if n.lower() == "content-length"), 0)
        body = b"" if to_head else await self._reader.readexactly(length)
        return Reply(version, int(status), fields, body, head + body)


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    assert colon
    assert name == name.strip()
    return name, value.strip(" ")


@asynccontextmanager
async def wire(address: Address, *, source: str | None = None) -> AsyncIterator[Wire]:
    """Connect, from the local address `source` if one is given, and hang up in the end."""
    if address.path is not None:
        opened = await asyncio.open_unix_connection(address.path)
    else:
        origin = None if source is None else (source, 0)
        opened = await asyncio.open_connection(address.host, address.port, local_addr=origin)
        # Two writes are two segments: nothing waits for company.
        opened[1].get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line = Wire(*opened)
    try:
        yield line
    finally:
        await line.close()


async def ask(
    address: Address, raw: bytes, *, source: str | None = None, to_head: bool = False
) -> Reply:
    """Send on a connection of its own and return the first reply."""
    async with wire(address, source=source) as line:
        await line.send(raw)
        return await line.reply(to_head=to_head)
