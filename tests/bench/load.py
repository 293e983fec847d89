"""Generate load with wrk: one thread, some connections, and a script with complete requests."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.errors import NotMeasurable, UnexpectedResponses

SCRIPTS: Final = Path(__file__).parent / "wrk"
# As many as a busy nginx worker keeps open. More only add to the queue of a server on one core.
CONNECTIONS: Final = 32

# On a busy machine some requests exceed a deadline, which the report mentions. With more failures
# than this the sample is invalid.
_MAX_FAILURE_SHARE: Final = 0.1

_SAMPLE: Final = re.compile(r"^sample ((?:\w+=\d+ ?)+)$", re.MULTILINE)
_FIELD: Final = re.compile(r"(\w+)=(\d+)")


@dataclass(frozen=True, slots=True)
class Sample:
    """The results of one run of wrk. Times are in seconds.

    `failed` counts requests with a status of 400 or above, or without a response.
    """

    good: int
    failed: int
    duration: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Good responses per second."""
        return self.good / self.duration


def find_wrk() -> str:
    """Return the path of wrk. Raise NotMeasurable if it is not installed."""
    found = shutil.which("wrk")
    if found is None:
        raise NotMeasurable("wrk is not installed (Debian: apt-get install wrk)")
    return found


def load(port: int, requests: Path, *, seconds: int, script: str = "load.lua") -> Sample:
    """Send the requests of a file to a local port for so many seconds.

    Raise UnexpectedResponses if one in ten failed, or more.
    """
    command = [find_wrk(), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    command += ["-s", str(SCRIPTS / script), f"http://127.0.0.1:{port}/", str(requests)]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    if process.returncode != 0:
        raise UnexpectedResponses(
            f"wrk ended with {process.returncode}\n{process.stdout}{process.stderr}"
        )
    return parse_output(process.stdout)


def parse_output(output: str) -> Sample:
    """Parse the sample in wrk's output, whose last line comes from done.lua.

    Raise UnexpectedResponses if there is none, or if too many requests failed.
    """
    line = _SAMPLE.search(output)
    if line is None:
        raise UnexpectedResponses(f"no sample in the output of wrk\n{output}")
    fields = {name: int(value) for name, value in _FIELD.findall(line[1])}
    good = fields["responses"] - fields["status_errors"]
    failed = fields["status_errors"] + fields["socket_errors"]
    if failed > good * _MAX_FAILURE_SHARE or not good:
        raise UnexpectedResponses(f"{failed} requests failed, {good} did not\n{output}")
    seconds = {name: fields[name] / 1e6 for name in ("duration", "p50", "p99")}
    return Sample(good, failed, **seconds)
