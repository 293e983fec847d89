"""Names of metrics, and the selection of metrics and goals by name."""

import pytest

from tests.bench.catalogue import GOALS, TAILS, all_names, goals_about, with_references
from tests.bench.goals import AtLeast, AtMost, AtMostTimes, compared_metrics

NAMES = all_names()


def test_metric_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_goals_compare_known_metrics() -> None:
    assert set().union(*(compared_metrics(goal) for goal in GOALS)) <= set(NAMES)


def test_selected_benchmark_includes_its_references() -> None:
    assert with_references({"local"}) == {"local", "nginx", "oauth2-proxy"}


def test_goal_about_the_cpu_time_of_a_call_includes_its_reference() -> None:
    assert with_references({"create"}) == {"create", "aiohttp"}
    assert goals_about({"create", "aiohttp"}) == [AtMostTimes("create:cpu", 4.5, "aiohttp:cpu")]


def test_selected_reference_is_measured_alone() -> None:
    assert with_references({"nginx"}) == {"nginx"}


def test_unknown_name_is_rejected_with_the_available_names() -> None:
    with pytest.raises(ValueError, match=r"unknown metric hyperdrive; available: local, "):
        with_references({"local", "hyperdrive"})


def test_goals_with_unselected_metrics_are_left_out() -> None:
    assert goals_about({"local", "ready"}) == [AtMost("ready", 1.0)]


def test_goals_about_tails_are_those_of_the_measured_numbers_of_sessions() -> None:
    goals = goals_about({TAILS}, (2_000,))

    assert AtLeast("sidegate-2k-3x:goodput", 0.9, "sidegate-2k-highest:goodput") in goals
    assert len(goals_about({TAILS})) == 3 * len(goals)
