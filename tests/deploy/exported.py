"""The series Sidegate exports, with their labels, as a scrape shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidegate.observability.metrics import METRIC_NAMES, Metrics, registry
from tests.contracts.values import a_report, a_session

if TYPE_CHECKING:
    from collections.abc import Mapping

# Given by Prometheus when it scrapes, or by the Operator.
TARGET_LABELS = {"job", "instance", "namespace", "pod"}


def exported() -> Mapping[str, set[str]]:
    """Return each series name with its labels. `up` is Prometheus' own."""
    told = {name: set[str]() for name in METRIC_NAMES} | {"up": set[str]()}
    for family in registry(_one_of_each()).collect():
        for sample in family.samples:
            told.setdefault(sample.name, set()).update(sample.labels)
    return told


def _one_of_each() -> Metrics:
    metrics = Metrics(version="1", revocation_bound=5)
    metrics.check("forward-auth", "allow", "ok", 0.001)
    metrics.lookup("memory", "hit", 0.001)
    metrics.created(a_session())
    metrics.ended(a_session(), "revoked")
    metrics.touches("written", 1)
    metrics.binding_mismatch("ip", "deny")
    metrics.binding_revocation("revoked")
    metrics.pended("accepted")
    metrics.cleanups("purged", 1)
    metrics.audit_events("sealed", 1)
    metrics.lock("acquired")
    metrics.samples("taken")
    metrics.analytics(a_report())
    metrics.unreadable_record("redis")
    metrics.bad_request("gate")
    metrics.admin_request("/v1/sessions", "POST", 201)
    metrics.logout("idp", "ended")
    metrics.feed_up("redis", True)
    metrics.feed_gap("redis")
    metrics.feed_lag("redis", 0.001)
    metrics.watch_breaker("redis", lambda: "closed")
    return metrics
