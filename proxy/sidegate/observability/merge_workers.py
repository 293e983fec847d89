"""The metrics of several processes as one page: every series says whose it is."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class _Merged(Collector):
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
    """Return what a scrape is told: each worker's page, by its number, in the text format."""
    told = CollectorRegistry(auto_describe=False)
    told.register(_Merged(pages))
    return told
