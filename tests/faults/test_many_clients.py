"""Many clients count what they had, and connect again when they are disconnected."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.many_clients import ManyClients
from tests.stores.waiting import wait_until
from tests.support.local_server import LocalServer


class Listener(LocalServer):
    """Answers each request with `answer`, and closes after that many; with 0, at once."""

    def __init__(self, answer: bytes, *, requests: int) -> None:
        super().__init__()
        self._answer = answer
        self._requests = requests

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(self._requests):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self._answer)
        writer.close()


@asynccontextmanager
async def running(work: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        work.cancel()
        await asyncio.wait([work])


async def test_answers_are_counted_over_connections() -> None:
    clients, answer = ManyClients(), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with (
        Listener(answer, requests=2) as listener,
        running(asyncio.create_task(clients.ask(listener.port, "/readyz"))),
    ):
        await wait_until(lambda: clients.answered >= 4)


async def test_closed_connection_is_opened_again() -> None:
    clients = ManyClients()
    async with (
        Listener(b"", requests=0) as listener,
        running(asyncio.create_task(clients.stay_connected(listener.port, spread=0.01))),
    ):
        await wait_until(lambda: clients.opened >= 2)
