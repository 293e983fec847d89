"""Every error of the admin door, told as RFC 9457 problem+json."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

# Whoever sends a secret in the wrong place gets it neither back nor into a log.
_SECRET: Final = re.compile(r"sg[a-z]_[A-Za-z0-9_-]{8,}", re.ASCII)
_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with a request: where (`scopes.3`; empty: the whole of it) and what."""

    path: str
    message: str


class Problem(Exception):
    """Raise it anywhere beneath the admin door: the caller is answered with it.

    `code` is for programs and never changes its meaning; `detail` and `errors` are for people and
    repeat nothing the caller sent except field names. `more` are members of this code's own.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str | None = None,
        *,
        errors: Sequence[Mistake] = (),
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    def members(self) -> dict[str, Any]:
        """Return the members of the problem document."""
        members: dict[str, Any] = {
            "type": "about:blank",  # hence the title is the status's own, as RFC 9457 4.2.1 says
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
        }
        if self.detail is not None:
            members["detail"] = self.detail
        if self.errors:
            members["errors"] = [
                {"path": shown(mistake.path), "message": mistake.message} for mistake in self.errors
            ]
        return members | self.more


def invalid(code: str, errors: Sequence[Mistake]) -> Problem:
    """Return the problem of a request that can be read but not be meant."""
    return Problem(400, code, "the request has mistakes; `errors` lists them all", errors=errors)


def shown(text: str) -> str:
    """Return `text` as it may be shown: short, and without secrets."""
    return _SECRET.sub("(secret)", text)[:_SHOWN]


def respond(problem: Problem, **more: str) -> web.Response:
    """Write `problem`, with `more` members."""
    return web.Response(
        status=problem.status,
        body=json.dumps(problem.members() | more).encode("ascii"),
        content_type="application/problem+json",
        headers=problem.headers,
    )
