"""The metrics of the life of sessions."""

from typing import Final

from sidegate.observability.metrics.spec import MetricSpec, scalar

SESSIONS: Final = (
    MetricSpec(
        "sidegate_sessions_created",
        "counter",
        "Sessions created, by type.",
        ("type",),
        lambda metrics: metrics.sessions_created,
    ),
    MetricSpec(
        "sidegate_sessions_ended",
        "counter",
        "Sessions ended explicitly, by type and cause; not those that expired.",
        ("type", "cause"),
        lambda metrics: metrics.sessions_ended,
    ),
    MetricSpec(
        "sidegate_refreshes",
        "counter",
        "Refreshes: rotated, repeated (the same successor again) or refused.",
        ("outcome",),
        lambda metrics: metrics.refreshes,
    ),
    MetricSpec(
        "sidegate_touches",
        "counter",
        "Updates of last_seen: written, failed (and retried) or dropped.",
        ("outcome",),
        lambda metrics: metrics.touches,
    ),
    MetricSpec(
        "sidegate_cleanups",
        "counter",
        "Sessions purged after cleanup.retention, and failed attempts.",
        ("outcome",),
        lambda metrics: metrics.cleanups,
    ),
    MetricSpec(
        "sidegate_audit_events",
        "counter",
        "Audit events sealed, or deleted after audit.retention, and failed rounds.",
        ("outcome",),
        lambda metrics: metrics.audit_events,
    ),
    MetricSpec(
        "sidegate_locks",
        "counter",
        "Operations on session locks: acquired, contended, renewed, released or lost.",
        ("outcome",),
        lambda metrics: metrics.locks,
    ),
)

REVOCATIONS: Final = (
    MetricSpec(
        "sidegate_binding_mismatches",
        "counter",
        "Sessions presented by another client than they are bound to, by signal and policy.",
        ("signal", "policy"),
        lambda metrics: metrics.binding_mismatches,
    ),
    MetricSpec(
        "sidegate_binding_revocations",
        "counter",
        "Revocations for a binding mismatch: revoked, pending, failed or dropped.",
        ("outcome",),
        lambda metrics: metrics.binding_revocations,
    ),
    MetricSpec(
        "sidegate_deferred_revocations",
        "counter",
        "Revocations without the database: accepted, written later, or dropped.",
        ("outcome",),
        lambda metrics: metrics.deferred_revocations,
    ),
    MetricSpec(
        "sidegate_pending_revocations",
        "gauge",
        "Revocations in force and not yet in the database, as far as this process knows.",
        (),
        lambda metrics: scalar(metrics.pending()),
    ),
)
