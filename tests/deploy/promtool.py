"""Run promtool, if it is installed (Debian: prometheus)."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.support.processes import skip_or_fail

if TYPE_CHECKING:
    from pathlib import Path


def run_promtool(*arguments: str | Path) -> None:
    """Run promtool, and fail the test with its output if it reports an error."""
    program = shutil.which("promtool")
    if program is None:
        skip_or_fail("promtool is not installed (Debian: apt-get install prometheus)")
    completed = subprocess.run(
        [program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout
