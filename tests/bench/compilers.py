"""Build the programs in programs/ where a compiler is installed.

What is built is kept in .bench/, which Git ignores. Versions and hashes of the dependencies are in
go.sum and Cargo.lock.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.errors import NotMeasurable
from tests.support.sidegate import ROOT

_SOURCES: Final = Path(__file__).parent / "programs"
_BUILT: Final = ROOT / ".bench"
# Where compilers are installed without being on the PATH of every shell.
_DIRECTORIES: Final = ("/usr/local/go/bin", str(Path.home() / ".cargo/bin"))
# Seconds, for the download of the dependencies and the build.
_TIMEOUT: Final = 300
# Build with the installed Go; do not download the one that a dependency would like.
_ENVIRONMENT: Final = {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"}


def build_go(name: str) -> Path:
    """Return the path of a program in Go. Raise NotMeasurable if it cannot be built."""
    program = _BUILT / name
    _build("go", name, ["build", "-o", str(program), "."])
    return program


def build_rust(name: str) -> Path:
    """Return the path of a program in Rust. Raise NotMeasurable if it cannot be built."""
    directory = _BUILT / name
    _build(
        "cargo", name, ["build", "--quiet", "--release", "--locked", f"--target-dir={directory}"]
    )
    return directory / "release" / name


def _build(compiler: str, name: str, arguments: Sequence[str]) -> None:
    """Compilers build only what has changed: the second time takes no time."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_DIRECTORIES))
    command = shutil.which(compiler, path=path)
    if command is None:
        raise NotMeasurable(f"{compiler} is not installed")
    try:
        done = subprocess.run(
            [command, *arguments],
            check=False,
            cwd=_SOURCES / name,
            env=dict(os.environ) | _ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise NotMeasurable(f"{compiler} had not built it after {_TIMEOUT} s") from None
    if done.returncode != 0:
        raise NotMeasurable(f"{compiler} could not build it: {_last_line(done.stderr)}")


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "without a message")
