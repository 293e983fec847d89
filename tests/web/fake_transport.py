"""A transport without a socket: it records what a protocol sends, and feeds it chunks.

It takes no real time, so that tests can send thousands of requests on both HTTP paths.
"""

import asyncio
import re
from collections.abc import Iterable
from typing import Any, Final

from sidegate.web.server.listener import Listener

_HEAD_PATTERN: Final = re.compile(rb"HTTP/\d\.\d \d{3} [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
# Iterations of the event loop; a response takes a handful.
_MAX_ITERATIONS: Final = 100


class FakeTransport(asyncio.Transport):
    """One connection to a listener, from loopback."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self.sent = b""
        self._closed = False
        self._reading_paused = False
        self._unread: list[bytes] = []
        self.protocol: Any = listener.accept()
        self.protocol.connection_made(self)

    # The transport, for the protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.sent += b"".join(list_of_data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        while self._unread and not self._reading_paused and not self._closed:
            self.protocol.data_received(self._unread.pop(0))

    # The client, for the test

    @property
    def unread_size(self) -> int:
        """The number of bytes that wait because reading is paused."""
        return sum(map(len, self._unread))

    def feed(self, chunk: bytes) -> None:
        self._unread.append(chunk)
        if not self._reading_paused:
            self.resume_reading()

    async def wait_for_end(self) -> None:
        """Run the loop until the connection closes or a response announces it."""
        for _ in range(_MAX_ITERATIONS):
            if self._closed or b"\r\nConnection: close" in self.sent:
                return
            await asyncio.sleep(0)


def normalize_responses(sent: bytes) -> bytes:
    """Return `sent` without Date lines and with sorted header lines."""
    return _HEAD_PATTERN.sub(lambda head: _sort_fields(head[0]), sent)


def _sort_fields(head: bytes) -> bytes:
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    fields = sorted(line for line in lines if not line.startswith(b"Date: "))
    return b"\r\n".join([first, *fields, b"", b""])
