"""docs/reference/metrics.md: every metric, from the tables of observability/metrics/."""

from typing import Final

from reference_pages.markdown import NOTICE, code, codes, mark_code, table
from sidegate.observability.metrics.spec import MetricSpec
from sidegate.observability.metrics.table import METRICS_BY_SUBJECT

_INTRODUCTION: Final = """\
# Metrics

Served at `/metrics` on the ops listener, in the text format of Prometheus or as OpenMetrics. A
histogram `NAME` is queried as `NAME_bucket`, `NAME_count` and `NAME_sum`. No label ever holds a
token, a user, a path or an address, so the number of series is bounded.

With `workers`, the page has the series of every worker, with the label `worker`. Metrics of the
process and of Python (`process_*`, `python_*`) are those of prometheus-client.
[Operations](../operations.md) has a runbook for each alert.

"""


def build_page() -> str:
    page = NOTICE + _INTRODUCTION
    for subject, specs in METRICS_BY_SUBJECT.items():
        page += f"## {subject}\n\n"
        page += table(("metric", "kind", "labels", "meaning"), map(_row, specs))
    return page.rstrip("\n") + "\n"


def _row(spec: MetricSpec) -> tuple[str, str, str, str]:
    name = spec.name if spec.kind == "histogram" else spec.series()[0]
    return code(name), spec.kind, codes(spec.labels), mark_code(spec.help)
