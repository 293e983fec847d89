"""Asking the stores of the settings from the command line, by the rules of the admin API."""

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import click

from sidegate.cli.options import run
from sidegate.core.actor import Actor
from sidegate.core.session_type import SessionType

if TYPE_CHECKING:
    from sidegate.runtime.container import Container
    from sidegate.settings import Settings

T = TypeVar("T")

TYPES: Final = click.Choice([type_.value for type_ in SessionType])


def ask(settings: "Settings", verb: "Callable[[Container], Awaitable[T]]") -> T:
    """Do one thing on the stores of the settings, and close them again."""
    from sidegate.runtime import server as app

    async def work() -> T:
        async with app.open_services(settings) as house:
            return await verb(house)

    return run(work())


@contextmanager
def by_the_rules(what: str) -> Iterator[None]:
    """Tell what the admin API would refuse as a misspelled command."""
    from sidegate.web.schemas.problems import Problem

    try:
        yield
    except Problem as problem:
        mistakes = [f"{mistake.path}: {mistake.message}" for mistake in problem.errors]
        raise click.UsageError("\n".join(mistakes)) from None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=what) from None


def caller() -> Actor:
    """Return who did it, for the record: a container's user often has a number only."""
    import getpass

    try:
        return Actor(f"cli:{getpass.getuser()}")
    except (KeyError, OSError):
        return Actor(f"cli:uid-{os.getuid()}")
