"""The metrics as a registry of prometheus-client, for a scrape."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sidegate.observability.metrics.recorder import Metrics
from sidegate.observability.metrics.table import METRICS


class _MetricsCollector(Collector):
    """Exports one Metrics at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for spec in METRICS:
            family = Metric(spec.name, spec.help, spec.kind)
            for name, labels, value in spec.samples(self._metrics):
                family.add_sample(name, labels, value)
            yield family


def build_registry(metrics: Metrics) -> CollectorRegistry:
    """Return a registry of these metrics, and of those of the process and the platform."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MetricsCollector(metrics))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
