"""The exported metrics: complete, of bounded cardinality, and without secrets."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidegate.core.analytics import ActiveSessions, Peak, Sample, Totals, Window, build_report
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.core.verdict import Reason
from sidegate.observability.metrics import METRIC_NAMES, METRICS, Metrics, build_registry
from sidegate.observability.metrics.histogram import BUCKETS
from tests.contracts.values import build_sample_report, build_session
from tests.support.clock import NOON

TOKEN = KeyRing([TokenKey(1, bytes(range(32)))]).mint(SessionType.WEB)
SESSION = build_session(user_id="ada@example.org", digest=TOKEN.digest())
GATEWAYS = ("auth-request", "forward-auth", "ext-authz")
STORES = ("memory", "redis", "postgres", "sqlite")
INVALIDATIONS = ("undelivered", "not followed", "position lost", "lapsed")
OUTAGES = ("redis", "postgres", "sqlite", "deadline", "unreadable")
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


class FakeMemory(list[int]):
    """A memory cache as the metrics read it."""

    hits = 7
    misses = 3
    size_bytes = 1000


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1.2.3", revocation_bound=5.0)


def record_one_of_each(metrics: Metrics, session: Session = SESSION) -> None:
    """Record one event of each kind, with every label value it can have."""
    for gateway in GATEWAYS:
        metrics.record_check(gateway, "allow", reason="ok", seconds=0.00005)
        for reason in Reason:
            metrics.record_check(gateway, "deny", reason=reason.value, seconds=0.001)
        for store in OUTAGES:
            metrics.record_check(gateway, "unavailable", reason=store, seconds=0.15)
    for store in STORES:
        for outcome in ("hit", "miss", "error"):
            metrics.record_lookup(store, outcome, 0.002)
        metrics.watch_breaker(store, lambda: "closed")
        metrics.watch_round_trips(store, lambda: 3)
        metrics.count_unreadable_record(store)
    metrics.watch_redis_trust(is_trusted=lambda: True, age=lambda: 0.1)
    for invalidation in INVALIDATIONS:
        metrics.count_redis_invalidation(invalidation)
    for change in ("moved", "begun"):
        metrics.count_seal(change)
    metrics.count_database_restore()
    for listener in ("gate", "admin", "ops"):
        metrics.count_bad_request(listener)
    for feed in ("redis", "postgres", "change_poller", "cache_follower"):
        metrics.set_feed_up(feed, up=True)
        metrics.count_feed_gap(feed)
        metrics.set_feed_lag(feed, 0.001)
    metrics.created(session)
    metrics.ended(session, "revoked")
    metrics.count_admin_request("/v1/sessions/{id}", "GET", 200)
    for outcome in (
        "ended",
        "no_session",
        "invalid",
        "replayed",
        "rate_limited",
        "unavailable",
    ):
        metrics.count_logout("idp", outcome)
    metrics.count_untrusted_peer()
    metrics.count_refused_connection()
    metrics.count_evicted_connection("ops")
    metrics.count_background_task_failure("analytics")
    metrics.watch_dropped_log_lines(lambda: {"full": 2, "failed": 1})
    metrics.watch_connections(lambda: {"fast": 2, "aiohttp": 1})
    for outcome in ("written", "failed", "dropped"):
        metrics.count_touches(outcome, 1)
        metrics.count_refresh(outcome)
    for outcome in ("purged", "failed"):
        metrics.count_cleanups(outcome, 1)
    for outcome in ("sealed", "deleted", "failed"):
        metrics.count_audit_events(outcome, 1)
    for outcome in ("acquired", "contended", "renewed", "lost", "released"):
        metrics.count_lock(outcome)
    for outcome in ("taken", "failed"):
        metrics.count_sample(outcome)
    metrics.set_report(build_sample_report())
    rules = metrics.count_by_rules(("static", "rules[1]"))
    rules.record_check("ext-authz", "deny", reason="scope", seconds=0.001)
    metrics.count_shadow("new", ("unchecked", "public"))
    metrics.binding_mismatch("ip", "deny")
    metrics.binding_revocation("revoked")
    metrics.count_deferred_revocation("accepted")


def scrape(metrics: Metrics) -> list[Metric]:
    """Return the families of a scrape, as Prometheus parses them."""
    return list(parse_text(generate_latest(build_registry(metrics)).decode()))


def series(families: Iterable[Metric]) -> Series:
    samples = [sample for family in families for sample in family.samples]
    values = {(each.name, frozenset(each.labels.items())): each.value for each in samples}
    assert len(values) == len(samples), "a series is exported twice"
    return values


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return series(scrape(metrics))[name, frozenset(labels.items())]


def select_own(families: Iterable[Metric]) -> list[Metric]:
    return [family for family in families if family.name.startswith("sidegate")]


def test_metric_names_lists_every_exported_series(metrics: Metrics) -> None:
    record_one_of_each(metrics)

    assert {name for name, _ in series(select_own(scrape(metrics)))} == METRIC_NAMES


def test_each_metric_is_declared_once() -> None:
    names = [spec.name for spec in METRICS]

    assert len(set(names)) == len(names)


def test_documented_names_are_exported() -> None:
    histograms = ("sidegate_check_duration_seconds", "sidegate_lookup_duration_seconds")
    documented = {
        *(name + ending for name in histograms for ending in ("_bucket", "_count", "_sum")),
        "sidegate_checks_total",
        "sidegate_store_up",
        "sidegate_circuit_breaker_state",
        "sidegate_unreadable_records_total",
        "sidegate_memory_sessions",
        "sidegate_sessions_created_total",
        "sidegate_sessions_ended_total",
        "sidegate_untrusted_peers_total",
        "sidegate_gate_connections",
        "sidegate_gate_connections_refused_total",
        "sidegate_memory_bytes",
        "sidegate_bad_requests_total",
        "sidegate_admin_requests_total",
        "sidegate_feed_up",
        "sidegate_feed_gaps_total",
        "sidegate_revocation_bound_seconds",
        "sidegate_draining",
        "sidegate_build_info",
    }

    assert documented <= METRIC_NAMES


def test_openmetrics_and_text_format_have_the_same_series(metrics: Metrics) -> None:
    record_one_of_each(metrics)
    text = generate_openmetrics(build_registry(metrics)).decode()  # type: ignore[no-untyped-call]  # untyped
    families = parse_openmetrics(text)  # type: ignore[no-untyped-call]  # untyped

    assert series(select_own(families)) == series(select_own(scrape(metrics)))


def test_first_scrape_is_well_formed(metrics: Metrics) -> None:
    families = select_own(scrape(metrics))

    assert all(family.documentation for family in families)
    assert all(family.type != "unknown" for family in families)
    assert value(metrics, "sidegate_untrusted_peers_total") == 0
    assert value(metrics, "sidegate_memory_sessions") == 0
    assert value(metrics, "sidegate_draining") == 0
    assert value(metrics, "sidegate_revocation_bound_seconds") == 5
    assert value(metrics, "sidegate_build_info", version="1.2.3") == 1


def test_process_and_platform_metrics_are_exported(metrics: Metrics) -> None:
    names = {family.name for family in scrape(metrics)}

    assert {"process_resident_memory_bytes", "python_info", "python_gc_collections"} <= names


def test_check_is_counted_by_gateway_result_and_reason(metrics: Metrics) -> None:
    for _ in range(3):
        metrics.record_check("ext-authz", "deny", reason="revoked", seconds=0.001)
    metrics.record_check("auth-request", "deny", reason="revoked", seconds=0.001)

    name, labels = "sidegate_checks_total", {"result": "deny", "reason": "revoked"}
    assert value(metrics, name, gateway="ext-authz", **labels) == 3
    assert value(metrics, name, gateway="auth-request", **labels) == 1


def test_fast_checks_are_counted_in_the_first_bucket(
    metrics: Metrics,
) -> None:
    tally = metrics.fast_check_counts("auth-request")
    for _ in range(3):
        tally["allow", "ok"] += 1
    tally["deny", "missing"] += 1
    metrics.record_check("auth-request", "allow", reason="ok", seconds=0.2)

    name, allowed = "sidegate_checks_total", {"result": "allow", "reason": "ok"}
    assert value(metrics, name, gateway="auth-request", **allowed) == 4
    seconds, gateway = "sidegate_check_duration_seconds", {"gateway": "auth-request"}
    assert value(metrics, f"{seconds}_bucket", le=str(BUCKETS[0]), **gateway) == 4
    assert value(metrics, f"{seconds}_count", **gateway) == 5
    assert value(metrics, f"{seconds}_sum", **gateway) == pytest.approx(0.2)


def test_check_is_counted_for_each_rule_and_once_for_its_gateway(metrics: Metrics) -> None:
    one, both = metrics.count_by_rules(("a",)), metrics.count_by_rules(("a", "b"))
    one.fast_check_counts("auth-request")["allow", "ok"] += 2
    one.fast_check_counts("ext-authz")["allow", "anonymous"] += 3
    both.fast_check_counts("auth-request")["deny", "missing"] += 4
    both.record_check("auth-request", "deny", reason="scope", seconds=0.2)
    metrics.fast_check_counts("auth-request")["allow", "ok"] += 5

    name = "sidegate_rule_checks_total"
    assert value(metrics, name, rule="a", mode="enforced", outcome="allow") == 2
    assert value(metrics, name, rule="a", mode="enforced", outcome="anonymous") == 3
    assert value(metrics, name, rule="a", mode="enforced", outcome="deny") == 5
    assert value(metrics, name, rule="b", mode="enforced", outcome="deny") == 5
    name, labels = "sidegate_checks_total", {"gateway": "auth-request"}
    assert value(metrics, name, result="allow", reason="ok", **labels) == 7
    assert value(metrics, name, result="deny", reason="scope", **labels) == 1
    assert value(metrics, "sidegate_check_duration_seconds_count", **labels) == 12


def test_counters_of_the_same_rules_are_the_same(metrics: Metrics) -> None:
    """After a reload, for example."""
    for _ in range(2):
        metrics.count_by_rules(("a",)).fast_check_counts("ext-authz")["allow", "ok"] += 1

    name = "sidegate_rule_checks_total"
    assert value(metrics, name, rule="a", mode="enforced", outcome="allow") == 2


def test_rules_in_shadow_are_counted_apart(metrics: Metrics) -> None:
    metrics.count_shadow("a", ("deny", "scope"))
    metrics.count_shadow("a", ("deny", "missing"))
    metrics.count_shadow("a", ("allow", "anonymous"))
    metrics.count_shadow("a", ("unchecked", "public"))

    name, labels = "sidegate_rule_checks_total", {"rule": "a", "mode": "shadow"}
    assert value(metrics, name, outcome="deny", **labels) == 2
    assert value(metrics, name, outcome="anonymous", **labels) == 1
    assert value(metrics, name, outcome="unchecked", **labels) == 1


def test_memory_lookups_are_exported_with_those_of_other_stores(metrics: Metrics) -> None:
    metrics.watch_memory(FakeMemory())
    metrics.record_lookup("redis", "hit", 0.001)

    name = "sidegate_lookup_duration_seconds_count"
    assert value(metrics, name, store="memory", outcome="hit") == 7
    assert value(metrics, name, store="memory", outcome="miss") == 3
    assert value(metrics, name, store="redis", outcome="hit") == 1
    assert value(metrics, "sidegate_memory_bytes") == 1000


def test_created_and_ended_sessions_are_counted_by_type(metrics: Metrics) -> None:
    for type_ in (SessionType.WEB, SessionType.API, SessionType.API):
        metrics.created(build_session(type=type_))
    metrics.ended(build_session(type=SessionType.API), "revoked")

    assert value(metrics, "sidegate_sessions_created_total", type="web") == 1
    assert value(metrics, "sidegate_sessions_created_total", type="api") == 2
    assert value(metrics, "sidegate_sessions_ended_total", type="api", cause="revoked") == 1


def test_analytics_gauges_show_the_last_report(metrics: Metrics) -> None:
    before = series(select_own(scrape(metrics)))
    metrics.set_report(build_sample_report(at=NOON - timedelta(days=1)))
    metrics.set_report(build_sample_report())

    assert not [name for name, _ in before if name.startswith("sidegate_analytics")]
    name = "sidegate_analytics"
    assert value(metrics, f"{name}_sample_timestamp_seconds") == NOON.timestamp()
    assert value(metrics, f"{name}_active_sessions", type="sso") == 2
    assert value(metrics, f"{name}_active_users") == 3
    assert value(metrics, f"{name}_peak_sessions", window="1h") == 10
    assert value(metrics, f"{name}_created_sessions", window="24h", type="web") == 1
    assert value(metrics, f"{name}_ended_sessions", window="7d", cause="idle") == 1
    duration = f"{name}_session_duration_seconds"
    assert value(metrics, duration, window="7d", measure="average") == 1


def test_duration_without_ended_sessions_is_not_exported(metrics: Metrics) -> None:
    nothing = Sample(NOON, ActiveSessions(), Totals())
    metrics.set_report(build_report(nothing, {"1h": Window(nothing, Peak(0, NOON))}))

    names = {name for name, _ in series(scrape(metrics))}
    assert "sidegate_analytics_session_duration_seconds" not in names
    assert value(metrics, "sidegate_analytics_active_sessions", type="web") == 0


@pytest.mark.parametrize(("state", "up"), [("closed", 1), ("half_open", 0), ("open", 0)])
def test_breaker_is_in_exactly_one_state(metrics: Metrics, state: str, up: int) -> None:
    metrics.watch_breaker("redis", lambda: state)

    states = {
        each: value(metrics, "sidegate_circuit_breaker_state", store="redis", state=each)
        for each in ("closed", "half_open", "open")
    }
    assert states == {each: float(each == state) for each in states}
    assert value(metrics, "sidegate_store_up", store="redis") == up


@pytest.mark.parametrize("is_trusted", [True, False])
@pytest.mark.parametrize("age", [0.25, math.inf])
def test_trust_in_redis_is_exported(metrics: Metrics, is_trusted: bool, age: float) -> None:
    metrics.watch_redis_trust(is_trusted=lambda: is_trusted, age=lambda: age)

    assert value(metrics, "sidegate_redis_trusted") == is_trusted
    assert value(metrics, "sidegate_redis_verified_age_seconds") == age


@pytest.mark.parametrize("name", ["sidegate_redis_trusted", "sidegate_redis_verified_age_seconds"])
def test_trust_in_redis_is_absent_without_redis(metrics: Metrics, name: str) -> None:
    assert (name, frozenset()) not in series(scrape(metrics))


def test_losses_of_trust_seals_and_restores_are_counted(metrics: Metrics) -> None:
    assert value(metrics, "sidegate_database_restores_total") == 0  # so that an increase is seen
    for reason in ("undelivered", "lapsed", "lapsed"):
        metrics.count_redis_invalidation(reason)
    metrics.count_seal("begun")
    metrics.count_database_restore()

    assert value(metrics, "sidegate_redis_invalidations_total", reason="undelivered") == 1
    assert value(metrics, "sidegate_redis_invalidations_total", reason="lapsed") == 2
    assert value(metrics, "sidegate_redis_seals_total", change="begun") == 1
    assert value(metrics, "sidegate_database_restores_total") == 1


def test_watched_sources_are_read_at_each_scrape(metrics: Metrics) -> None:
    sessions = FakeMemory()
    metrics.watch_memory(sessions)
    metrics.watch_draining(lambda: len(sessions) > 1)

    readings = []
    for _ in range(3):
        readings.append(
            (value(metrics, "sidegate_memory_sessions"), value(metrics, "sidegate_draining"))
        )
        sessions.append(0)

    assert readings == [(0, 0), (1, 0), (2, 1)]


def test_feed_state_and_gaps_are_exported_by_feed(metrics: Metrics) -> None:
    metrics.set_feed_up("redis", up=True)
    metrics.set_feed_up("change_poller", up=True)
    metrics.set_feed_up("redis", up=False)
    metrics.count_feed_gap("redis")
    metrics.set_feed_lag("redis", 0.001)

    assert value(metrics, "sidegate_feed_up", feed="redis") == 0
    assert value(metrics, "sidegate_feed_up", feed="change_poller") == 1
    assert value(metrics, "sidegate_feed_gaps_total", feed="redis") == 1


def test_buckets_cover_the_durations_of_a_cache() -> None:
    assert list(BUCKETS) == sorted(BUCKETS)
    assert (BUCKETS[0], BUCKETS[-1], len(BUCKETS)) == (0.0001, 2.5, 14)


durations = st.floats(0, 10, allow_nan=False)


@given(st.lists(durations, min_size=1, max_size=30))
def test_buckets_are_cumulative(seconds: list[float]) -> None:
    metrics = Metrics(version="", revocation_bound=0)
    for each in seconds:
        metrics.record_lookup("memory", "hit", each)

    labels = {("store", "memory"), ("outcome", "hit")}
    found = series(scrape(metrics))
    name = "sidegate_lookup_duration_seconds"
    buckets = {
        float(dict(bucket_labels)["le"]): count
        for (each_name, bucket_labels), count in found.items()
        if each_name == f"{name}_bucket"
    }
    bounds = sorted(buckets)
    assert bounds == [*BUCKETS, math.inf]
    assert all(buckets[low] <= buckets[high] for low, high in pairwise(bounds))
    assert buckets == {bound: sum(each <= bound for each in seconds) for bound in bounds}
    assert found[f"{name}_count", frozenset(labels)] == len(seconds)
    assert found[f"{name}_sum", frozenset(labels)] == pytest.approx(sum(seconds))


def test_labels_hold_no_token_user_or_session(metrics: Metrics) -> None:
    record_one_of_each(metrics)

    text = generate_latest(build_registry(metrics)).decode()

    for secret in (TOKEN.text[4:16], SESSION.digest.hex(), SESSION.user_id, SESSION.id):
        assert secret not in text
    assert not re.search(r"sg[wmavs]_", text)


def test_number_of_series_does_not_depend_on_the_number_of_users(metrics: Metrics) -> None:
    record_one_of_each(metrics)
    before = series(select_own(scrape(metrics))).keys()
    for number in range(1000):
        record_one_of_each(metrics, build_session(user_id=f"user {number}"))

    assert series(select_own(scrape(metrics))).keys() == before
    assert len(before) < 500  # a scrape runs on the event loop of the checks


def test_label_names_and_values_are_a_fixed_set(metrics: Metrics) -> None:
    record_one_of_each(metrics)

    values: defaultdict[str, set[str]] = defaultdict(set)
    for _, labels in series(select_own(scrape(metrics))):
        for name, each in labels:
            values[name].add(each)

    assert values.keys() == {
        "gateway", "result", "reason", "store", "outcome", "state", "type", "cause", "listener",
        "route", "method", "status", "feed", "version", "le", "signal", "policy", "path",
        "provider", "window", "measure", "change", "task", "rule", "mode",
    }  # fmt: skip
    assert values["result"] == {"allow", "deny", "unavailable"}
    of_checks = {"ok", *(reason.value for reason in Reason), *OUTAGES}
    assert values["reason"] == of_checks | set(INVALIDATIONS)
