"""What every request to the admin door goes through, from the outside in.

    accounted      an id for the request; its route, method and status are counted
    rendered       every error becomes a problem document; an unexpected one says nothing
    host_checked   the request was meant for us (DNS rebinding, request smuggling by target)
    authenticated  somebody we know is calling, or the route asks for other proof
    timely         the stores answer in time, or are told to be unavailable
    accepted       (accepted.py) a revocation that is pending is 202

The order is the one of `admin.admin_app`. What a stranger can learn is therefore 401, for every
path there is or is not, but for those that are open.
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
    AnotherRequest,
    Conflict,
    LimitReached,
    OutcomeUnknown,
    SessionEnded,
    SessionExists,
    StoreUnavailable,
    UnreadableRecord,
)
from sidegate.core.within import within
from sidegate.web.admin.auth import ApiKey, ApiKeys
from sidegate.web.schemas.problems import Problem, respond

OnRequest = Callable[[str, str, int], None]
"""Takes the route's template, the method and the status: each from a small, fixed set."""

CALLER: Final = web.RequestKey("caller", ApiKey)
UNMATCHED: Final = "unmatched"
"""The name of the resource for paths that lead nowhere, and their template in metrics."""

REQUEST_ID: Final = web.RequestKey("request_id", str)

# No underscore: whatever is sent as an id, it is not a token, and may be logged.
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9-]{8,64}", re.ASCII)
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?", re.ASCII)
_LOOKING: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})
_METHODS: Final = frozenset(hdrs.METH_ALL)
_REALM: Final = 'Bearer realm="sidegate-admin"'

_log: Final = logging.getLogger("sidegate.admin")


def accounted(on_request: OnRequest) -> Middleware:
    """Give the request an id and tell `on_request` how it ended."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        sent = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        response = await handler(request)
        resource = request.match_info.route.resource
        template = UNMATCHED
        if resource is not None and resource.name != UNMATCHED:
            template = resource.canonical
        method = request.method if request.method in _METHODS else "other"
        on_request(template, method, response.status)
        return response

    return middleware


@web.middleware
async def rendered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with a problem document that names the request."""
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001 - the last line: nothing leaves this door unrendered
        problem = _problem(error)
        if problem.status == 500:
            _log_crash(request, error)
        more = {"request_id": request[REQUEST_ID]}
        if request.path.startswith(("/oauth2/", "/oidc/")) and problem.status in _OAUTH_ERRORS:
            more["error"] = _OAUTH_ERRORS[problem.status]
        return respond(problem, **more)


def host_checked(hosts: Iterable[str]) -> Middleware:
    """Refuse requests for a host that is not one of ours. Ports are ignored, case too."""
    allowed = frozenset(_hostname(host) for host in hosts)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.raw_path.startswith("/"):  # absolute form names a host of its own
            raise Problem(400, "bad_target", "the request target begins with a slash")
        lines = request.headers.getall(hdrs.HOST, [])
        if len(lines) != 1 or not _HOST.fullmatch(lines[0]):
            raise Problem(400, "bad_host", "send one Host line with a host name")
        if _hostname(lines[0]) not in allowed:
            raise Problem(403, "host_not_allowed", "this host name is not in admin.hosts")
        return await handler(request)

    return middleware


def authenticated(keys: ApiKeys, *, open_paths: Collection[str] = ()) -> Middleware:
    """Let in only who presents one of `keys`; handlers find it as `request[CALLER]`.

    To routes whose template is in `open_paths` everybody is let in, and nobody is a caller there.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical in open_paths:
            return await handler(request)
        lines = request.headers.getall(hdrs.AUTHORIZATION, [])
        key = keys.authenticate(lines)
        if key is None:
            challenge = f'{_REALM}, error="invalid_token"' if lines else _REALM
            raise Problem(
                401,
                "unauthenticated",
                "send an API key as a bearer token",
                headers={hdrs.WWW_AUTHENTICATE: challenge},
            )
        request[CALLER] = key
        return await handler(request)

    return middleware


def timely(seconds: float) -> Middleware:
    """Give up on a store that is silent. A change that was asked of it may happen yet."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await within(seconds, "deadline", handler(request))
        except StoreUnavailable as outage:
            if outage.store != "deadline" or request.method in _LOOKING:
                raise
            raise OutcomeUnknown(outage.store, outage.why) from None

    return middleware


def insufficient(scope: str) -> Problem:
    """Return the problem of a caller whose key does not have `scope`."""
    challenge = f'{_REALM}, error="insufficient_scope", scope="{scope}"'
    return Problem(
        403,
        "insufficient_scope",
        f"this API key does not have the scope {scope}",
        headers={hdrs.WWW_AUTHENTICATE: challenge},
    )


async def sign(request: web.Request, response: web.StreamResponse) -> None:
    """Put the headers on that every answer has (an `on_response_prepare` signal)."""
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    response.headers[hdrs.SERVER] = "sidegate"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if REQUEST_ID in request:
        response.headers["X-Request-Id"] = request[REQUEST_ID]


async def expect(request: web.Request) -> None:
    """Ask for the body when the client waits for that; `check_expectation` refuses the rest."""
    # In place of aiohttp's own, whose refusal is plain text that repeats the header.
    if _waits_for_us(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # as aiohttp does: this is not yet the answer


def check_expectation(request: web.Request) -> None:
    """Refuse expectations nobody here can meet."""
    if hdrs.EXPECT in request.headers and not _waits_for_us(request):
        raise Problem(417, "unknown_expectation", "only 100-continue is known")


def _waits_for_us(request: web.Request) -> bool:
    return [line.lower() for line in request.headers.getall(hdrs.EXPECT)] == ["100-continue"]


def _hostname(host: str) -> str:
    spelled = _HOST.fullmatch(host)
    name = spelled[1] if spelled else host  # a bare IPv6 address, as settings may spell it
    return name.strip("[]").rstrip(".").lower()


# RFC 6749 5.2's names, for OAuth clients that look for `error`.
_OAUTH_ERRORS: Final = {
    400: "invalid_request",
    401: "invalid_client",
    403: "insufficient_scope",
    413: "invalid_request",
    415: "invalid_request",
    503: "temporarily_unavailable",
}


def _problem(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case OutcomeUnknown():
            detail = "it may have been done, or be done yet: look, or send it again"
            return Problem(503, "outcome_unknown", detail, headers={hdrs.RETRY_AFTER: "1"})
        case StoreUnavailable():
            return unavailable(error.store)
        case UnreadableRecord():  # a newer version wrote it, perhaps: no answer, and no absence
            _log.error("unreadable record", extra={"what": str(error)})
            return unavailable("unreadable")
        case SessionExists():
            return Problem(409, "session_exists", "a session with this id or token exists already")
        case LimitReached():
            return Problem(409, "limit_reached", f"{error}; end one of them first")
        case AnotherRequest():
            return Problem(
                422, "idempotency_key_reused", "this Idempotency-Key stands for another request"
            )
        case SessionEnded():
            return Problem(409, "session_ended", "the session has ended")
        case Conflict():
            return Problem(409, "conflict", "somebody else kept changing it; try again")
        case web.HTTPNotFound():
            return Problem(404, "not_found")
        case web.HTTPMethodNotAllowed():
            allow = ", ".join(sorted(error.allowed_methods))
            return Problem(405, "method_not_allowed", headers={hdrs.ALLOW: allow})
        case web.HTTPClientError():
            return Problem(400, "bad_request")
        case _:
            return Problem(500, "internal_error")


def unavailable(store: str) -> Problem:
    """Return the problem of a store that could not answer: nothing is known, try again."""
    detail = _NO_STORES.get(store, f"{store} cannot answer")
    return Problem(503, "store_unavailable", detail, headers={hdrs.RETRY_AFTER: "1"})


# What Unavailable names besides stores.
_NO_STORES: Final = {
    "deadline": "the stores did not answer in time",
    "unreadable": "a stored record cannot be read",
}


def _log_crash(request: web.Request, error: Exception) -> None:
    # Neither the error's text nor its arguments: a driver's error may repeat what it was given.
    _log.error(
        "request crashed",
        extra={
            "request_id": request[REQUEST_ID],
            "error": type(error).__name__,
            "where": "".join(traceback.format_tb(error.__traceback__)),
        },
    )
