"""The declaration of one metric."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sidegate.observability.metrics.histogram import Histogram
from sidegate.observability.metrics.recorder import Labels, Metrics

Kind = Literal["counter", "gauge", "histogram", "info"]

# What the exposition format adds to the name of a metric, by kind.
_SUFFIXES: Final[Mapping[Kind, tuple[str, ...]]] = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
    "info": ("_info",),
}


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric: what it is called, what it says, and where its values come from.

    `read` returns the value of each series by its label values, at a scrape.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    read: Callable[[Metrics], Mapping[Labels, float | Histogram]]

    def series(self) -> tuple[str, ...]:
        """Return the names of its series, as in a query."""
        return tuple(self.name + suffix for suffix in _SUFFIXES[self.kind])

    def samples(self, metrics: Metrics) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield name, labels and value of each series."""
        for values, value in self.read(metrics).items():
            labels = dict(zip(self.labels, values, strict=True))
            if isinstance(value, Histogram):
                yield from self._histogram_samples(labels, value)
            else:
                [name] = self.series()
                yield name, labels, value

    def _histogram_samples(
        self, labels: dict[str, str], histogram: Histogram
    ) -> Iterator[tuple[str, dict[str, str], float]]:
        bucket, count, total = self.series()
        buckets = histogram.buckets()
        for bound, cumulative in buckets:
            yield bucket, labels | {"le": bound}, cumulative
        yield count, labels, buckets[-1][1]
        yield total, labels, histogram.total


def scalar(value: float) -> Mapping[Labels, float]:
    """Return the only series of a metric without labels."""
    return {(): float(value)}
