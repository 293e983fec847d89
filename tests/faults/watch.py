"""What can be read of the instances from outside: their metrics, and what they hold on to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final

from tests.faults.client import Broken
from tests.faults.gateway import Upstream
from tests.support.processes import Server

Labels = frozenset[tuple[str, str]]
Series = Mapping[tuple[str, Labels], float]

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PATIENCE: Final = 2.0

_LINE: Final = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'([a-z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Counters:
    """The metrics of each instance that answered, by its name."""

    series: Mapping[str, Series]

    def since(self, before: Counters, metric: str, **labels: str) -> float:
        """Return by how much a counter grew, over all instances and all other labels.

        An instance that was started again meanwhile counts from nothing.
        """
        return sum(
            value - earlier if value >= earlier else value
            for name, series in self.series.items()
            for (key, has), value in series.items()
            if key == metric and labels.items() <= dict(has).items()
            for earlier in (before.series.get(name, {}).get((key, has), 0.0),)
        )

    def only(self, name: str) -> Counters:
        """Return those of one instance; none, if it did not answer."""
        return Counters({key: series for key, series in self.series.items() if key == name})


@dataclass(frozen=True, slots=True)
class Holdings:
    """What instances hold on to, all of them together but for memory, which is the largest's."""

    memory: int  # bytes, but for the sessions it remembers: they are as many as there have been
    descriptors: int  # but for the connections that the rig itself keeps open
    redis: int  # connections
    postgres: int
    series: int

    def beyond(self, base: Holdings) -> Iterable[str]:
        """Say which of them is over a tenth more than it was."""
        for name in ("memory", "descriptors", "redis", "postgres", "series"):
            allowed = ceil(getattr(base, name) * 1.1)
            holds = getattr(self, name)
            if holds > allowed:
                yield f"{name} {holds}, was {getattr(base, name)}"


async def counters(upstreams: Iterable[Upstream]) -> Counters:
    """Read the metrics of every instance that answers."""
    read = {each.name: await _series(each) for each in upstreams}
    return Counters({name: series for name, series in read.items() if series is not None})


async def holdings(upstreams: Iterable[Upstream], redis: int, postgres: int) -> Holdings:
    """Read what the instances hold on to; the connections to stores are counted on the wires."""
    each = list(upstreams)
    metrics = await counters(each)
    pids = [upstream.sidegate.server.process.pid for upstream in each]
    return Holdings(
        memory=max(
            _resident(pid) - remembered(metrics.series.get(upstream.name, {}))
            for upstream, pid in zip(each, pids, strict=True)
        ),
        descriptors=sum(map(descriptors, pids)) - sum(upstream.open for upstream in each),
        redis=redis,
        postgres=postgres,
        series=sum(map(len, metrics.series.values())),
    )


def remembered(series: Series) -> int:
    """Return how many bytes of sessions an instance says that it remembers."""
    return int(series.get(("sidegate_memory_bytes", frozenset()), 0.0))


class CpuWaits:
    """How long a server's processes were ready to run, and were not run."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before: dict[int, float] = {}

    def since(self) -> float:
        """Return the seconds since the last time, of whoever waited longest."""
        now = {pid: waited for pid in self._pids() if (waited := _waited(pid)) is not None}
        before, self._before = self._before, now
        return max((waited - before.get(pid, waited) for pid, waited in now.items()), default=0.0)

    def _pids(self) -> Iterator[int]:
        """Yield the process and its children: Postgres has one for each connection."""
        pid = self._server.process.pid
        yield pid
        with suppress(OSError):
            yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _waited(pid: int) -> float | None:
    """Return for how long a process has waited so far; None: it is gone."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return None


async def metrics_text(upstream: Upstream) -> str | None:
    """Return the metrics page as it is, or None if there is no answer."""
    try:
        answer = await upstream.look("/metrics", patience=_PATIENCE)
    except (Broken, TimeoutError):
        return None
    return answer.body.decode()


def read_series(text: str) -> Series:
    """Read a metrics page. Not with the vendor's parser: the load would stand still meanwhile."""
    return dict(map(_sample, _LINE.finditer(text)))


async def _series(upstream: Upstream) -> Series | None:
    text = await metrics_text(upstream)
    return None if text is None else read_series(text)


def _sample(line: re.Match[str]) -> tuple[tuple[str, Labels], float]:
    name, labels, value = line.groups()
    return (name, frozenset(_LABEL.findall(labels or ""))), float(value)


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def descriptors(pid: int) -> int:
    """Return how many file descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
