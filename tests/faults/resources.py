"""Metrics and resource usage of the instances, measured from outside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final

from tests.faults.client import ConnectionBroken
from tests.faults.gateway import Upstream
from tests.support.processes import Server

Labels = frozenset[tuple[str, str]]
Series = Mapping[tuple[str, Labels], float]

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TIMEOUT: Final = 2.0

_LINE: Final = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'([a-z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Counters:
    """The metrics of each instance that responded, by name."""

    series: Mapping[str, Series]

    def increase(self, before: Counters, metric: str, **labels: str) -> float:
        """Return the increase of a counter, summed over all instances and other labels.

        The counters of an instance that was restarted meanwhile count from zero.
        """
        return sum(
            value - earlier if value >= earlier else value
            for name, series in self.series.items()
            for (key, has), value in series.items()
            if key == metric and labels.items() <= dict(has).items()
            for earlier in (before.series.get(name, {}).get((key, has), 0.0),)
        )

    def of_instance(self, name: str) -> Counters:
        """Return the counters of one instance; empty if it did not respond."""
        return Counters({key: series for key, series in self.series.items() if key == name})


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """Resource usage summed over the instances, except for memory, which is the maximum."""

    memory: int  # bytes, without cached sessions: their number grows with the run
    descriptors: int  # without the connections that the rig keeps open
    redis: int  # connections
    postgres: int
    series: int

    def exceeding(self, base: ResourceUsage) -> Iterable[str]:
        """Yield a text for each value that is more than a tenth above `base`."""
        for name in ("memory", "descriptors", "redis", "postgres", "series"):
            allowed = ceil(getattr(base, name) * 1.1)
            holds = getattr(self, name)
            if holds > allowed:
                yield f"{name} {holds}, was {getattr(base, name)}"


async def fetch_counters(upstreams: Iterable[Upstream]) -> Counters:
    """Read the metrics of every instance that responds."""
    read = {each.name: await _series(each) for each in upstreams}
    return Counters({name: series for name, series in read.items() if series is not None})


async def read_usage(upstreams: Iterable[Upstream], redis: int, postgres: int) -> ResourceUsage:
    """Measure the resource usage. The connections to the stores are counted at the proxies."""
    each = list(upstreams)
    metrics = await fetch_counters(each)
    pids = [upstream.sidegate.server.process.pid for upstream in each]
    return ResourceUsage(
        memory=max(
            resident_bytes(pid) - cached_bytes(metrics.series.get(upstream.name, {}))
            for upstream, pid in zip(each, pids, strict=True)
        ),
        descriptors=sum(map(count_descriptors, pids))
        - sum(upstream.connection_count for upstream in each),
        redis=redis,
        postgres=postgres,
        series=sum(map(len, metrics.series.values())),
    )


def cached_bytes(series: Series) -> int:
    """Return the bytes of cached sessions according to the metrics of an instance."""
    return int(series.get(("sidegate_memory_bytes", frozenset()), 0.0))


class CpuWaits:
    """How long the processes of a server were runnable but not scheduled."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before: dict[int, float] = {}

    def read(self) -> float:
        """Return the longest wait of a process since the last call, in seconds."""
        now = {pid: waited for pid in self._pids() if (waited := _read_wait(pid)) is not None}
        before, self._before = self._before, now
        return max((waited - before.get(pid, waited) for pid, waited in now.items()), default=0.0)

    def _pids(self) -> Iterator[int]:
        """Yield the process and its children: Postgres has one per connection."""
        pid = self._server.process.pid
        yield pid
        with suppress(OSError):
            yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _read_wait(pid: int) -> float | None:
    """Return the total wait of a process in seconds, or None if it has exited."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return None


async def fetch_metrics(upstream: Upstream) -> str | None:
    """Return the metrics page, or None without a response."""
    try:
        response = await upstream.get("/metrics", timeout=_TIMEOUT)
    except (ConnectionBroken, TimeoutError):
        return None
    return response.body.decode()


def parse_series(text: str) -> Series:
    """Parse a metrics page. prometheus-client's parser would block the load for too long."""
    return dict(map(_parse_sample, _LINE.finditer(text)))


async def _series(upstream: Upstream) -> Series | None:
    text = await fetch_metrics(upstream)
    return None if text is None else parse_series(text)


def _parse_sample(line: re.Match[str]) -> tuple[tuple[str, Labels], float]:
    name, labels, value = line.groups()
    return (name, frozenset(_LABEL.findall(labels or ""))), float(value)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def count_descriptors(pid: int) -> int:
    """Return the number of open file descriptors of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
