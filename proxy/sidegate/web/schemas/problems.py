"""The errors of the admin API, as RFC 9457 problem documents."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import web

from sidegate.web.schemas.documents import ProblemDocument

# A token or key sent in the wrong place must not reappear in a response or a log.
_SECRET_PATTERN: Final = re.compile(r"sg[a-z]_[A-Za-z0-9_-]{8,}", re.ASCII)
_MAX_ECHO_LENGTH: Final = 100

PROBLEM_CODES: Final = {
    "invalid_request": (400, "Fix the members in `errors`; unknown members are errors too."),
    "invalid_query": (400, "Fix the parameters in `errors`; unknown parameters are errors too."),
    "invalid_path": (400, "Fix the path parameter in `errors`."),
    "invalid_json": (400, "Send valid UTF-8 JSON without duplicate member names."),
    "invalid_form": (400, "Send a valid UTF-8 form without duplicate fields."),
    "incomplete_body": (400, "Send the complete body."),
    "invalid_host": (400, "Send exactly one valid `Host` header."),
    "invalid_target": (400, "Send a request target that starts with `/`."),
    "bad_request": (400, "Send a valid HTTP request (RFC 9112)."),
    "invalid_token": (400, "The token cannot be refreshed; `detail` says why."),
    "identity_too_large": (400, "Create one with fewer scopes, or raise `gate.max_identity`."),
    "invalid_idempotency_key": (400, "Send one key of 1 to 255 printable ASCII characters."),
    "unauthenticated": (401, "Send a valid API key; without one, every path returns this."),
    "insufficient_scope": (403, "Use a key with the scope named in `WWW-Authenticate`."),
    "host_not_allowed": (403, "Add the host name to `admin.hosts`."),
    "not_found": (404, "There is no such resource or route."),
    "method_not_allowed": (405, "Use one of the methods in `Allow`."),
    "body_timeout": (408, "Send the body within 10 seconds."),
    "conflict": (409, "The session was modified concurrently. Try again."),
    "session_ended": (409, "The session has ended. Nothing was changed."),
    "session_exists": (409, "The session exists, and its token was issued. Nothing was changed."),
    "limit_reached": (409, "The user is at the session limit. Revoke a session first."),
    "locked": (409, "Another client holds the lock. Retry after `Retry-After` seconds."),
    "lock_lost": (409, "The lease no longer holds the lock. Stop the work it protects."),
    "body_too_large": (413, "Send at most 64 KiB."),
    "unsupported_media_type": (415, "Send the media type named in `detail`, in UTF-8."),
    "unsupported_encoding": (415, "Send the body without content encoding."),
    "expectation_failed": (417, "Send `Expect: 100-continue` or no `Expect` header."),
    "idempotency_key_reused": (422, "Use a new key for each request."),
    "internal_error": (500, "Look up `request_id` in the log."),
    "analytics_not_ready": (503, "No sample was taken yet. Retry after `Retry-After` seconds."),
    "keys_unavailable": (503, "The provider's keys could not be fetched. Send the token again."),
    "outcome_unknown": (503, "The change may or may not be applied. Check, or send it again."),
    "store_unavailable": (503, "A store is unavailable. Retry after `Retry-After` seconds."),
}
"""Each code with its status and what the client should do. A code never changes its meaning."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """A validation error: `path` names the member, as in `scopes.3`; empty means the document."""

    path: str
    message: str


class Problem(Exception):
    """An error response of the admin API; handlers and middleware raise it.

    `code` is for programs and never changes its meaning. `detail` and `errors` are for people and
    repeat nothing from the request but member names. `extensions` are members specific to `code`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        *,
        detail: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})

    def members(self) -> Mapping[str, object]:
        """Return the members of the problem document."""
        members: ProblemDocument = {
            "type": "about:blank",  # requires the status phrase as title (RFC 9457, 4.2.1)
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
        }
        if self.detail is not None:
            members["detail"] = self.detail
        if self.errors:
            members["errors"] = [
                {"path": redact(error.path), "message": error.message} for error in self.errors
            ]
        return {**members, **self.extensions}


def validation_problem(code: str, errors: Sequence[FieldError]) -> Problem:
    """Return the problem of a request that was parsed but has invalid values."""
    return Problem(
        400, code, detail="the request has validation errors; see `errors`", errors=errors
    )


def redact(text: str) -> str:
    """Return `text` shortened, with tokens and keys replaced."""
    return _SECRET_PATTERN.sub("(secret)", text)[:_MAX_ECHO_LENGTH]


def problem_response(problem: Problem, **members: str) -> web.Response:
    """Return `problem` as a response, with additional `members`."""
    return web.Response(
        status=problem.status,
        body=json.dumps({**problem.members(), **members}).encode("ascii"),
        content_type="application/problem+json",
        headers=problem.headers,
    )
