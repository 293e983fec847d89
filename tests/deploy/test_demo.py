"""The demo, `./dev demo --once`: all responses are as expected."""

import subprocess
import sys
from pathlib import Path

TOUR = Path(__file__).parents[2] / "deploy" / "demo" / "tour.py"


def test_demo_succeeds() -> None:
    completed = subprocess.run(
        [sys.executable, str(TOUR), "--once"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.count("X-Auth-User: alice") == 3


def test_unknown_argument_exits_with_2() -> None:
    completed = subprocess.run(
        [sys.executable, str(TOUR), "--twice"], capture_output=True, check=False
    )

    assert completed.returncode == 2
