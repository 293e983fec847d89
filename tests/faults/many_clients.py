"""Many clients of an ops and an admin listener, in a process of their own: the load has another.

    python -m tests.faults.many_clients OPS_PORT ADMIN_PORT

Some send one request after the other to the ops listener, and many more only stay connected to both
listeners. On SIGTERM the process prints how many requests were answered, and how many connections
were opened, and ends.
"""

import asyncio
import json
import random
import resource
import signal
import sys
from contextlib import suppress
from typing import Final

ASKING: Final = 60
"""Connections with one request after the other."""

IDLE: Final = 1500
"""Connections to each listener that stay idle."""

_ADDRESS: Final = "127.0.0.2"  # probes and callers of the admin API have another
_PATHS: Final = ("/readyz", "/metrics")

# Seconds until a connection that was closed is opened again.
_REOPEN_AFTER: Final = 1.0

SPREAD: Final = 4.0
"""Seconds over which idle connections are opened, and again when they are closed.

All at once would overflow the kernel's backlog of the listener, which is another fault.
"""


class ManyClients:
    """The connections, and what they have had so far."""

    def __init__(self) -> None:
        self.answered = 0
        self.opened = 0

    async def ask(self, port: int, path: str) -> None:
        """Send a request as soon as the last one was answered; reconnect when it is closed."""
        request = f"GET {path} HTTP/1.1\r\nHost: ops\r\n\r\n".encode("ascii")
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, ValueError):
                await self._ask_on_one_connection(port, request)
            await asyncio.sleep(_REOPEN_AFTER)

    async def stay_connected(self, port: int, *, spread: float = SPREAD) -> None:
        """Keep a connection open without a request; reconnect when it is closed."""
        while True:
            await asyncio.sleep(spread * random.random())
            with suppress(OSError):
                reader, writer = await _connect(port)
                self.opened += 1
                try:
                    await reader.read(1)
                finally:
                    writer.close()

    async def _ask_on_one_connection(self, port: int, request: bytes) -> None:
        reader, writer = await _connect(port)
        try:
            while True:
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                _, found, rest = head.partition(b"\r\ncontent-length:")
                await reader.readexactly(int(rest.split(b"\r\n")[0]) if found else 0)
                self.answered += 1
                if b"\r\nconnection: close" in head:
                    return
        finally:
            writer.close()


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(_ADDRESS, 0))


async def run(ops_port: int, admin_port: int) -> ManyClients:
    """Run the clients until SIGTERM."""
    clients, end = ManyClients(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    async with asyncio.TaskGroup() as group:
        work = [clients.ask(ops_port, _PATHS[number % len(_PATHS)]) for number in range(ASKING)]
        work += [
            clients.stay_connected(port) for port in (ops_port, admin_port) for _ in range(IDLE)
        ]
        tasks = [group.create_task(each) for each in work]
        await end.wait()
        for task in tasks:
            task.cancel()
    return clients


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = asyncio.run(run(*map(int, sys.argv[1:3])))
    json.dump({"answered": clients.answered, "opened": clients.opened}, sys.stdout)


if __name__ == "__main__":
    main()
