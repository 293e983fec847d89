"""Names of metrics, and the selection of metrics and goals by name."""

import pytest

from tests.bench.catalogue import GOALS, all_metrics, goals_about, with_references
from tests.bench.goals import AtMost, compared_metrics

NAMES = [metric.name for metric in all_metrics()]


def test_metric_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_goals_compare_known_metrics() -> None:
    assert set().union(*(compared_metrics(goal) for goal in GOALS)) <= set(NAMES)


def test_selected_benchmark_includes_its_references() -> None:
    assert with_references({"local"}) == {"local", "nginx", "aiohttp"}


def test_selected_reference_is_measured_alone() -> None:
    assert with_references({"nginx"}) == {"nginx"}


def test_unknown_name_is_rejected_with_the_available_names() -> None:
    with pytest.raises(ValueError, match=r"unknown metric hyperdrive; available: local, "):
        with_references({"local", "hyperdrive"})


def test_goals_with_unselected_metrics_are_left_out() -> None:
    assert goals_about({"local", "ready"}) == [AtMost("ready", 1.0)]
