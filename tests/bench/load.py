"""Load comes from wrk: one thread, some connections, and a script that sends whole requests."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.errors import NotMeasurable, WrongAnswers

SCRIPTS: Final = Path(__file__).parent / "wrk"
# As many as a busy nginx worker keeps open; more only lengthen the queue of a server on one core.
CONNECTIONS: Final = 32

# Where others are at work, too, some requests miss a deadline of ours, which a footnote tells. When
# so many of them do, it is not the load that was meant.
_BEARABLE: Final = 0.1

_SAMPLE: Final = re.compile(r"^sample ((?:\w+=\d+ ?)+)$", re.MULTILINE)
_FIELD: Final = re.compile(r"(\w+)=(\d+)")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of wrk saw. Times are in seconds.

    `failed` counts requests that were answered with 400 or above, or not at all.
    """

    good: int
    failed: int
    duration: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return self.good / self.duration


def wrk() -> str:
    """Return where wrk is. NotMeasurable: it is not."""
    found = shutil.which("wrk")
    if found is None:
        raise NotMeasurable("wrk is not installed (Debian: apt-get install wrk)")
    return found


def load(port: int, requests: Path, *, seconds: int, script: str = "load.lua") -> Sample:
    """Send the requests of a file to this machine's `port` for so many seconds.

    WrongAnswers: one in ten failed, or more.
    """
    command = [wrk(), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    command += ["-s", str(SCRIPTS / script), f"http://127.0.0.1:{port}/", str(requests)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise WrongAnswers(f"wrk ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return read(done.stdout)


def read(said: str) -> Sample:
    """Return the sample in wrk's output, whose last line is our script's.

    WrongAnswers: there is none, or too many requests failed.
    """
    line = _SAMPLE.search(said)
    if line is None:
        raise WrongAnswers(f"wrk's script told of no sample\n{said}")
    told = {name: int(value) for name, value in _FIELD.findall(line[1])}
    good, failed = told["answers"] - told["refused"], told["refused"] + told["broken"]
    if failed > good * _BEARABLE or not good:
        raise WrongAnswers(f"{failed} requests failed, {good} did not\n{said}")
    seconds = {name: told[name] / 1e6 for name in ("duration", "p50", "p99")}
    return Sample(good, failed, **seconds)
