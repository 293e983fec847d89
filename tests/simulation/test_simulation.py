"""The simulation repeats a run exactly, finds each broken build, and finds nothing else."""

import os
import subprocess
import sys
import time
from hashlib import sha256
from itertools import count
from pathlib import Path
from random import SystemRandom

import click
import msgspec
import pytest
from click.testing import CliRunner

from tests.simulation.__main__ import main
from tests.simulation.broken_builds import BUILDS
from tests.simulation.faults import FAULTS
from tests.simulation.replay import BadToken, Replay
from tests.simulation.run import NOT_HELD, Outcome, Plan
from tests.simulation.search import search
from tests.simulation.shrinking import shrink
from tests.simulation.timeline import format_timeline, format_violations
from tests.simulation.workload import RATES

ROOT = Path(__file__).parents[2]

# CPU seconds for fresh seeds.
FRESH_SECONDS = 15.0
# Seeds that a broken build may take to be found, if the known one does not show it any more.
MAX_SEEDS = 60
# A run with all kinds of operations, and some faults.
SEED = "redis_restart:3"


def digest(outcome: Outcome) -> str:
    """Return the same text only for runs in which the same happened at the same times."""
    history = msgspec.json.encode(outcome.history, order="deterministic")
    return sha256(history + repr((outcome.events, outcome.steps)).encode()).hexdigest()


def test_fresh_seeds_hold() -> None:
    """A failure prints the token that repeats it: make it a regression test."""
    first, deadline = SystemRandom().randrange(10**9), time.process_time() + FRESH_SECONDS
    click.echo(f"fresh seeds from {first}")
    result = search(map(str, count(first)), is_time_left=lambda: time.process_time() < deadline)
    for replay, outcome in result.found:
        pytest.fail(
            f"./dev simulate --replay {replay.format()}\n{format_timeline(outcome)}\n"
            f"{format_violations(outcome.violations)}"
        )
    assert result.checks > 10 * len(result.seeds)


def test_equal_seeds_give_equal_runs() -> None:
    assert digest(Replay(SEED).run()) == digest(Replay(SEED).run())
    assert digest(Replay(SEED).run()) != digest(Replay("redis_restart:4").run())


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_run_does_not_depend_on_the_process(hash_seed: str) -> None:
    code = f"from tests.simulation.test_simulation import *\nprint(digest(Replay({SEED!r}).run()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == digest(Replay(SEED).run())


@pytest.mark.parametrize("name", BUILDS)
def test_broken_build_is_found(name: str) -> None:
    build = BUILDS[name]
    result = search(build.list_seeds(MAX_SEEDS), build=name)
    assert result.found, f"not in {len(result.seeds)} seeds"
    [(replay, outcome)] = result.found
    assert build.invariants & {each.invariant for each in outcome.violations}
    assert not Replay(replay.seed).run().violations  # without the bug it holds


def test_failure_is_shrunk_and_repeated_by_its_token() -> None:
    seeds = BUILDS["cache-decision"].list_seeds(MAX_SEEDS)
    [(replay, outcome)] = search(seeds, build="cache-decision").found
    invariant = outcome.violations[0].invariant

    small = shrink(replay, invariant, seconds=60.0)

    assert len(small.plan().steps) <= 5 < len(replay.plan().steps)
    repeated = Replay.parse(small.format()).run()
    assert digest(repeated) == digest(small.run())
    assert invariant in {each.invariant for each in repeated.violations}
    assert "revoke" in format_timeline(repeated)


@pytest.mark.parametrize("text", ["", "s0-abc", "s1-abc", "s1-!", "s1-eJw"])
def test_damaged_token_is_refused(text: str) -> None:
    with pytest.raises(BadToken):
        Replay.parse(text)


def test_command_prints_seeds_and_exits_with_0_if_all_hold() -> None:
    done = CliRunner().invoke(main, ["--first", "7", "--seeds", "1"])
    assert done.exit_code == 0, done.output
    assert "seeds from 7" in done.output
    assert "every invariant held" in done.output


def test_command_repeats_a_token() -> None:
    token = Replay("redis_slow:0", "cache-decision").format()
    done = CliRunner().invoke(main, ["--replay", token])
    assert done.exit_code == 1
    assert "I1 at" in done.output


def test_unknown_token_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["--replay", "s1-?"]).exit_code == 2


def test_plans_have_every_operation_and_fault() -> None:
    names = {step.name for seed in range(200) for step in Plan.draw(str(seed)).steps}
    assert names >= {*FAULTS, *RATES} - NOT_HELD
