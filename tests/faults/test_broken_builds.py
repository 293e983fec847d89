"""A rig that does not catch a build that is broken on purpose proves nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.broken import BUILDS

ROOT = Path(__file__).parents[2]

# Twenty seconds on a machine of its own.
PATIENCE = 180


def rig(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.faults", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("name", BUILDS)
def test_a_broken_build_is_caught(name: str) -> None:
    ran = rig("--broken", name)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    caught = [f": {invariant}: " in ran.stdout for invariant in BUILDS[name].invariants]
    assert all(caught), ran.stdout + ran.stderr


def test_a_fault_that_does_not_exist_is_refused() -> None:
    ran = rig("--only", "99")
    assert ran.returncode == 2
    assert "1 to 33" in ran.stderr
