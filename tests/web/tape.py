"""A transport without a wire: what a protocol sends is kept, what it is fed comes as one cuts it.

Nothing here takes time, so that thousands of requests can be tried on two lanes.
"""

import asyncio
import re
from collections.abc import Iterable
from typing import Any, Final

from sidegate.web.server.listener import Listener

_HEAD: Final = re.compile(rb"HTTP/\d\.\d \d{3} [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
# So many turns of the loop: an answer of either lane takes a handful.
_TURNS: Final = 100


class Tape(asyncio.Transport):
    """One connection to a door, from this machine."""

    def __init__(self, door: Listener) -> None:
        super().__init__()
        self.sent = b""
        self._closed = False
        self._paused = False
        self._waiting: list[bytes] = []
        self.protocol: Any = door.accept()
        self.protocol.connection_made(self)

    # What a protocol may ask of a transport

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
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        while self._waiting and not self._paused and not self._closed:
            self.protocol.data_received(self._waiting.pop(0))

    # What a client does with it, and sees

    @property
    def unheard(self) -> int:
        """How many bytes wait because nobody reads."""
        return sum(map(len, self._waiting))

    def feed(self, chunk: bytes) -> None:
        self._waiting.append(chunk)
        if not self._paused:
            self.resume_reading()

    async def until_it_has_ended(self) -> None:
        """Let the loop turn until the last answer is there, or there is none to be expected."""
        for _ in range(_TURNS):
            if self._closed or b"\r\nConnection: close" in self.sent:
                return
            await asyncio.sleep(0)


def comparable(sent: bytes) -> bytes:
    """Return what was sent, without dates and with the header lines in alphabetical order."""
    return _HEAD.sub(lambda head: _in_order(head[0]), sent)


def _in_order(head: bytes) -> bytes:
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    told = sorted(line for line in lines if not line.startswith(b"Date: "))
    return b"\r\n".join([first, *told, b"", b""])
