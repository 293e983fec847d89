"""The middleware of the admin API, from the outside in.

    track_requests   sets the request id, and reports route, method and status of each response
    render_errors    turns every error into a problem document
    check_host       refuses other hosts (DNS rebinding)
    authenticate     requires an API key, except on public paths
    limit_time       turns a slow request into an error
    respond_pending  (pending_revocation.py) turns a pending revocation into 202

`build_admin_app` applies them in this order. A client without a key therefore gets 401 for every
path that is not public, whether it exists or not.
"""

import logging
import re
import traceback
import uuid
from collections.abc import Callable, Collection, Iterable
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from sidegate.core.errors import (
    Conflict,
    IdempotencyKeyReused,
    IdentityTooLarge,
    LimitReached,
    OutcomeUnknown,
    SessionEnded,
    SessionExists,
    StoreUnavailable,
    UnreadableRecord,
)
from sidegate.core.timeouts import with_timeout
from sidegate.web.admin.auth import ApiKey, ApiKeys, KeyRefused
from sidegate.web.schemas.problems import Problem, problem_response

OnRequest = Callable[[str, str, int], None]
"""Called with route template, method and status: each from a fixed set, as metric labels are."""

CALLER: Final = web.RequestKey("caller", ApiKey)
UNMATCHED: Final = "unmatched"
"""The name of the resource for unknown paths, and their route template in metrics."""

REQUEST_ID: Final = web.RequestKey("request_id", str)

# Without underscore, so that a token or key sent as a request id does not match, and is not logged.
_REQUEST_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9-]{8,64}", re.ASCII)
_HOST_PATTERN: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?", re.ASCII)
_SAFE_METHODS: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})
_KNOWN_METHODS: Final = frozenset(hdrs.METH_ALL)
_REALM: Final = 'Bearer realm="sidegate-admin"'
# Where clients authenticate as OAuth clients do (RFC 6749, 2.3.1).
BASIC_PATHS: Final = "/oauth2/"
_BASIC_CHALLENGE: Final = ', Basic realm="sidegate-admin"'

_log: Final = logging.getLogger("sidegate.admin")


def track_requests(on_request: OnRequest) -> Middleware:
    """Set the request id, and report the response to `on_request`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        sent = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = sent if _REQUEST_ID_PATTERN.fullmatch(sent) else uuid.uuid4().hex
        response = await handler(request)
        resource = request.match_info.route.resource
        template = UNMATCHED
        if resource is not None and resource.name != UNMATCHED:
            template = resource.canonical
        method = request.method if request.method in _KNOWN_METHODS else "other"
        on_request(template, method, response.status)
        return response

    return middleware


@web.middleware
async def render_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Respond to every error with a problem document that has the request id."""
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001 - the outermost handler: every error is rendered
        problem = _to_problem(error)
        if problem.status == 500:
            _log_exception(request, error)
        members = {"request_id": request[REQUEST_ID]}
        if request.path.startswith(("/oauth2/", "/oidc/")) and problem.status in _OAUTH_ERRORS:
            members["error"] = _OAUTH_ERRORS[problem.status]
        return problem_response(problem, **members)


def check_host(hosts: Iterable[str]) -> Middleware:
    """Refuse requests whose `Host` is not one of `hosts`. Port and case are ignored."""
    allowed = frozenset(_normalize_host(host) for host in hosts)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.raw_path.startswith("/"):  # `OPTIONS *`, for example
            raise Problem(
                400, "invalid_target", detail="the request target must start with a slash"
            )
        lines = request.headers.getall(hdrs.HOST, [])
        if len(lines) != 1 or not _HOST_PATTERN.fullmatch(lines[0]):
            raise Problem(
                400, "invalid_host", detail="send exactly one Host header with a host name"
            )
        if _normalize_host(lines[0]) not in allowed:
            raise Problem(403, "host_not_allowed", detail="this host name is not in admin.hosts")
        return await handler(request)

    return middleware


def authenticate(keys: ApiKeys, *, public_paths: Collection[str] = ()) -> Middleware:
    """Require one of `keys`, and set it as `request[CALLER]`.

    Routes whose template is in `public_paths` need no key; `CALLER` is not set there.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical in public_paths:
            return await handler(request)
        lines = request.headers.getall(hdrs.AUTHORIZATION, [])
        takes_basic = request.path.startswith(BASIC_PATHS)
        try:
            request[CALLER] = keys.authenticate(lines, takes_basic=takes_basic)
        except KeyRefused as refused:
            challenge = f'{_REALM}, error="invalid_token"' if lines else _REALM
            raise Problem(
                401,
                "unauthenticated",
                detail=str(refused),
                headers={hdrs.WWW_AUTHENTICATE: challenge + _BASIC_CHALLENGE * takes_basic},
            ) from None
        return await handler(request)

    return middleware


def limit_time(seconds: float) -> Middleware:
    """Cancel requests after `seconds`. Raise OutcomeUnknown for those that may change something."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await with_timeout(handler(request), seconds, store="deadline")
        except StoreUnavailable as outage:
            if outage.store != "deadline" or request.method in _SAFE_METHODS:
                raise
            raise OutcomeUnknown(outage.store, outage.reason) from None

    return middleware


def insufficient_scope(scope: str) -> Problem:
    """Return the problem of an API key without `scope`."""
    challenge = f'{_REALM}, error="insufficient_scope", scope="{scope}"'
    return Problem(
        403,
        "insufficient_scope",
        detail=f"this API key does not have the scope {scope}",
        headers={hdrs.WWW_AUTHENTICATE: challenge},
    )


async def set_common_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers of every response (an `on_response_prepare` signal)."""
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    response.headers[hdrs.SERVER] = "sidegate"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if REQUEST_ID in request:
        response.headers["X-Request-Id"] = request[REQUEST_ID]


async def handle_expect(request: web.Request) -> None:
    """Send 100 Continue if the client expects it; `check_expectation` refuses the rest."""
    # Replaces aiohttp's handler, whose 417 is plain text and repeats the header.
    if _expects_continue(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # as aiohttp does: the response has not started


def check_expectation(request: web.Request) -> None:
    """Raise Problem for any expectation but 100-continue."""
    if hdrs.EXPECT in request.headers and not _expects_continue(request):
        raise Problem(417, "expectation_failed", detail="only 100-continue is supported")


def _expects_continue(request: web.Request) -> bool:
    return [line.lower() for line in request.headers.getall(hdrs.EXPECT)] == ["100-continue"]


def _normalize_host(host: str) -> str:
    match = _HOST_PATTERN.fullmatch(host)
    name = match[1] if match else host  # no match: an IPv6 address without brackets, from settings
    return name.strip("[]").rstrip(".").lower()


# Error codes of RFC 6749, section 5.2, for OAuth clients.
_OAUTH_ERRORS: Final = {
    400: "invalid_request",
    401: "invalid_client",
    403: "insufficient_scope",
    413: "invalid_request",
    415: "invalid_request",
    503: "temporarily_unavailable",
}


def _to_problem(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case OutcomeUnknown():
            detail = "the change may or may not be applied; check, or send it again"
            return Problem(503, "outcome_unknown", detail=detail, headers={hdrs.RETRY_AFTER: "1"})
        case StoreUnavailable():
            return store_unavailable(error.store)
        case UnreadableRecord():  # possibly written by a newer version: must not look like absence
            _log.error("unreadable record", extra={"reason": str(error)})
            return store_unavailable("unreadable")
        case SessionExists():
            return Problem(
                409, "session_exists", detail="a session with this id or token exists already"
            )
        case LimitReached():
            return Problem(409, "limit_reached", detail=f"{error}; revoke one of them first")
        case IdempotencyKeyReused():
            return Problem(
                422,
                "idempotency_key_reused",
                detail="this Idempotency-Key was used for another request",
            )
        case IdentityTooLarge():
            return Problem(400, "identity_too_large", detail=str(error))
        case SessionEnded():
            return Problem(409, "session_ended", detail="the session has ended")
        case Conflict():
            return Problem(
                409, "conflict", detail="the session was modified concurrently; try again"
            )
        case web.HTTPNotFound():
            return Problem(404, "not_found")
        case web.HTTPMethodNotAllowed():
            allow = ", ".join(sorted(error.allowed_methods))
            return Problem(405, "method_not_allowed", headers={hdrs.ALLOW: allow})
        case web.HTTPClientError():
            return Problem(400, "bad_request")
        case _:
            return Problem(500, "internal_error")


def store_unavailable(store: str) -> Problem:
    """Return the problem of an unavailable `store`."""
    detail = _OTHER_CAUSES.get(store, f"{store} is unavailable")
    return Problem(503, "store_unavailable", detail=detail, headers={hdrs.RETRY_AFTER: "1"})


# Names in StoreUnavailable and Unavailable that are not stores.
_OTHER_CAUSES: Final = {
    "clock": "the database's time is not known yet",
    "deadline": "the stores did not respond in time",
    "unreadable": "a stored record cannot be read",
    "activity": "other instances may not have written its activity yet",
}


def _log_exception(request: web.Request, error: Exception) -> None:
    # Without the error's text: a database driver may repeat the values of a query in it.
    _log.error(
        "unhandled exception",
        extra={
            "request_id": request[REQUEST_ID],
            "error": type(error).__name__,
            "traceback": "".join(traceback.format_tb(error.__traceback__)),
        },
    )
