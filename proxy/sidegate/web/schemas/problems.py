"""Every error of the admin door, told as RFC 9457 problem+json."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import web

from sidegate.web.schemas.documents import ProblemDocument

# Whoever sends a secret in the wrong place gets it neither back nor into a log.
_SECRET: Final = re.compile(r"sg[a-z]_[A-Za-z0-9_-]{8,}", re.ASCII)
_SHOWN: Final = 100

CODES: Final = {
    "invalid_request": (400, "mend what `errors` lists; unknown members are mistakes too"),
    "invalid_query": (
        400,
        "mend what `errors` lists; unknown parameters are mistakes too",
    ),
    "invalid_path": (400, "mend what `errors` lists"),
    "invalid_json": (400, "send JSON that can be meant in one way only"),
    "invalid_form": (400, "send a form that names no field twice"),
    "broken_body": (400, "send the body to its end"),
    "bad_host": (400, "send one `Host`"),
    "bad_target": (400, "send a target that begins with `/`"),
    "bad_request": (400, "send HTTP as RFC 9112 has it"),
    "invalid_token": (400, "the token cannot be refreshed: `detail` says why"),
    "invalid_idempotency_key": (400, "send one, of 1 to 255 printable ASCII characters"),
    "unauthenticated": (401, "send an API key; every path answers this to strangers"),
    "insufficient_scope": (403, "use a key with the scope that `WWW-Authenticate` names"),
    "host_not_allowed": (403, "add the host name to `admin.hosts`"),
    "not_found": (404, "there is no such session, or no such route"),
    "method_not_allowed": (405, "use one of the methods that `Allow` names"),
    "body_timeout": (408, "send the body within 10 seconds"),
    "conflict": (409, "the session kept changing: try again"),
    "session_ended": (409, "the session has ended; nothing was changed"),
    "session_exists": (409, "somebody has the session's token already; nothing was changed"),
    "limit_reached": (409, "the user has as many sessions as may live: end one first"),
    "locked": (409, "somebody else holds the lock: wait as `Retry-After` says"),
    "lock_lost": (409, "this lease does not hold the lock any more: stop what it was held for"),
    "body_too_large": (413, "send at most 64 KiB"),
    "unsupported_media_type": (415, "send the media type that `detail` names, in UTF-8"),
    "unsupported_encoding": (415, "send the body uncompressed"),
    "unknown_expectation": (417, "expect `100-continue`, or nothing"),
    "idempotency_key_reused": (422, "make a new key for each request"),
    "internal_error": (500, "look for `request_id` in the log"),
    "not_sampled_yet": (503, "nobody has counted the sessions yet: wait as `Retry-After` says"),
    "keys_unavailable": (503, "the provider's keys cannot be had now: send it again"),
    "outcome_unknown": (503, "it may have happened: look, or send the same again"),
    "store_unavailable": (503, "nothing is known: wait as `Retry-After` says, and try again"),
}
"""Every code there is, its status, and what to do. A code never changes its meaning."""


@dataclass(frozen=True, slots=True)
class FieldError:
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
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    def members(self) -> Mapping[str, object]:
        """Return the members of the problem document."""
        members: ProblemDocument = {
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
        return {**members, **self.more}


def invalid(code: str, errors: Sequence[FieldError]) -> Problem:
    """Return the problem of a request that can be read but not be meant."""
    return Problem(400, code, "the request has mistakes; `errors` lists them all", errors=errors)


def shown(text: str) -> str:
    """Return `text` as it may be shown: short, and without secrets."""
    return _SECRET.sub("(secret)", text)[:_SHOWN]


def respond(problem: Problem, **more: str) -> web.Response:
    """Write `problem`, with `more` members."""
    return web.Response(
        status=problem.status,
        body=json.dumps({**problem.members(), **more}).encode("ascii"),
        content_type="application/problem+json",
        headers=problem.headers,
    )
