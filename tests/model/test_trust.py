"""The protocol of trust in Redis has no breach, and each of its elements prevents one."""

import random

import pytest
from click.testing import CliRunner

from tests.model.__main__ import main
from tests.model.protocol import ELEMENTS, Protocol
from tests.model.rows import SOUND, UNNEEDED, WITHOUT, Row
from tests.model.search import search
from tests.model.walks import find_breach

# States that a search visits at most.
_MAX_STATES = 12_000
_WALKS = 600


def _name(row: Row) -> str:
    return row.name


@pytest.mark.parametrize("row", SOUND, ids=_name)
def test_situation_has_no_breach(row: Row) -> None:
    found = search(row.first_world(), max_states=_MAX_STATES)

    assert found.breach is None


@pytest.mark.parametrize("row", WITHOUT, ids=_name)
def test_element_prevents_a_breach(row: Row) -> None:
    without = row._replace(without=(*row.without, row.name))

    found = search(without.first_world(), max_states=_MAX_STATES)

    assert found.breach is not None
    assert search(row.first_world(), max_states=found.states).breach is None


def test_each_element_has_a_row() -> None:
    names = [*(row.name for row in WITHOUT), *UNNEEDED, "in_one_step"]

    assert sorted(names) == sorted(ELEMENTS)


@pytest.mark.parametrize("instances", [1, 2])
def test_random_walks_find_no_breach(instances: int) -> None:
    found = find_breach(
        Protocol(),
        instances=instances,
        chance=random.Random(instances),
        may_go_on=lambda walks: walks < _WALKS,
    )

    assert found is None


def test_command_prints_the_steps_to_a_breach() -> None:
    result = CliRunner().invoke(main, ["--without", "compares_order", "--instances", "1"])

    assert result.exit_code == 1
    assert "instance 1 allows T" in result.output


def test_command_exits_with_0_without_a_breach() -> None:
    result = CliRunner().invoke(main, ["--minutes", "0"])

    assert result.exit_code == 0
    assert result.output == "no breach in 0 walks\n"
