"""Pin the server under test to one core, and measure its CPU time."""

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
    """The core of the server under test, and the cores of everything else."""

    server: int
    others: frozenset[int]

    @classmethod
    def detect(cls) -> "Cores":
        """Reserve the last core for the server: interrupts are usually handled by the first."""
        *others, server = sorted(os.sched_getaffinity(0))
        if not others:
            raise NotMeasurable(
                "at least two cores are needed, for the server and the load generator"
            )
        return cls(server, frozenset(others))

    def avoid_server_core(self) -> None:
        """Keep this process, and those it starts from now on, off the server's core."""
        os.sched_setaffinity(0, self.others)

    @contextmanager
    def pinned_to_server_core(self) -> Iterator[None]:
        """Pin processes started in this block, with their threads and children, to the core."""
        os.sched_setaffinity(0, {self.server})
        try:
            yield
        finally:
            self.avoid_server_core()


def cpu_seconds(servers: Iterable[Server]) -> float:
    """Return the total CPU time of these servers and their children, in seconds."""
    return sum(_cpu_seconds(pid) for server in servers for pid in server.child.process_tree())


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
