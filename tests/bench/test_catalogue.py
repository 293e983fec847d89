"""Names: each thing has one, and the goals know no others."""

import pytest

from tests.bench.catalogue import GOALS, concerned_goals, things, with_partners
from tests.bench.goals import AtMost, wanted_by

NAMES = [thing.name for thing in things()]


def test_no_two_things_share_a_name() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_goals_are_about_things_that_can_be_measured() -> None:
    assert set().union(*(wanted_by(goal) for goal in GOALS)) <= set(NAMES)


def test_who_asks_for_a_road_gets_what_it_is_compared_with() -> None:
    assert with_partners({"local"}) == {"local", "nginx", "aiohttp"}


def test_who_asks_for_a_reference_gets_the_reference() -> None:
    assert with_partners({"nginx"}) == {"nginx"}


def test_a_name_that_nothing_has_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"nothing is called hyperdrive; there is local, "):
        with_partners({"local", "hyperdrive"})


def test_goals_about_what_is_not_wanted_are_no_concern() -> None:
    assert concerned_goals({"local", "ready"}) == [AtMost("ready", 1.0)]
