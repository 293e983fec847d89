"""The shell blocks of a page, run as they are printed, with the addresses of test servers."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tests.support.processes import SCRIPTS, START_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# The servers that the blocks start in the background end with the script.
_STOP_ALL: Final = "trap 'trap \"\" TERM; kill 0; wait' EXIT\n"


def read_blocks(page: Path, heading: str) -> list[str]:
    """Return the ```sh blocks of a section of `page`, which begins with a heading of level 2."""
    section = page.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [block.partition("\n```")[0] for block in section.split("```sh\n")[1:]]


def run_blocks(
    blocks: Sequence[str],
    directory: Path,
    *,
    replaced: Mapping[str, str],
    programs: Sequence[Path] = (),
    environment: Mapping[str, str],
) -> list[str]:
    """Run the blocks in one shell in `directory`; return the lines of stdout.

    Each key of `replaced` has to occur, and is replaced. `programs` are directories of PATH. A
    command that fails ends the script, and the test.
    """
    script = "\n".join(blocks)
    for printed, actual in replaced.items():
        assert printed in script, f"the blocks do not contain {printed}"
        script = script.replace(printed, actual)
    path = [*map(str, programs), str(SCRIPTS), "/usr/sbin:/usr/bin:/sbin:/bin"]
    shell = {"PATH": ":".join(path), "HOME": str(directory), "LC_ALL": "C.UTF-8"}
    output, log = directory / "stdout", directory / "stderr"
    with output.open("wb") as stdout, log.open("wb") as stderr:
        process = subprocess.Popen(
            ["sh", "-eu", "-c", _STOP_ALL + script],
            cwd=directory,
            env=shell | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            exit_code = process.wait(2 * START_TIMEOUT)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert exit_code == 0, output.read_text() + log.read_text()
    return output.read_text().splitlines()
