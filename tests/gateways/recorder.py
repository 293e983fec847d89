"""An application that records what it receives, byte by byte: also what HTTP servers hide."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Recorded:
    """A request as received; `trailers` are the lines after a chunked body."""

    head: bytes
    trailers: bytes

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode("latin-1")


class Recorder(ThreadingTCPServer):
    """The server. `requests` are those of all connections, in the order of their ends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[Recorded] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(StreamRequestHandler):
    timeout = 30

    def handle(self) -> None:
        while head := self._read_lines():
            trailers = self._read_body(head.lower())
            assert isinstance(self.server, Recorder)
            self.server.requests.append(Recorded(head, trailers))
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def _read_lines(self) -> bytes:
        """Return lines up to an empty one, or what there is at the end of the connection."""
        lines = b""
        while (line := self.rfile.readline()).strip():
            lines += line
        return lines

    def _read_body(self, head: bytes) -> bytes:
        """Skip the body. Return the trailers behind a chunked one."""
        if b"transfer-encoding: chunked" in head:
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size + 2)
            return self._read_lines()
        length = re.search(rb"content-length: *(\d+)", head)
        self.rfile.read(0 if length is None else int(length[1]))
        return b""


@contextmanager
def run_recorder() -> Iterator[Recorder]:
    with Recorder() as recorder:
        threading.Thread(target=recorder.serve_forever, daemon=True).start()
        yield recorder
        recorder.shutdown()
