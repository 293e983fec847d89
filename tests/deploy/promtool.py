"""Prometheus' own checker, where it is installed (Debian: prometheus)."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.support.processes import skip_or_fail

if TYPE_CHECKING:
    from pathlib import Path


def promtool(*arguments: str | Path) -> None:
    """Run it; the test fails with its words if it finds something."""
    program = shutil.which("promtool")
    if program is None:
        skip_or_fail("promtool is not installed (Debian: apt-get install prometheus)")
    ran = subprocess.run(
        [program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
