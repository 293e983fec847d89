"""One core for the server under test, the others for everything else; and who used how much."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.errors import NotMeasurable
from tests.support.processes import Server

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """A process started inside `serving` stays on that core, with all its threads and children."""

    server: int
    others: frozenset[int]

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """Take the last core for the server: interrupts tend to go to the first."""
        *others, server = sorted(os.sched_getaffinity(0))
        if not others:
            raise NotMeasurable("a server and a load generator need a core each; there is one core")
        return cls(server, frozenset(others))

    def leave_the_server_alone(self) -> None:
        """From now on this process, and what it starts, stays off the server's core."""
        os.sched_setaffinity(0, self.others)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Start the server under test in here."""
        os.sched_setaffinity(0, {self.server})
        try:
            yield
        finally:
            self.leave_the_server_alone()


def cpu_seconds(servers: Iterable[Server]) -> float:
    """Return the processor time these servers and their children have used so far."""
    return sum(_cpu_seconds(pid) for server in servers for pid in server.child.family())


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
