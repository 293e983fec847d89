"""All metrics, each declared once: name, kind, help, labels, and where its values come from."""

from typing import Final

from sidegate.observability.metrics.analytics import ANALYTICS
from sidegate.observability.metrics.gate import CHECKS, LISTENERS, PROCESS
from sidegate.observability.metrics.sessions import REVOCATIONS, SESSIONS
from sidegate.observability.metrics.spec import MetricSpec
from sidegate.observability.metrics.stores import FEEDS, STORES

METRICS_BY_SUBJECT: Final[dict[str, tuple[MetricSpec, ...]]] = {
    "Checks": CHECKS,
    "Stores": STORES,
    "Sessions": SESSIONS,
    "Revocations": REVOCATIONS,
    "Change notifications": FEEDS,
    "Analytics": ANALYTICS,
    "Listeners": LISTENERS,
    "Process": PROCESS,
}
"""The metrics under the headings of docs/reference/metrics.md."""

METRICS: Final = tuple(spec for specs in METRICS_BY_SUBJECT.values() for spec in specs)

METRIC_NAMES: Final = frozenset(name for spec in METRICS for name in spec.series())
"""The name of every series that Sidegate itself exports, as in a query."""

_OF_SUPERVISOR: Final = frozenset(
    ("sidegate_bad_requests", "sidegate_connections_over_limit", "sidegate_log_lines_dropped")
)

SUPERVISOR_METRICS: Final = tuple(spec for spec in METRICS if spec.name in _OF_SUPERVISOR)
"""Those that the supervisor of workers exports of itself: it has the ops listener and a log."""
