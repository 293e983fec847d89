"""The limit of open files: raised at the start, and not exhausted by gate connections."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.cli.test_cli import run_server
from tests.runtime.test_workers import wait_until
from tests.support.processes import START_TIMEOUT, find_free_port

FIT_SCRIPT = """
import resource
import sys

soft, hard, requested = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

from sidegate.observability import logs
from sidegate.runtime.file_limits import fit_connections, raise_open_file_limit

logs.configure("info", "json", sys.stderr)
fitting = fit_connections(requested, limit=raise_open_file_limit())
print(fitting, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def run_fit_script(soft: int, hard: int, requested: int) -> tuple[list[int], str]:
    """Return the fitting connections and the new limits of a process, and its stderr."""
    numbers = map(str, (soft, hard, requested))
    completed = subprocess.run(
        [sys.executable, "-c", FIT_SCRIPT, *numbers],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT,
        check=True,
    )
    return [int(number) for number in completed.stdout.split()], completed.stderr


def test_soft_limit_is_raised_to_the_hard_limit() -> None:
    assert run_fit_script(256, 4096, 1000) == ([1000, 4096, 4096], "")


@pytest.mark.parametrize(("limit", "fitting"), [(6000, 3600), (1024, 512)])
def test_connections_that_do_not_fit_are_logged_and_not_accepted(limit: int, fitting: int) -> None:
    numbers, log = run_fit_script(limit, limit, 10_000)
    assert numbers == [fitting, limit, limit]
    event = json.loads(log)
    assert event["event"] == "open file limit too low"
    assert (event["max_connections"], event["limit_needed"]) == (fitting, 12_400)


def get_status(port: int, path: str) -> int:
    """Return the status of a response."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)) as client:
        client.request("GET", path)
        return client.getresponse().status


@contextmanager
def run_limited_server(files: int, home: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run `sidegate serve` with a limit of open files, and yield it when it is ready."""
    port = find_free_port()
    limited = ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"]
    ops = {"SIDEGATE_OPS__LISTEN": f"127.0.0.1:{port}"}
    with run_server(home, wrapper=limited, **ops, **environ) as process:
        wait_until(lambda: get_status(port, "/readyz") == HTTPStatus.OK)
        yield process


def test_connection_above_the_limit_gets_503(tmp_path: Path) -> None:
    port = find_free_port()
    listen = {"SIDEGATE_GATE__LISTEN": f"127.0.0.1:{port}"}
    with run_limited_server(120, tmp_path, **listen) as process, ExitStack() as exit_stack:
        statuses = []
        for _ in range(61):
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)
            exit_stack.enter_context(closing(client))
            client.request("GET", "/auth-request")
            response = client.getresponse()
            response.read()
            statuses.append(response.status)
        process.terminate()
        out, _ = process.communicate(timeout=START_TIMEOUT)

    assert statuses == [HTTPStatus.UNAUTHORIZED] * 60 + [HTTPStatus.SERVICE_UNAVAILABLE]
    events = [json.loads(line) for line in out.splitlines()]
    [too_low] = [each for each in events if each["event"] == "open file limit too low"]
    assert too_low["max_connections"] == 60
