"""The metrics of the listeners and of the process."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from sidegate.observability.metrics.histogram import Histogram
from sidegate.observability.metrics.recorder import Labels, Metrics
from sidegate.observability.metrics.spec import MetricSpec, scalar


def _count_checks(metrics: Metrics) -> Mapping[Labels, int]:
    """Return the checks of both HTTP paths."""
    checks = Counter(metrics.checks)
    for gateway, counts in metrics.iter_fast_checks():
        checks.update({(gateway, *labels): count for labels, count in counts.items()})
    return checks


def _count_by_rule(metrics: Metrics) -> Mapping[Labels, int]:
    """Return the checks of each access rule, by its mode and their outcome."""
    checks: Counter[Labels] = Counter()
    for rules, counts in metrics.rule_checks.items():
        for by_labels in (counts.slow, *counts.fast.values()):
            for (result, reason), count in by_labels.items():
                outcome = _name_outcome(result, reason)
                checks.update({(rule, "enforced", outcome): count for rule in rules})
    for (rule, result, reason), count in metrics.shadow_checks.items():
        checks[rule, "shadow", _name_outcome(result, reason)] += count
    return checks


def _name_outcome(result: str, reason: str) -> str:
    return reason if reason == "anonymous" else result


def _measure_checks(metrics: Metrics) -> Mapping[Labels, Histogram]:
    """Return the durations by gateway. A hit in memory takes microseconds, counted as 0 seconds."""
    immediate: Counter[Labels] = Counter()
    for gateway, counts in metrics.iter_fast_checks():
        immediate[(gateway,)] += sum(counts.values())
    return {
        gateway: metrics.check_seconds[gateway].with_immediate(immediate[gateway])
        for gateway in {*metrics.check_seconds, *immediate}
    }


CHECKS: Final = (
    MetricSpec(
        "sidegate_checks",
        "counter",
        "Checks answered, by gateway protocol, result and reason.",
        ("gateway", "result", "reason"),
        _count_checks,
    ),
    MetricSpec(
        "sidegate_check_duration_seconds",
        "histogram",
        "Duration of a check (hits in memory are counted as 0 seconds).",
        ("gateway",),
        _measure_checks,
    ),
    MetricSpec(
        "sidegate_rule_checks",
        "counter",
        "Checks by access rule: allow, anonymous (allowed without a session), deny, unavailable. A"
        " target that can be read in several ways counts for each of its rules. Mode shadow: what a"
        " rule would answer that is not enforced; unchecked, if another rule made the target"
        " public, or the tenant is not known in an outage.",
        ("rule", "mode", "outcome"),
        _count_by_rule,
    ),
)

LISTENERS: Final = (
    MetricSpec(
        "sidegate_untrusted_peers",
        "counter",
        "Requests and refused connections to the gate from outside gate.trusted_peers.",
        (),
        lambda metrics: scalar(metrics.untrusted_peers),
    ),
    MetricSpec(
        "sidegate_gate_connections",
        "gauge",
        "Open connections to the gate, by HTTP path: fast, or aiohttp for other requests.",
        ("path",),
        lambda metrics: {(path,): count for path, count in metrics.connections().items()},
    ),
    MetricSpec(
        "sidegate_gate_connections_refused",
        "counter",
        "Connections to the gate above gate.max_connections, answered 503.",
        (),
        lambda metrics: scalar(metrics.connections_over_limit["gate", "refused"]),
    ),
    MetricSpec(
        "sidegate_connections_over_limit",
        "counter",
        "Connections above a limit of their listener: refused with 503, or evicted, which is an"
        " idle one closed for a new one.",
        ("listener", "outcome"),
        lambda metrics: metrics.connections_over_limit,
    ),
    MetricSpec(
        "sidegate_bad_requests",
        "counter",
        "Requests that were not HTTP, by listener.",
        ("listener",),
        lambda metrics: metrics.bad_requests,
    ),
    MetricSpec(
        "sidegate_admin_requests",
        "counter",
        "Requests to the admin API.",
        ("route", "method", "status"),
        lambda metrics: metrics.admin_requests,
    ),
    MetricSpec(
        "sidegate_logouts",
        "counter",
        "Back-channel logouts, by outcome: ended, no_session, invalid, replayed, rate_limited,"
        " unavailable.",
        ("provider", "outcome"),
        lambda metrics: metrics.logouts,
    ),
)

PROCESS: Final = (
    MetricSpec(
        "sidegate_build",
        "info",
        "The running version.",
        ("version",),
        lambda metrics: {(metrics.version,): 1},
    ),
    MetricSpec(
        "sidegate_config_last_reload_successful",
        "gauge",
        "1 if the settings read last were applied, 0 if they were wrong.",
        (),
        lambda metrics: scalar(metrics.reload_successful),
    ),
    MetricSpec(
        "sidegate_config_last_reload_success_timestamp_seconds",
        "gauge",
        "Time at which the settings in force were read.",
        (),
        lambda metrics: scalar(metrics.reloaded_at),
    ),
    MetricSpec(
        "sidegate_draining",
        "gauge",
        "1 while shutting down.",
        (),
        lambda metrics: scalar(metrics.draining()),
    ),
    MetricSpec(
        "sidegate_background_task_failures",
        "counter",
        "Unexpected errors of a background task, after each of which it was started again.",
        ("task",),
        lambda metrics: metrics.background_task_failures,
    ),
    MetricSpec(
        "sidegate_log_lines_dropped",
        "counter",
        "Log lines that were not written: the queue was full, because the log is read too slowly or"
        " not at all, or writing failed, for example because the disk is full.",
        ("cause",),
        lambda metrics: {(cause,): lines for cause, lines in metrics.dropped_log_lines().items()},
    ),
)
