"""Something that wrk can be pointed at, and how to make sure that it does what it stands for."""

import asyncio
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.connection import connected
from tests.bench.errors import WrongAnswers
from tests.support.processes import Server

# The rest: copies grow old and are asked for again, on whatever road.
_MOST: Final = 0.9


class Witness(Protocol):
    """Somebody who counts the answers on a road."""

    def seen(self) -> "Seen": ...


@dataclass(frozen=True, slots=True)
class Seen:
    """Answers so far, how many of them came along the road, and in how many round trips."""

    answers: float
    on_the_road: float
    trips: float = 0.0

    def confirm(self, since: "Seen", road: str) -> None:
        """WrongAnswers: since then too few answers have come along the road."""
        answers = self.answers - since.answers
        share = (self.on_the_road - since.on_the_road) / answers if answers else 0.0
        if share < _MOST:
            raise WrongAnswers(f"only {share:.0%} of the answers came from {road}")

    def batch_size(self, since: "Seen") -> float | None:
        """Return how many answers came with one round trip; None: there were no trips."""
        trips = self.trips - since.trips
        return (self.on_the_road - since.on_the_road) / trips if trips else None


@dataclass(frozen=True, slots=True)
class Target:
    """Where wrk sends what.

    `requests` gives the file for the next run; `under_test` are those whose processor time counts.
    Each answer to `probe` has `status` and holds `says`.
    """

    port: int
    requests: Callable[[], Path]
    under_test: tuple[Server, ...]
    probe: str
    says: str
    status: int = 200
    script: str = "load.lua"
    witness: Witness | None = None

    def check(self) -> None:
        """Ask once. WrongAnswers: whatever runs there would not do what we want to measure."""
        status, head = asyncio.run(self._ask())
        if status != self.status or self.says.lower() not in head.lower():
            names = ", ".join(server.name for server in self.under_test)
            raise WrongAnswers(f"{names} answered {head!r}\n{self.under_test[0].log[-2000:]}")

    async def _ask(self) -> tuple[int, str]:
        async with connected(self.port) as connection:
            return await connection.ask(self.probe)


@dataclass(frozen=True, slots=True)
class HitsIn:
    """Sidegate's own metrics, as a witness of what was found in one of its stores."""

    store: str
    ops_port: int

    def seen(self) -> Seen:
        samples = metrics(self.ops_port)
        lookups = "sidegate_lookup_duration_seconds_count"
        return Seen(
            answers=total(samples, "sidegate_checks_total"),
            on_the_road=total(samples, lookups, store=self.store, outcome="hit"),
            trips=total(samples, "sidegate_lookup_round_trips_total", store=self.store),
        )


Samples = list[tuple[str, dict[str, str], float]]
"""Name, labels, value."""


def metrics(ops_port: int) -> Samples:
    """Return what Sidegate's /metrics says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ops_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return [(each.name, each.labels, each.value) for family in families for each in family.samples]


def total(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum of all samples of that name with (at least) these labels."""
    return sum(
        value
        for its_name, its_labels, value in samples
        if its_name == name and labels.items() <= its_labels.items()
    )
