"""The limit of open files: raised at the start, and never used up by gateways."""

import http.client
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.cli.test_cli import serving
from tests.runtime.test_workers import eventually
from tests.support.processes import PATIENCE, free_port

FIT = """
import resource
import sys

soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

from sidegate.runtime.file_limits import connections_that_fit, raise_limit

fit = connections_that_fit(wanted, limit=raise_limit())
print(fit, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def fitting(soft: int, hard: int, wanted: int) -> tuple[list[int], str]:
    """Return how many fit, the limits afterwards, and what was said, of a process of its own."""
    numbers = map(str, (soft, hard, wanted))
    ran = subprocess.run(
        [sys.executable, "-c", FIT, *numbers],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return [int(number) for number in ran.stdout.split()], ran.stderr


def test_the_limit_is_raised_as_far_as_it_goes() -> None:
    assert fitting(256, 4096, 1000) == ([1000, 4096, 4096], "")


@pytest.mark.parametrize(("limit", "fit"), [(6000, 3600), (1024, 512)])
def test_what_does_not_fit_is_told_and_not_promised(limit: int, fit: int) -> None:
    numbers, said = fitting(limit, limit, 10_000)
    assert numbers == [fit, limit, limit]
    assert f"room for {fit} connections" in said
    assert "raise it to 12400" in said


def status(port: int, path: str) -> int:
    """Return what is answered there."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as door:
        door.request("GET", path)
        return door.getresponse().status


@contextmanager
def serving_with(files: int, home: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """`sidegate serve` that may open so many files, and has opened its doors."""
    port = free_port()
    limited = ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"]
    ops = {"SIDEGATE_OPS__LISTEN": f"127.0.0.1:{port}"}
    with serving(home, through=limited, **ops, **environ) as process:
        eventually(lambda: status(port, "/readyz") == HTTPStatus.OK)
        yield process


def test_gateways_beyond_what_fits_are_told_of_an_outage(tmp_path: Path) -> None:
    port = free_port()
    listen = {"SIDEGATE_GATE__LISTEN": f"127.0.0.1:{port}"}
    with serving_with(120, tmp_path, **listen) as process, ExitStack() as opened:
        statuses = []
        for _ in range(61):
            gate = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            opened.enter_context(closing(gate))
            gate.request("GET", "/auth-request")
            answer = gate.getresponse()
            answer.read()
            statuses.append(answer.status)
        process.terminate()
        out, _ = process.communicate(timeout=PATIENCE)

    assert statuses == [HTTPStatus.UNAUTHORIZED] * 60 + [HTTPStatus.SERVICE_UNAVAILABLE]
    assert "room for 60 connections" in out
