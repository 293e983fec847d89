"""Merge the metrics of several workers into one page, with the label `worker`."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class _PagesCollector(Collector):
    def __init__(self, pages: Mapping[str, str]) -> None:
        self._pages = pages

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for worker, page in self._pages.items():
            for family in text_string_to_metric_families(page):
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labels = sample.labels | {"worker": worker}
                    merged.add_sample(sample.name, labels, sample.value)
        return iter(families.values())


def merge_metrics(pages: Mapping[str, str]) -> CollectorRegistry:
    """Return a registry of all series of the pages.

    `pages` are in the text format, by the number of the worker.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_PagesCollector(pages))
    return registry
