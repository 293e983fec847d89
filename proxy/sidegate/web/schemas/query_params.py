"""Query parameters, read one by one; what is wrong with any of them is told at once."""

import re
from collections.abc import Callable
from typing import Final, TypeVar

from aiohttp import web

from sidegate.web.schemas.problems import FieldError, invalid

T = TypeVar("T")

LONGEST_PAGE: Final = 200
_LIMIT: Final = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)


class Query:
    """The parameters of one request. Which names there may be, the admin table has checked."""

    def __init__(self, request: web.Request) -> None:
        self._given = request.rel_url.query
        self._mistakes: list[FieldError] = []

    def read(self, name: str, kind: Callable[[str], T]) -> T | None:
        """Return what `kind` makes of a parameter; None: it is not there, or a mistake."""
        if name not in self._given:
            return None
        try:
            return kind(self._given[name])
        except ValueError as error:
            self._mistakes.append(FieldError(name, str(error)))
            return None

    def mistaken(self, name: str, why: str) -> None:
        """Note a mistake between parameters."""
        self._mistakes.append(FieldError(name, why))

    def must_be_right(self) -> None:
        """Raise the problem with all mistakes, if there are any."""
        if self._mistakes:
            raise invalid("invalid_query", self._mistakes)


def page(text: str) -> int:
    """Read how long a page may be."""
    if not _LIMIT.fullmatch(text) or int(text) > LONGEST_PAGE:
        raise ValueError(f"a number from 1 to {LONGEST_PAGE}")
    return int(text)


def flag(text: str) -> bool:
    """Read a yes or no."""
    if text not in ("true", "false"):
        raise ValueError("true or false")
    return text == "true"


def one_of(kind: Callable[[str], T], *names: str) -> Callable[[str], T]:
    """Return how to read one of a few words."""

    def read(text: str) -> T:
        if text not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return kind(text)

    return read
