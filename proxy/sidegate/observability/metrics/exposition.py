"""The metrics as a registry of prometheus-client, for a scrape."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sidegate.observability.metrics.recorder import Metrics
from sidegate.observability.metrics.spec import MetricSpec
from sidegate.observability.metrics.table import METRICS, SUPERVISOR_METRICS


class _MetricsCollector(Collector):
    """Exports one Metrics at each scrape."""

    def __init__(self, metrics: Metrics, specs: Sequence[MetricSpec]) -> None:
        self._metrics = metrics
        self._specs = specs

    def collect(self) -> Iterator[Metric]:
        for spec in self._specs:
            family = Metric(spec.name, spec.help, spec.kind)
            for name, labels, value in spec.samples(self._metrics):
                family.add_sample(name, labels, value)
            yield family


def build_registry(metrics: Metrics) -> CollectorRegistry:
    """Return a registry of these metrics, and of those of the process and the platform."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MetricsCollector(metrics, METRICS))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def build_supervisor_page(metrics: Metrics) -> str:
    """Return the page of the process that supervises workers: few metrics concern it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MetricsCollector(metrics, SUPERVISOR_METRICS))
    return generate_latest(registry).decode()
