"""The series Sidegate exports, with their labels, as a scrape shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidegate.observability.metrics import METRIC_NAMES, Metrics, build_registry
from tests.contracts.values import build_sample_report, build_session

if TYPE_CHECKING:
    from collections.abc import Mapping

# Added by Prometheus at a scrape, or by the Operator.
TARGET_LABELS = {"job", "instance", "namespace", "pod"}


# The values of labels that queries select by.
LABEL_VALUES = {
    "store": {"memory", "redis", "postgres", "sqlite"},
    "feed": {"redis", "postgres", "change_poller", "cache_follower"},
    "path": {"fast", "aiohttp"},
    "result": {"allow", "deny", "unavailable"},
    "mode": {"enforced", "shadow"},
}


def exported_series() -> Mapping[str, set[str]]:
    """Return each series name with its labels. `up` is added by Prometheus."""
    series = {name: set[str]() for name in METRIC_NAMES} | {"up": set[str]()}
    for family in build_registry(_record_one_of_each()).collect():
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


def _record_one_of_each() -> Metrics:
    metrics = Metrics(version="1", revocation_bound=5)
    metrics.record_check("forward-auth", "allow", reason="ok", seconds=0.001)
    metrics.count_shadow("rules[0]", ("deny", "scope"))
    metrics.record_lookup("memory", "hit", 0.001)
    metrics.created(build_session())
    metrics.ended(build_session(), "revoked")
    metrics.count_touches("written", 1)
    metrics.binding_mismatch("ip", "deny")
    metrics.binding_revocation("revoked")
    metrics.count_deferred_revocation("accepted")
    metrics.count_cleanups("purged", 1)
    metrics.count_audit_events("sealed", 1)
    metrics.count_lock("acquired")
    metrics.count_sample("taken")
    metrics.set_report(build_sample_report())
    metrics.count_unreadable_record("redis")
    metrics.count_bad_request("gate")
    metrics.count_admin_request("/v1/sessions", "POST", 201)
    metrics.count_logout("idp", "ended")
    metrics.set_feed_up("redis", True)
    metrics.count_feed_gap("redis")
    metrics.set_feed_lag("redis", 0.001)
    metrics.watch_breaker("redis", lambda: "closed")
    metrics.watch_redis_trust(is_trusted=lambda: True, age=lambda: 0.1)
    metrics.count_redis_invalidation("lapsed")
    metrics.count_seal("moved")
    metrics.count_database_restore()
    return metrics
