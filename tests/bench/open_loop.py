"""Load at a constant rate, whose latencies count from the moment a request was due.

The program is programs/open-loop: neither wrk nor a program in Python could send as many requests.
"""

import json
import subprocess
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

from tests.bench.errors import UnexpectedResponses

MAX_CONNECTIONS: Final = 1000
"""With all of them busy, a request fails at once, as with a gateway that has no more."""

CLOSED_LOOP_CONNECTIONS: Final = 32
"""As many as wrk uses."""

# A client gives up after a second; what is answered later counts as failed.
_TIMEOUT: Final = 1.0


@dataclass(frozen=True, slots=True)
class OpenLoopSample:
    """What became of the requests that were due in the measured time. Latencies in seconds.

    `answers` counts also those before it. `missed` were not sent, because this machine is too slow
    for the rate. `late` is the p99.9 of the time from due until sent: the part of the latencies
    that the load generator adds. Without any good response the latencies are infinite.
    """

    seconds: float
    answers: int
    good: int
    unavailable: int
    failed: int
    missed: int
    p50: float
    p99: float
    p999: float
    max: float
    late: float

    @property
    def goodput(self) -> float:
        """Good responses per second."""
        return self.good / self.seconds

    @property
    def offered(self) -> float:
        """Requests per second that the server was offered."""
        return (self.good + self.unavailable + self.failed) / self.seconds


@dataclass(frozen=True, slots=True)
class Generator:
    """Sends the requests of a file in random order. The program is built by compilers.py."""

    program: Path
    port: int
    requests: Path
    status: int = 200

    def closed_loop(self, *, seconds: float, warm_up: float) -> OpenLoopSample:
        """Send as many requests as are answered."""
        return self._run(0, CLOSED_LOOP_CONNECTIONS, seconds, warm_up)

    def open_loop(self, rate: float, *, seconds: float, warm_up: float) -> OpenLoopSample:
        """Send so many requests per second, whether or not they are answered."""
        return self._run(rate, MAX_CONNECTIONS, seconds, warm_up)

    def _run(self, rate: float, connections: int, seconds: float, warm_up: float) -> OpenLoopSample:
        options = {
            "port": self.port,
            "requests": self.requests,
            "status": self.status,
            "rate": rate,
            "connections": connections,
            "seconds": seconds,
            "warm-up": warm_up,
            "timeout": _TIMEOUT,
        }
        command = [str(self.program), *(f"-{name}={value}" for name, value in options.items())]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise UnexpectedResponses(f"the load generator failed: {done.stderr[-2000:]}")
        return parse_output(done.stdout)


def parse_output(output: str) -> OpenLoopSample:
    """Parse the JSON that the program prints."""
    found = json.loads(output)
    latencies = {
        name: found[name] / 1e6 if found["good"] else inf for name in ("p50", "p99", "p999", "max")
    }
    return OpenLoopSample(
        seconds=found["seconds"],
        answers=found["answers"],
        good=found["good"],
        unavailable=found["unavailable"],
        failed=found["other"] + found["broken"] + found["unsent"],
        missed=found["missed"],
        late=found["late"] / 1e6,
        **latencies,
    )
