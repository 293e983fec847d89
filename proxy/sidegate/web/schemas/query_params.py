"""Read query parameters one by one, and report all their errors at once."""

import re
from collections.abc import Callable
from typing import Final, TypeVar

from aiohttp import web

from sidegate.web.schemas.problems import FieldError, validation_problem

T = TypeVar("T")

MAX_PAGE_SIZE: Final = 200
_PAGE_SIZE_PATTERN: Final = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)


class QueryReader:
    """The query parameters of one request; unknown names were refused before."""

    def __init__(self, request: web.Request) -> None:
        self._params = request.rel_url.query
        self._errors: list[FieldError] = []

    def read(self, name: str, parse: Callable[[str], T]) -> T | None:
        """Return the parsed parameter, or None if it is absent or `parse` raises ValueError.

        The error is kept for `raise_errors`.
        """
        if name not in self._params:
            return None
        try:
            return parse(self._params[name])
        except ValueError as error:
            self._errors.append(FieldError(name, str(error)))
            return None

    def add_error(self, name: str, message: str) -> None:
        """Keep an error that `read` cannot find, such as a conflict between parameters."""
        self._errors.append(FieldError(name, message))

    def raise_errors(self) -> None:
        """Raise Problem with all errors, if there are any."""
        if self._errors:
            raise validation_problem("invalid_query", self._errors)


def parse_page_size(text: str) -> int:
    """Return the page size in `text`. Raise ValueError if it is out of range."""
    if not _PAGE_SIZE_PATTERN.fullmatch(text) or int(text) > MAX_PAGE_SIZE:
        raise ValueError(f"must be a number from 1 to {MAX_PAGE_SIZE}")
    return int(text)


def parse_bool(text: str) -> bool:
    """Return the boolean in `text`. Raise ValueError if it is not `true` or `false`."""
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def choice_parser(kind: Callable[[str], T], *names: str) -> Callable[[str], T]:
    """Return a parser for one of `names`, which it converts to `kind`."""

    def parse(text: str) -> T:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return kind(text)

    return parse
