"""The dashboard: can be imported, queries existing metrics, and describes every panel."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.deploy.exported import LABEL_VALUES, TARGET_LABELS, exported_series
from tests.deploy.files import DEPLOY, find_metrics, find_selectors, read_document
from tests.deploy.promtool import run_promtool

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


def test_dashboard_has_a_uid_and_no_id() -> None:
    assert DASHBOARD["id"] is None
    assert DASHBOARD["uid"] == "sidegate"


def test_datasource_is_a_variable_and_not_an_input() -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}

    assert variables["datasource"]["type"] == "datasource"
    assert DASHBOARD["__inputs"] == []  # provisioning would not fill them


def test_panels_have_unique_ids_and_do_not_overlap() -> None:
    everything = DASHBOARD["panels"]

    assert len({panel["id"] for panel in everything}) == len(everything)
    for one, other in combinations((panel["gridPos"] for panel in everything), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@panels
def test_panel_has_a_description_and_a_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@queries
def test_query_uses_existing_metrics_and_labels(
    panel: dict[str, Any], target: dict[str, Any]
) -> None:
    known = exported_series()

    assert set(find_metrics(target["expr"])) <= known.keys(), panel["title"]
    for metric, labels in find_selectors(target["expr"]):
        assert labels <= known[metric] | TARGET_LABELS, panel["title"]


@queries
def test_query_selects_existing_label_values(panel: dict[str, Any], target: dict[str, Any]) -> None:
    for label, known in LABEL_VALUES.items():
        selected = re.findall(rf'\b{label}!?="([^"$]*)"', target["expr"])
        assert set(selected) <= known, panel["title"]


@queries
def test_query_selects_the_chosen_instances(panel: dict[str, Any], target: dict[str, Any]) -> None:
    for metric, labels in find_selectors(target["expr"]):
        assert {"job", "instance"} <= labels, (panel["title"], metric)


def test_every_sidegate_metric_is_on_the_dashboard() -> None:
    shown = {metric for _, target in QUERIES for metric in find_metrics(target["expr"])}
    ours = {name for name in exported_series() if name.startswith("sidegate_")}
    parts_of_histograms = {name for name in ours if name.endswith(("_sum", "_count", "_bucket"))}
    redundant = {"sidegate_draining"}  # has an alert; a draining instance stops within seconds

    assert ours - shown - parts_of_histograms - redundant == set()


def test_promtool_accepts_every_query(tmp_path: Path) -> None:
    expressions = [target["expr"] for _, target in QUERIES]
    expressions += [each["expr"] for each in DASHBOARD["annotations"]["list"] if "expr" in each]
    plain = [each.replace("$__rate_interval", "1m").replace("$", "") for each in expressions]
    rules = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(plain)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))

    run_promtool("check", "rules", file)


def test_provisioning_matches_the_mounts_of_compose() -> None:
    services = read_document(DEPLOY / "compose/compose.yaml")["services"]
    (provider,) = read_document(DEPLOY / "grafana/provisioning/dashboards/sidegate.yaml")[
        "providers"
    ]
    (source,) = read_document(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")[
        "datasources"
    ]
    folder = provider["options"]["path"]

    assert f"../grafana/sidegate.json:{folder}/sidegate.json:ro" in services["grafana"]["volumes"]
    assert source["url"] == "http://prometheus:9090"
    assert set(services["grafana"]["networks"]) & set(services["prometheus"]["networks"])
