"""The dashboard: imports anywhere, asks for metrics that exist, explains every panel."""

from __future__ import annotations

import json
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.deploy.exported import TARGET_LABELS, exported
from tests.deploy.files import DEPLOY, document, labels_asked, metrics_asked
from tests.deploy.promtool import promtool

if TYPE_CHECKING:
    from pathlib import Path

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/sidegate.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel, target) for panel in PANELS for target in panel["targets"]]

panels = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
queries = pytest.mark.parametrize(
    ("panel", "target"),
    QUERIES,
    ids=[f"{panel['title']} {target['refId']}" for panel, target in QUERIES],
)


def test_every_import_is_the_same_dashboard() -> None:
    assert DASHBOARD["id"] is None
    assert DASHBOARD["uid"] == "sidegate"


def test_the_datasource_is_the_viewers_choice_and_needs_no_answer_at_import() -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}

    assert variables["datasource"]["type"] == "datasource"
    assert DASHBOARD["__inputs"] == []  # provisioning would leave them unanswered


def test_the_panels_are_told_apart_and_lie_side_by_side() -> None:
    everything = DASHBOARD["panels"]

    assert len({panel["id"] for panel in everything}) == len(everything)
    for one, other in combinations((panel["gridPos"] for panel in everything), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@panels
def test_a_panel_explains_itself_and_names_its_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@queries
def test_a_query_asks_for_metrics_and_labels_that_exist(
    panel: dict[str, Any], target: dict[str, Any]
) -> None:
    known = exported()

    assert set(metrics_asked(target["expr"])) <= known.keys(), panel["title"]
    for metric, labels in labels_asked(target["expr"]):
        assert labels <= known[metric] | TARGET_LABELS, panel["title"]


@queries
def test_a_query_keeps_to_the_chosen_instances(
    panel: dict[str, Any], target: dict[str, Any]
) -> None:
    for metric, labels in labels_asked(target["expr"]):
        assert {"job", "instance"} <= labels, (panel["title"], metric)


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    shown = {metric for _, target in QUERIES for metric in metrics_asked(target["expr"])}
    ours = {name for name in exported() if name.startswith("sidegate_")}
    not_for_people = {name for name in ours if name.endswith(("_sum", "_count", "_bucket"))}
    redundant = {"sidegate_draining"}  # has an alert; a stopping instance is gone in seconds

    assert ours - shown - not_for_people - redundant == set()


def test_promtool_understands_every_query(tmp_path: Path) -> None:
    expressions = [target["expr"] for _, target in QUERIES]
    expressions += [each["expr"] for each in DASHBOARD["annotations"]["list"] if "expr" in each]
    plain = [each.replace("$__rate_interval", "1m").replace("$", "") for each in expressions]
    rules = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(plain)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    promtool("check", "rules", file)


def test_grafana_finds_the_dashboard_and_prometheus_where_compose_puts_them() -> None:
    services = document(DEPLOY / "compose/compose.yaml")["services"]
    (provider,) = document(DEPLOY / "grafana/provisioning/dashboards/sidegate.yaml")["providers"]
    (source,) = document(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    folder = provider["options"]["path"]

    assert f"../grafana/sidegate.json:{folder}/sidegate.json:ro" in services["grafana"]["volumes"]
    assert source["url"] == "http://prometheus:9090"
    assert set(services["grafana"]["networks"]) & set(services["prometheus"]["networks"])
