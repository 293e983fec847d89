"""The alerts: right for promtool, about metrics that exist, each with a test and a runbook."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.deploy.exported import TARGET_LABELS, exported
from tests.deploy.files import (
    DEPLOY,
    ROOT,
    document,
    documents,
    labels_asked,
    metrics_asked,
)
from tests.deploy.promtool import promtool

GROUPS: list[dict[str, Any]] = document(DEPLOY / "prometheus/alerts.yaml")["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
TESTS = document(DEPLOY / "prometheus/alerts_test.yaml")["tests"]


def name_of(rule: dict[str, Any]) -> str:
    name: str = rule.get("alert") or rule["record"]
    return name


alerts = pytest.mark.parametrize("alert", ALERTS, ids=name_of)
rules = pytest.mark.parametrize("rule", RULES, ids=name_of)


def test_promtool_accepts_the_scrape_configuration_and_the_rules() -> None:
    promtool("check", "config", DEPLOY / "prometheus/prometheus.yaml")


def test_each_alert_fires_for_its_fault_and_for_nothing_else() -> None:
    promtool("test", "rules", DEPLOY / "prometheus/alerts_test.yaml")


@rules
def test_a_rule_asks_for_metrics_that_exist(rule: dict[str, Any]) -> None:
    known = exported().keys() | {each["record"] for each in RULES if "record" in each}

    assert set(metrics_asked(rule["expr"])) - known == set()


@rules
def test_a_rule_selects_by_labels_the_metric_has(rule: dict[str, Any]) -> None:
    known = exported()

    for metric, labels in labels_asked(rule["expr"]):
        assert labels <= known[metric] | TARGET_LABELS | {"le"}, metric


@alerts
def test_an_alert_has_a_test_in_which_it_fires(alert: dict[str, Any]) -> None:
    fired = {
        case["alertname"]
        for test in TESTS
        for case in test.get("alert_rule_test", ())
        if case["exp_alerts"]
    }

    assert alert["alert"] in fired


@alerts
def test_an_alert_has_a_test_in_which_it_stays_quiet(alert: dict[str, Any]) -> None:
    healthy = TESTS[0]["alert_rule_test"]

    assert {"alertname": alert["alert"], "eval_time": "90m", "exp_alerts": []} in healthy


@alerts
def test_an_alert_says_what_it_means_and_where_the_remedy_stands(alert: dict[str, Any]) -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)

    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
    assert alert["alert"] in headings


def test_the_operator_is_given_the_same_rules() -> None:
    (operator,) = (
        each
        for each in documents(DEPLOY / "kubernetes/monitoring.yaml")
        if each["kind"] == "PrometheusRule"
    )

    assert operator["spec"]["groups"] == GROUPS


@pytest.mark.parametrize("job", ["sidegate", "sidegate/sidegate"])
def test_the_alerts_know_the_job_under_both_of_its_names(job: str) -> None:
    (down,) = (each for each in ALERTS if each["alert"] == "SidegateInstanceDown")
    pattern = re.search(r'job=~"([^"]+)"', down["expr"])

    assert pattern
    assert re.fullmatch(pattern[1], job)
