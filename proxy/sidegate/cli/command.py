"""What most commands do: take `--config`, load the settings, and run on an event loop."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sidegate.core.errors import unwrap_group

if TYPE_CHECKING:
    from sidegate.settings import Settings

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class TryAgainLater(click.ClickException):
    """The command is not complete: another process is doing the same work."""

    exit_code = 75  # sysexits.h: temporary failure


def config_option(command: Command) -> Command:
    """Add `--config FILE`."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="Settings file, YAML. Without it: the file that SIDEGATE_CONFIG names, or"
        " /etc/sidegate/sidegate.yaml if it exists. SIDEGATE_* variables override it.",
    )(command)


def load_settings(config: Path | None) -> "Settings":
    """Return the settings of the file and of this process's environment.

    Raise SettingsError if they are wrong.
    """
    from sidegate import settings

    return settings.load(config, os.environ)


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine and return its result. A single error is raised without its task group."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(coroutine)
        except BaseExceptionGroup as group:
            raise unwrap_group(group) from None
