"""A target of wrk, and the verification that its responses are those to be measured."""

import asyncio
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.connection import connect
from tests.bench.errors import UnexpectedResponses
from tests.support.processes import Server

# The rest are lookups of expired cache entries.
_MIN_HIT_SHARE: Final = 0.9


class HitCounter(Protocol):
    """Counts the hits in the store that a benchmark is about."""

    def read(self) -> "HitCounts": ...


@dataclass(frozen=True, slots=True)
class HitCounts:
    """Responses so far, hits in the store among them, and round trips to the store."""

    responses: float
    hits: float
    round_trips: float = 0.0

    def verify(self, since: "HitCounts", store: str) -> None:
        """Raise UnexpectedResponses if too few responses since then were hits in the store."""
        responses = self.responses - since.responses
        share = (self.hits - since.hits) / responses if responses else 0.0
        if share < _MIN_HIT_SHARE:
            raise UnexpectedResponses(f"only {share:.0%} of the responses were hits in {store}")

    def batch_size(self, since: "HitCounts") -> float | None:
        """Return the hits per round trip since then, or None without round trips."""
        round_trips = self.round_trips - since.round_trips
        return (self.hits - since.hits) / round_trips if round_trips else None


@dataclass(frozen=True, slots=True)
class Target:
    """A port, and the requests to send to it.

    `requests` returns the file for the next run; the CPU time of `under_test` is measured. The
    response to `probe` must have `status`, and `expected_text` in its head.
    """

    port: int
    requests: Callable[[], Path]
    under_test: tuple[Server, ...]
    probe: str
    expected_text: str
    status: int = 200
    script: str = "load.lua"
    hit_counter: HitCounter | None = None

    def check(self) -> None:
        """Send the probe. Raise UnexpectedResponses if the response is not the expected one."""
        status, head = asyncio.run(self._send_probe())
        if status != self.status or self.expected_text.lower() not in head.lower():
            names = ", ".join(server.name for server in self.under_test)
            raise UnexpectedResponses(f"{names} answered {head!r}\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the end of the log of each server."""
        return "\n".join(f"log of {each.name}:\n{each.log[-2000:]}" for each in self.under_test)

    async def _send_probe(self) -> tuple[int, str]:
        async with connect(self.port) as connection:
            return await connection.request(self.probe)


@dataclass(frozen=True, slots=True)
class MetricsHitCounter:
    """Counts hits in one store with Sidegate's own metrics."""

    store: str
    ops_port: int

    def read(self) -> HitCounts:
        samples = fetch_metrics(self.ops_port)
        lookups = "sidegate_lookup_duration_seconds_count"
        return HitCounts(
            responses=sum_samples(samples, "sidegate_checks_total"),
            hits=sum_samples(samples, lookups, store=self.store, outcome="hit"),
            round_trips=sum_samples(samples, "sidegate_lookup_round_trips_total", store=self.store),
        )


Samples = list[tuple[str, dict[str, str], float]]
"""Name, labels, value."""


def fetch_metrics(ops_port: int) -> Samples:
    """Return the samples of Sidegate's metrics page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ops_port}/metrics", timeout=10) as response:
        text = response.read().decode()
    families = text_string_to_metric_families(text)
    return [(each.name, each.labels, each.value) for family in families for each in family.samples]


def sum_samples(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum of all samples of that name with (at least) these labels."""
    return sum(
        value
        for its_name, its_labels, value in samples
        if its_name == name and labels.items() <= its_labels.items()
    )
