"""Write lines from a thread, so that a slow destination never blocks the caller.

Lines wait in a bounded queue. While it is full, new lines are dropped and counted, until everything
that waits has been written; then `on_recovered` reports how many were dropped, in their place.
"""

import logging
import os
import queue
import select
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

Send = Callable[[bytes], int]
"""Sends some of the bytes, and returns how many. Raises OSError or ValueError if it cannot."""

OnRecovered = Callable[[int, str], None]
"""Is called in the writing thread with the number of dropped lines and the last reason."""

# Some 4,000 log lines.
MAX_QUEUED_BYTES: Final = 2**20
# A write of at most this size is not mixed with what other processes write to the same pipe.
_MAX_WRITE: Final = select.PIPE_BUF

_NOT_READ: Final = "the log is not read, or too slowly"

_log: Final = logging.getLogger("sidegate.logs")


class LogWriter:
    """A queue of lines, and the thread that writes them."""

    def __init__(
        self,
        send: Send,
        *,
        on_recovered: OnRecovered = lambda lines, reason: None,  # noqa: ARG005
        max_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self._send = send
        self._on_recovered = on_recovered
        self._max_bytes = max_bytes
        self._dropped = {"full": 0, "failed": 0}
        self._queue = queue.SimpleQueue[bytes | Send | threading.Event]()
        self._lock = threading.Lock()  # guards what follows
        self._thread: threading.Thread | None = None
        self._queued_bytes = 0
        self._refusing = False  # the queue was full, and is not empty yet
        self._unreported = 0
        self._reason = ""
        # Of the thread only:
        self._next: bytes | Send | threading.Event | None = None
        self._rest = b""  # of a line of which a part was sent
        self._report: list[bytes] = []

    @property
    def dropped(self) -> Mapping[str, int]:
        """The number of dropped lines: `full`, the queue was; `failed`, to write them."""
        return self._dropped

    def put(self, line: bytes) -> None:
        """Queue a line to be written, or drop it. Never waits."""
        if self._is_own_thread():
            self._report.append(line)
            return
        with self._lock:
            if self._refusing or self._queued_bytes >= self._max_bytes:
                self._refusing = True
                self._count_dropped("full", 1, reason=_NOT_READ)
                return
            self._queued_bytes += len(line)
            self._put(line)

    def send_to(self, send: Send) -> None:
        """Send the lines that are put from now on with `send`."""
        with self._lock:
            self._put(send)

    def flush(self, timeout: float) -> bool:
        """Wait until everything put so far is written or dropped, at most `timeout` seconds.

        Return whether it was.
        """
        if self._thread is None or self._is_own_thread():
            return True
        done = threading.Event()
        self._queue.put(done)
        return done.wait(timeout)

    def _put(self, item: bytes | Send) -> None:
        self._queue.put(item)
        if self._thread is None:
            # A daemon: a process that ends does not wait for a write that never returns.
            thread = threading.Thread(target=self._run, name="log writer", daemon=True)
            with suppress(RuntimeError):  # the system has no thread left: tried again
                thread.start()
                self._thread = thread

    def _is_own_thread(self) -> bool:
        return self._thread is not None and self._thread.ident == threading.get_ident()

    def _count_dropped(self, kind: str, lines: int, *, reason: str) -> None:
        self._dropped[kind] += lines
        self._unreported += lines
        self._reason = reason

    # The thread

    def _run(self) -> None:
        while True:
            lines = self._take_lines()
            if lines:
                self._write_counted(lines)
                continue
            item, self._next = self._next, None
            if isinstance(item, threading.Event):
                item.set()
            elif item is not None and not isinstance(item, bytes):
                self._send, self._rest = item, b""

    def _take_lines(self) -> list[bytes]:
        """Return the next lines, as many as one write may hold. Keep in `_next` what follows.

        Empty if `_next` is no line. Wait if nothing is queued.
        """
        if self._next is None:
            self._next = self._queue.get()
        lines = list[bytes]()
        size = len(self._rest)
        while isinstance(self._next, bytes):
            size += len(self._next)
            if lines and size > _MAX_WRITE:
                break
            lines.append(self._next)
            try:
                self._next = self._queue.get_nowait()
            except queue.Empty:
                self._next = None
        return lines

    def _write_counted(self, lines: list[bytes]) -> None:
        """Write queued lines, and report dropped ones once nothing is queued behind them."""
        written = self._write(lines)
        with self._lock:
            self._queued_bytes -= sum(map(len, lines))
            if not written or not self._unreported or self._queued_bytes:
                return
            count, self._unreported, self._refusing = self._unreported, 0, False
            reason = self._reason
        # Lines that are put from here on are taken from the queue after this.
        self._on_recovered(count, reason)
        report, self._report = self._report, []
        if report:
            self._write(report)

    def _write(self, lines: list[bytes]) -> bool:
        """Write lines; count those that cannot be written, and return False."""
        data = self._rest + b"".join(lines)
        sent = -len(self._rest)
        try:
            while data:
                count = self._send(data)
                data = data[count:]
                sent += count
        except (OSError, ValueError) as error:  # a full disk, no reader, closed
            self._drop_unsent(lines, sent=sent, reason=_describe(error))
            return False
        self._rest = b""
        return True

    def _drop_unsent(self, lines: list[bytes], *, sent: int, reason: str) -> None:
        """Count the lines of which nothing was sent. Keep the rest of one that was begun."""
        if sent < 0:
            self._rest = self._rest[sent:]
        else:
            self._rest = b""
        dropped = 0
        for line in lines:
            if 0 < sent < len(line):
                self._rest = line[sent:]
            dropped += sent <= 0
            sent -= len(line)
        with self._lock:
            self._count_dropped("failed", dropped, reason=reason)


def log_dropped_lines(lines: int, reason: str) -> None:
    """Log how many lines were dropped: the report of the writer that writes the log."""
    _log.error("log lines dropped", extra={"lines": lines, "reason": reason})


def send_to_descriptor(descriptor: int) -> Send:
    """Return what writes to an open file, and waits if it is non-blocking."""

    def send(data: bytes) -> int:
        while True:
            try:
                return os.write(descriptor, data)
            except BlockingIOError:
                ready = select.poll()
                ready.register(descriptor, select.POLLOUT)
                ready.poll()

    return send


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)
