"""The demo: what `./dev demo --once` plays must go as it says."""

import subprocess
import sys
from pathlib import Path

TOUR = Path(__file__).parents[2] / "deploy" / "demo" / "tour.py"


def test_the_tour_goes_as_it_must() -> None:
    told = subprocess.run(
        [sys.executable, str(TOUR), "--once"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count("X-Auth-User: alice") == 3


def test_an_argument_it_does_not_know_is_told() -> None:
    told = subprocess.run([sys.executable, str(TOUR), "--twice"], capture_output=True, check=False)

    assert told.returncode == 2
