"""The admin door: its table made a listener's application."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from aiohttp import hdrs, web

from sidegate.core.clock import Clock
from sidegate.core.lifetimes import Lifetimes
from sidegate.core.session_type import SessionType
from sidegate.services.analytics import Analytics
from sidegate.services.audit_seal import AuditSealer
from sidegate.services.locks import Locks
from sidegate.services.rotation import Rotation
from sidegate.services.sessions import Sessions
from sidegate.services.validator import Validator
from sidegate.web.admin import openapi
from sidegate.web.admin.accepted import accepted
from sidegate.web.admin.analytics import AnalyticsRoutes
from sidegate.web.admin.audit import AuditRoutes
from sidegate.web.admin.auth import ApiKeys
from sidegate.web.admin.bulk import ManySessionsRoutes
from sidegate.web.admin.document import DocumentRoutes
from sidegate.web.admin.locks import LockRoutes
from sidegate.web.admin.logout import LOGOUT, BackchannelLogoutRoute
from sidegate.web.admin.middleware import (
    CALLER,
    UNMATCHED,
    OnRequest,
    accounted,
    authenticated,
    check_expectation,
    expect,
    host_checked,
    insufficient,
    rendered,
    sign,
    timely,
)
from sidegate.web.admin.oauth2 import OAuth2Routes
from sidegate.web.admin.rotation import RotationRoutes
from sidegate.web.admin.route import Handler, Parameter, Route
from sidegate.web.admin.routes import TABLE
from sidegate.web.admin.sessions import SessionRoutes
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.pagination import Cursors
from sidegate.web.schemas.problems import FieldError, invalid

# Seconds for a request, more than the body alone may take.
_PATIENCE: Final = 15.0


def admin_app(
    sessions: Sessions,
    rotation: Rotation,
    locks: Locks,
    validator: Validator,
    audit: AuditSealer,
    analytics: Analytics,
    keys: ApiKeys,
    *,
    hosts: Iterable[str],
    lifetimes: Mapping[SessionType, Lifetimes],
    cursor_key: bytes,
    clock: Clock,
    on_request: OnRequest,
    patience: float = _PATIENCE,
    logout: Handler | None = None,
) -> web.Application:
    """Build the application of the admin listener.

    `hosts` are the host names it answers to. `lifetimes` are those `sessions` works with, to refuse
    what they would shorten. `cursor_key` is 32 secret bytes every instance shares. `on_request` is
    told the route's template, the method and the status of each request. `patience` is how many
    seconds a request may take. `logout` answers identity providers, and finds which one as
    `request.match_info["provider"]`; without it there is no such provider.
    """
    app = web.Application(
        client_max_size=bodies.LIMIT,
        middlewares=[
            accounted(on_request),
            rendered,
            host_checked(hosts),
            authenticated(keys, open_paths=[] if logout is None else [LOGOUT]),
            timely(patience),
            accepted,
        ],
    )
    app.on_response_prepare.append(sign)
    cursors = Cursors(cursor_key)
    rooms = (
        SessionRoutes(sessions, lifetimes=lifetimes, clock=clock),
        ManySessionsRoutes(sessions, cursors, clock=clock),
        RotationRoutes(rotation, clock=clock),
        LockRoutes(locks),
        AuditRoutes(audit, cursors),
        AnalyticsRoutes(analytics),
        OAuth2Routes(sessions, validator),
        BackchannelLogoutRoute(logout),
        DocumentRoutes(partial(openapi.document, TABLE)),
    )
    for path in dict.fromkeys(endpoint.path for endpoint in TABLE):
        _add(app.router, path, [endpoint for endpoint in TABLE if endpoint.path == path], rooms)
    # aiohttp's own 404 and 405 are not asked: they would answer an Expect line in their own way.
    nowhere = app.router.add_resource("/{anything:.*}", name=UNMATCHED)
    nowhere.add_route(hdrs.METH_ANY, _nowhere, expect_handler=expect)
    return app


def _add(
    router: web.UrlDispatcher, path: str, endpoints: Sequence[Route], rooms: Iterable[object]
) -> None:
    """Open a path for the methods of its endpoints, and tell whoever comes with another."""
    handlers = {each.method: _guarded(each, each.bound(rooms)) for each in endpoints}
    if hdrs.METH_GET in handlers:
        handlers[hdrs.METH_HEAD] = handlers[hdrs.METH_GET]

    async def wrong_method(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, handlers)

    # A pattern, because aiohttp's own leaves out braces, which a user id may have.
    resource = router.add_resource(path.replace("}", ":[^/]+}"))
    for method, handler in (*handlers.items(), (hdrs.METH_ANY, wrong_method)):
        resource.add_route(method, handler, expect_handler=expect)


async def _nowhere(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


def _guarded(endpoint: Route, handler: Handler) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        if endpoint.scope is not None and endpoint.scope not in request[CALLER].scopes:
            raise insufficient(endpoint.scope)
        check_expectation(request)
        _check_query(request, endpoint.query)
        return await handler(request)

    return guarded


def _check_query(request: web.Request, parameters: Iterable[Parameter]) -> None:
    query, known = request.rel_url.query, {parameter.name for parameter in parameters}
    mistakes = [FieldError(name, "no such parameter") for name in sorted(set(query) - known)]
    mistakes += [
        FieldError(name, "given twice") for name in sorted(known) if len(query.getall(name, [])) > 1
    ]
    if mistakes:
        raise invalid("invalid_query", mistakes)
