"""The metrics of one process, kept as plain numbers and exported to Prometheus at a scrape.

Every metric is declared once, in the table of its subject (gate.py, stores.py, sessions.py,
analytics.py); table.py has all of them. Every check is counted, so counting is one dictionary and
one integer; the objects of prometheus-client are built at a scrape. No label ever holds a token, a
user, a path or an address.
"""

from sidegate.observability.metrics.exposition import build_registry, build_supervisor_page
from sidegate.observability.metrics.recorder import Metrics
from sidegate.observability.metrics.table import METRIC_NAMES, METRICS

__all__ = ["METRICS", "METRIC_NAMES", "Metrics", "build_registry", "build_supervisor_page"]
