"""The queue of log lines and the thread that writes them."""

import errno
import fcntl
import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sidegate.observability.log_writer import LogWriter, send_to_descriptor

_WAIT = 10.0


class Destination:
    """Collects what is sent. It can be closed to the sender, which then waits, and can fail."""

    def __init__(self) -> None:
        self.sent = b""
        self.sizes: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Event()
        self.error: OSError | None = None
        self.capacity: int | None = None  # bytes until `error` is raised

    def send(self, data: bytes) -> int:
        self.waiting.set()
        assert self.open.wait(_WAIT)
        if self.capacity is not None and self.error is not None:
            data, self.capacity = data[: self.capacity], self.capacity - len(data[: self.capacity])
            if not data:
                raise self.error
        elif self.error is not None:
            raise self.error
        self.sent += data
        self.sizes.append(len(data))
        return len(data)

    def block(self, writer: LogWriter) -> None:
        """Return when the writer waits in a write."""
        self.open.clear()
        self.waiting.clear()
        writer.put(b"first\n")
        assert self.waiting.wait(_WAIT)

    @property
    def lines(self) -> list[bytes]:
        return self.sent.splitlines()


@pytest.fixture
def destination() -> Iterator[Destination]:
    destination = Destination()
    yield destination
    destination.open.set()


def build_writer(destination: Destination, max_bytes: int = 2**20) -> LogWriter:
    """Return a writer that reports dropped lines as a line."""

    def report(lines: int, reason: str) -> None:
        writer.put(b"dropped %d: %s\n" % (lines, reason.encode()))

    writer = LogWriter(destination.send, on_recovered=report, max_bytes=max_bytes)
    return writer


def test_lines_are_written_in_order(destination: Destination) -> None:
    writer = build_writer(destination)
    lines = [b"line %d" % number for number in range(10_000)]

    for line in lines:
        writer.put(line + b"\n")

    assert writer.flush(_WAIT)
    assert destination.lines == lines
    assert writer.dropped == {"full": 0, "failed": 0}


def test_lines_of_several_threads_are_not_mixed(destination: Destination) -> None:
    writer = build_writer(destination)

    def put(letter: bytes) -> None:
        for _ in range(500):
            writer.put(letter * 99 + b"\n")

    threads = [threading.Thread(target=put, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert writer.flush(_WAIT)
    assert sorted(destination.lines) == [b"a" * 99] * 500 + [b"b" * 99] * 500 + [b"c" * 99] * 500


def test_a_write_is_not_larger_than_a_pipe_writes_at_once(destination: Destination) -> None:
    writer = build_writer(destination)
    destination.block(writer)

    for _ in range(1000):
        writer.put(b"x" * 99 + b"\n")
    writer.put(b"y" * 10_000 + b"\n")
    destination.open.set()

    assert writer.flush(_WAIT)
    *small, long = destination.sizes
    assert max(small) <= select.PIPE_BUF
    assert len(small) < 30
    assert long == 10_001


def test_put_does_not_wait_while_nothing_is_read(destination: Destination) -> None:
    writer = build_writer(destination, max_bytes=10_000)
    destination.block(writer)

    began = time.monotonic()
    for _ in range(50_000):
        writer.put(b"x" * 99 + b"\n")

    assert time.monotonic() - began < 5
    assert writer.dropped["full"] > 49_000


def test_dropped_lines_are_reported_in_their_place(destination: Destination) -> None:
    writer = build_writer(destination, max_bytes=6 + 3 * 4)
    destination.block(writer)
    for number in range(1, 6):
        writer.put(b"#%d.\n" % number)

    destination.open.set()
    assert writer.flush(_WAIT)
    writer.put(b"after\n")

    assert writer.flush(_WAIT)
    report = b"dropped 2: the log is not read, or too slowly"
    assert destination.lines == [b"first", b"#1.", b"#2.", b"#3.", report, b"after"]
    assert writer.dropped == {"full": 2, "failed": 0}


def test_a_full_queue_refuses_until_it_is_empty(destination: Destination) -> None:
    """One gap and one report, not one for each line that fits meanwhile."""
    writer = build_writer(destination, max_bytes=1000)
    destination.block(writer)

    for number in range(5000):
        writer.put(b"line %d\n" % number)
        if number == 2500:
            destination.open.set()
    assert writer.flush(_WAIT)
    writer.put(b"last\n")
    assert writer.flush(_WAIT)

    numbers = [int(line.split()[1]) for line in destination.lines if line.startswith(b"line")]
    reports = [line for line in destination.lines if line.startswith(b"dropped")]
    assert numbers == sorted(numbers)
    assert sum(int(line.split()[1].rstrip(b":")) for line in reports) == writer.dropped["full"]
    assert len(numbers) + writer.dropped["full"] == 5000
    assert destination.lines[-1] == b"last"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EPIPE, errno.EIO])
def test_lines_that_cannot_be_written_are_counted(
    destination: Destination, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    writer = build_writer(destination)
    destination.error = OSError(code, os.strerror(code))
    for _ in range(3):
        writer.put(b"lost\n")
        assert writer.flush(_WAIT)
    assert writer.dropped == {"full": 0, "failed": 3}

    destination.error = None
    writer.put(b"kept\n")

    assert writer.flush(_WAIT)
    assert destination.lines == [b"kept", b"dropped 3: " + os.strerror(code).encode()]
    assert capfd.readouterr() == ("", "")


def test_line_of_which_a_part_was_written_is_completed(destination: Destination) -> None:
    writer = build_writer(destination)
    destination.block(writer)
    destination.error, destination.capacity = OSError(errno.ENOSPC, "full"), len(b"first\none\ntw")
    for line in (b"one\n", b"two\n", b"three\n"):
        writer.put(line)
    destination.open.set()
    assert writer.flush(_WAIT)
    assert writer.dropped["failed"] == 1

    destination.error = None
    writer.put(b"four\n")

    assert writer.flush(_WAIT)
    assert destination.lines[:4] == [b"first", b"one", b"two", b"four"]


def test_flush_gives_up_after_its_timeout(destination: Destination) -> None:
    writer = build_writer(destination)
    destination.block(writer)

    assert not writer.flush(0.01)

    destination.open.set()
    assert writer.flush(_WAIT)


def test_another_destination_gets_the_lines_after_it(destination: Destination) -> None:
    writer, later = build_writer(destination), Destination()
    destination.block(writer)

    writer.send_to(later.send)
    writer.put(b"second\n")
    destination.open.set()

    assert writer.flush(_WAIT)
    assert (destination.lines, later.lines) == ([b"first"], [b"second"])


@pytest.mark.parametrize("blocking", [True, False])
def test_descriptor_is_waited_for_if_it_does_not_block(blocking: bool) -> None:
    """A pipe that another process has set to non-blocking loses nothing."""
    read, write = os.pipe()
    os.set_blocking(write, blocking)
    with suppress(OSError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    writer = LogWriter(send_to_descriptor(write))
    for _ in range(1000):
        writer.put(b"x" * 99 + b"\n")

    received = 0
    while received < 100_000:
        received += len(os.read(read, 65_536))

    assert writer.flush(_WAIT)
    assert writer.dropped == {"full": 0, "failed": 0}
    os.close(read)
    os.close(write)


def test_a_thread_that_cannot_be_started_raises_nothing(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    writer = build_writer(destination)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        writer.put(b"first\n")

    writer.put(b"second\n")

    assert writer.flush(_WAIT)
    assert destination.lines == [b"first", b"second"]
