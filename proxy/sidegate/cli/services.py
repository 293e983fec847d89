"""Run a command on the services, with the validation of the admin API."""

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import click

from sidegate.cli.command import run_async
from sidegate.core.actor import Actor
from sidegate.core.session_type import SessionType

if TYPE_CHECKING:
    from datetime import datetime

    from sidegate.runtime.container import Container
    from sidegate.settings import Settings

T = TypeVar("T")

SESSION_TYPES: Final = click.Choice([type_.value for type_ in SessionType])


def report_database(settings: "Settings") -> None:
    """Print on stderr which database a command has changed."""
    from sidegate.runtime.database import describe_database

    click.echo(f"database: {describe_database(settings)}", err=True)


def change_with_services(settings: "Settings", action: "Callable[[Container], Awaitable[T]]") -> T:
    """Run an action as `run_with_services` does, and report the database that it has changed."""
    result = run_with_services(settings, action)
    report_database(settings)
    return result


def run_with_services(settings: "Settings", action: "Callable[[Container], Awaitable[T]]") -> T:
    """Open the services, run one action on them, close them, and return its result."""
    from sidegate.runtime import server

    async def run() -> T:
        async with server.open_services(settings) as container:
            return await action(container)

    return run_async(run())


def with_time(
    action: "Callable[[Container], Awaitable[T]]",
) -> "Callable[[Container], Awaitable[tuple[T, datetime]]]":
    """Return an action whose result comes with the time by the database's clock."""

    async def act(container: "Container") -> "tuple[T, datetime]":
        container.clock.now()  # raises before anything is changed
        return await action(container), container.clock.now()

    return act


@contextmanager
def report_usage_errors(parameter: str) -> Iterator[None]:
    """Raise click's usage error in place of a validation error of the admin API."""
    from sidegate.web.schemas.problems import Problem

    try:
        yield
    except Problem as problem:
        lines = [f"{error.path}: {error.message}" for error in problem.errors]
        raise click.UsageError("\n".join(lines)) from None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=parameter) from None


def current_actor() -> Actor:
    """Return the actor for the audit trail: the Unix user by name, or by number without a name.

    The user of a container often has no name.
    """
    import getpass

    try:
        return Actor(f"cli:{getpass.getuser()}")
    except (KeyError, OSError):
        return Actor(f"cli:uid-{os.getuid()}")
