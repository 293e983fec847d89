"""The alerts: accepted by promtool, on existing metrics, each with a test and a runbook."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.deploy.exported import TARGET_LABELS, exported_series
from tests.deploy.files import (
    DEPLOY,
    ROOT,
    find_metrics,
    find_selectors,
    read_document,
    read_documents,
)
from tests.deploy.promtool import run_promtool

GROUPS: list[dict[str, Any]] = read_document(DEPLOY / "prometheus/alerts.yaml")["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
TESTS = read_document(DEPLOY / "prometheus/alerts_test.yaml")["tests"]


def get_name(rule: dict[str, Any]) -> str:
    name: str = rule.get("alert") or rule["record"]
    return name


alerts = pytest.mark.parametrize("alert", ALERTS, ids=get_name)
rules = pytest.mark.parametrize("rule", RULES, ids=get_name)


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    run_promtool("check", "config", DEPLOY / "prometheus/prometheus.yaml")


def test_promtool_tests_of_the_alerts_pass() -> None:
    run_promtool("test", "rules", DEPLOY / "prometheus/alerts_test.yaml")


@rules
def test_rule_uses_existing_metrics(rule: dict[str, Any]) -> None:
    known = exported_series().keys() | {each["record"] for each in RULES if "record" in each}

    assert set(find_metrics(rule["expr"])) - known == set()


@rules
def test_rule_selects_by_existing_labels(rule: dict[str, Any]) -> None:
    known = exported_series()

    for metric, labels in find_selectors(rule["expr"]):
        assert labels <= known[metric] | TARGET_LABELS | {"le"}, metric


@alerts
def test_alert_has_a_test_in_which_it_fires(alert: dict[str, Any]) -> None:
    fired = {
        case["alertname"]
        for test in TESTS
        for case in test.get("alert_rule_test", ())
        if case["exp_alerts"]
    }

    assert alert["alert"] in fired


@alerts
def test_alert_has_a_test_in_which_it_does_not_fire(alert: dict[str, Any]) -> None:
    healthy = TESTS[0]["alert_rule_test"]

    assert {"alertname": alert["alert"], "eval_time": "90m", "exp_alerts": []} in healthy


@alerts
def test_alert_has_severity_description_and_runbook(alert: dict[str, Any]) -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)

    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
    assert alert["alert"] in headings


def test_prometheus_rule_of_the_operator_has_the_same_groups() -> None:
    (operator,) = (
        each
        for each in read_documents(DEPLOY / "kubernetes/monitoring.yaml")
        if each["kind"] == "PrometheusRule"
    )

    assert operator["spec"]["groups"] == GROUPS


@pytest.mark.parametrize("job", ["sidegate", "sidegate/sidegate"])
def test_alerts_match_both_names_of_the_job(job: str) -> None:
    (down,) = (each for each in ALERTS if each["alert"] == "SidegateInstanceDown")
    pattern = re.search(r'job=~"([^"]+)"', down["expr"])

    assert pattern
    assert re.fullmatch(pattern[1], job)
