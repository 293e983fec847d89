"""Processes whose log is not read, or cannot be written: they serve, count, and end in time."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

import pytest

from sidegate.core.token import TokenKey
from tests.cli.test_cli import build_environment
from tests.runtime.test_workers import child_pids
from tests.support.processes import START_TIMEOUT, find_free_port
from tests.support.sidegate import FAST_PATH

# Seconds in which a process ends: a second for the log, one for stderr, and what the rest takes.
END_TIMEOUT = 15
LOGGED_LINES = 7_000  # more than the queue holds


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until the condition is true."""
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)


@dataclass
class Running:
    """`sidegate serve` and its ports."""

    process: subprocess.Popen[bytes]
    gate: int
    admin: int
    ops: int
    home: Path

    def get(self, port: int, path: str) -> tuple[int, str]:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)) as http_:
            http_.request("GET", path)
            response = http_.getresponse()
            return response.status, response.read().decode()

    def is_ready(self) -> bool:
        assert self.process.poll() is None
        try:
            return self.get(self.ops, "/readyz")[0] == HTTPStatus.OK
        except OSError:
            return False

    def ready_workers(self) -> set[str]:
        _, report = self.get(self.ops, "/readyz?verbose")
        return set(re.findall(r"^\[\+\]worker (\d+)$", report, re.MULTILINE))

    def check(self, times: int) -> None:
        """Let the gate answer checks without a session; each is a line at the level debug."""
        connection = http.client.HTTPConnection("127.0.0.1", self.gate, timeout=START_TIMEOUT)
        with closing(connection):
            for _ in range(times):
                connection.request("GET", "/forward-auth")
                response = connection.getresponse()
                assert response.status == HTTPStatus.UNAUTHORIZED
                response.read()

    def log_in(self, times: int) -> None:
        """Create sessions; each is a line at the level info."""
        key = (self.home / "sidegate/admin.key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=START_TIMEOUT)
        with closing(connection):
            for _ in range(times):
                connection.request("POST", "/v1/sessions", json.dumps({"user_id": "ada"}), headers)
                response = connection.getresponse()
                assert response.status == HTTPStatus.CREATED
                response.read()

    def dropped(self) -> dict[str, int]:
        """Return the number of dropped log lines by cause, of all processes."""
        _, page = self.get(self.ops, "/metrics")
        counts = {"full": 0, "failed": 0}
        name = "sidegate_log_lines_dropped_total"
        for cause, count in re.findall(rf'^{name}{{cause="(\w+)".*}} (\S+)$', page, re.MULTILINE):
            counts[cause] += int(float(count))
        return counts

    def end(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_TIMEOUT)


@contextmanager
def serve(
    home: Path, *arguments: str, stdout: int | IO[bytes], stderr: int | IO[bytes], **settings: str
) -> Iterator[Running]:
    ports = {name: find_free_port() for name in ("gate", "admin", "ops")}
    listen = {f"SIDEGATE_{name.upper()}__LISTEN": f"127.0.0.1:{ports[name]}" for name in ports}
    others = {"SIDEGATE_DRAIN__DELAY": "0s", "SIDEGATE_GATE__FAST_PATH": FAST_PATH}
    process = subprocess.Popen(
        [sys.executable, "-m", "sidegate", "serve", *arguments],
        env=build_environment(home, **listen | others | settings),
        stdout=stdout,
        stderr=stderr,
    )
    running = Running(process, home=home, **ports)
    try:
        wait_until(running.is_ready)
        yield running
    finally:
        process.kill()
        process.wait()


@dataclass
class Pipe:
    """A pipe whose reading end belongs to the test."""

    read_end: int
    write_end: int

    def fill(self) -> None:
        """Write until no more fits: a later writer waits."""
        os.set_blocking(self.write_end, False)
        try:
            while True:
                os.write(self.write_end, b"\n" * 4096)
        except BlockingIOError:
            os.set_blocking(self.write_end, True)

    def read_until(self, text: bytes) -> bytes:
        received = b""
        while text not in received:
            chunk = os.read(self.read_end, 65_536)
            assert chunk, received[-4000:]
            received += chunk
        return received


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe(*os.pipe())
    yield pipe
    for end in (pipe.read_end, pipe.write_end):
        os.close(end)


def parse(log: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.decode().splitlines() if line]


def test_server_serves_and_ends_while_its_log_is_not_read(tmp_path: Path, pipe: Pipe) -> None:
    with serve(tmp_path, stdout=pipe.write_end, stderr=pipe.write_end) as running:
        running.log_in(300)  # 237 lines of this length fill the pipe
        running.check(100)

        assert running.get(running.ops, "/livez")[0] == HTTPStatus.OK
        assert running.is_ready()
        assert running.dropped() == {"full": 0, "failed": 0}
        assert running.end() == 0


def test_lines_are_dropped_in_one_place_and_reported_there(tmp_path: Path, pipe: Pipe) -> None:
    level = {"SIDEGATE_LOGS__LEVEL": "debug"}
    with serve(tmp_path, stdout=pipe.write_end, stderr=pipe.write_end, **level) as running:
        running.check(LOGGED_LINES)
        dropped = running.dropped()["full"]
        assert dropped > 0

        lines = parse(pipe.read_until(b"log lines dropped"))
        running.check(1)
        lines_after = parse(pipe.read_until(b"session checked"))

    *before, report = lines
    assert (report["event"], report["lines"]) == ("log lines dropped", dropped)
    checks = [line for line in before if line["event"] == "session checked"]
    assert len(checks) + dropped == LOGGED_LINES
    timestamps = [line["timestamp"] for line in before]
    assert timestamps == sorted(timestamps)
    assert lines_after[-1]["event"] == "session checked"


def test_lines_that_fit_are_written_when_the_log_is_read_again(tmp_path: Path, pipe: Pipe) -> None:
    pipe.fill()
    with serve(tmp_path, stdout=pipe.write_end, stderr=pipe.write_end) as running:
        running.process.send_signal(signal.SIGTERM)
        log = pipe.read_until(b'"draining"')
        assert running.process.wait(END_TIMEOUT) == 0

    events = [line["event"] for line in parse(log)]
    assert [event for event in events if event != "listener open"] == [
        "admin key read from file",
        "ready",
        "draining",
    ]


LOG_AND_END = f"""
import logging
import sys

from sidegate.observability import logs

logs.configure("info", "json")
for number in range({LOGGED_LINES}):
    logging.getLogger("sidegate").info("x" * 200)
print("logged", file=sys.stderr, flush=True)
"""


def test_process_that_ends_reports_what_it_has_dropped(pipe: Pipe) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LOG_AND_END], stdout=pipe.write_end, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"logged\n"
        lines = parse(pipe.read_until(b"log lines dropped"))

    assert process.returncode == 0
    assert len(lines) - 1 + lines[-1]["lines"] == LOGGED_LINES


@contextmanager
def open_full_disk() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@contextmanager
def open_closed_pipe() -> Iterator[int]:
    read_end, write_end = os.pipe()
    os.close(read_end)
    yield write_end
    os.close(write_end)


@pytest.mark.parametrize("open_log", [open_full_disk, open_closed_pipe])
def test_lines_that_cannot_be_written_are_counted(
    tmp_path: Path, open_log: Callable[[], Any]
) -> None:
    with (
        (tmp_path / "stderr").open("wb") as stderr,
        open_log() as log,
        serve(tmp_path, stdout=log, stderr=stderr) as running,
    ):
        before = running.dropped()["failed"]
        running.log_in(20)
        running.check(20)
        wait_until(lambda: running.dropped() == {"full": 0, "failed": before + 20})
        assert before >= 4  # the lines of the start
        assert running.end() == 0

    assert (tmp_path / "stderr").read_text() == ""


def test_workers_serve_and_end_while_their_log_is_not_read(tmp_path: Path, pipe: Pipe) -> None:
    pipe.fill()
    workers = ("--workers", "2")
    with serve(tmp_path, *workers, stdout=pipe.write_end, stderr=pipe.write_end) as running:
        wait_until(lambda: running.ready_workers() == {"0", "1"})
        first = child_pids(running.process.pid)
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: not set(first) >= set(child_pids(running.process.pid)))
        wait_until(lambda: running.ready_workers() == {"0", "1"})
        running.check(50)

        _, page = running.get(running.ops, "/metrics")
        name = 'sidegate_log_lines_dropped_total{cause="full",worker="supervisor"}'
        assert f"{name} 0.0" in page
        children = child_pids(running.process.pid)
        assert running.end() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def run_with_full_stderr(home: Path, pipe: Pipe, *arguments: str, **settings: str) -> int:
    """Return the exit status of a command whose stderr takes nothing."""
    pipe.fill()
    with subprocess.Popen(
        [sys.executable, "-m", "sidegate", *arguments],
        env=build_environment(home, **settings),
        stdout=subprocess.DEVNULL,
        stderr=pipe.write_end,
    ) as process:
        try:
            return process.wait(START_TIMEOUT)
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["serve"], 78),
        (["serve", "--workers", "2"], 78),
        (["config", "check"], 78),
        (["session", "list", "ada"], 78),
    ],
)
def test_error_that_is_not_read_does_not_keep_a_process(
    tmp_path: Path, pipe: Pipe, arguments: list[str], status: int
) -> None:
    wrong = {"SIDEGATE_GATE__DEADLINE": "soon"}
    assert run_with_full_stderr(tmp_path, pipe, *arguments, **wrong) == status


def test_outage_that_is_not_read_does_not_keep_a_command(tmp_path: Path, pipe: Pipe) -> None:
    """Commands log warnings to stderr."""
    stores = {
        "SIDEGATE_REDIS_URL": f"redis://127.0.0.1:{find_free_port()}",
        "SIDEGATE_DATABASE_URL": f"postgresql://u@127.0.0.1:{find_free_port()}/d",
        "SIDEGATE_TOKEN__KEYS": TokenKey.generate().format(),
    }
    assert run_with_full_stderr(tmp_path, pipe, "session", "list", "ada", **stores) == 1


def test_error_is_written_before_the_process_ends(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "sidegate", "serve"],
        env=build_environment(tmp_path, SIDEGATE_GATE__DEADLINE="soon"),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT,
        check=False,
    )
    assert completed.returncode == 78
    assert "gate.deadline" in completed.stderr
