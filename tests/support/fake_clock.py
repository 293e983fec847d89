"""Run a program whose wall clock is wrong, by libfaketime (Debian's package faketime)."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

_LIBRARY: Final = "faketime/libfaketime.so.1"


def find_fake_clock() -> Path | None:
    """Return the library that fakes the clock of a process, or None."""
    return next(Path("/usr/lib").glob(f"*/{_LIBRARY}"), None)


def fake_clock(library: Path, offset: timedelta) -> Mapping[str, str]:
    """Return the environment in which a process has a clock that is wrong by `offset`."""
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{offset.total_seconds():+.0f}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # a wrong clock still runs
    }
