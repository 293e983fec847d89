"""Run `sidegate` commands in the deployment."""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.faults.history import now

# Seconds. A command takes one, and waits for an unavailable store for a few.
_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The outcome of a command. `exit_code` None: it did not end in time."""

    start: float
    end: float
    exit_code: int | None
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The JSON on stdout, or None."""
        try:
            return json.loads(self.stdout)
        except ValueError:
            return None


async def run_sidegate(*arguments: str, environment: Mapping[str, str]) -> CommandResult:
    """Run a command with JSON output, and return when it has ended or was killed."""
    start = now()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidegate", *arguments, "--output", "json"),
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    exit_code: int | None = None
    try:
        async with asyncio.timeout(_TIMEOUT):
            stdout, stderr = await process.communicate()
            exit_code = process.returncode
    except TimeoutError:
        process.kill()
        stdout, stderr = await process.communicate()
    return CommandResult(start, now(), exit_code, stdout.decode(), stderr.decode())
