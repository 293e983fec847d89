"""What commands have in common: their options, the settings, the event loop."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sidegate.settings import Settings

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


def with_config(command: Command) -> Command:
    """Add `--config FILE`."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="Settings in YAML. SIDEGATE_* variables go before them.",
    )(command)


def with_output(command: Command) -> Command:
    """Add `-o json|table`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["json", "table"]),
        default="table",
        show_default=True,
        help="json for programs, table for people.",
    )(command)


def load(config: Path | None) -> "Settings":
    """Return the settings of the file and of this process's environment. SettingsError."""
    from sidegate import settings

    return settings.load(config, os.environ)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do asynchronous work to its end, and raise what went wrong, without the groups round it."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(work)
        except BaseExceptionGroup as group:
            raise _unwrapped(group) from None


def _unwrapped(error: BaseException) -> BaseException:
    """Return the one error in a task group's group; a group of several stays one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
