"""The aiohttp application of the admin listener, built from the route table."""

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
from sidegate.web.admin.analytics import AnalyticsRoutes
from sidegate.web.admin.audit import AuditRoutes
from sidegate.web.admin.auth import ApiKeys
from sidegate.web.admin.bulk import BulkRoutes
from sidegate.web.admin.locks import LockRoutes
from sidegate.web.admin.logout import LOGOUT_PATH, BackchannelLogoutRoutes
from sidegate.web.admin.middleware import (
    CALLER,
    UNMATCHED,
    OnRequest,
    authenticate,
    check_expectation,
    check_host,
    handle_expect,
    insufficient_scope,
    limit_time,
    render_errors,
    set_common_headers,
    track_requests,
)
from sidegate.web.admin.oauth2 import OAuth2Routes
from sidegate.web.admin.openapi_route import OpenApiRoutes
from sidegate.web.admin.pending_revocation import respond_pending
from sidegate.web.admin.rotation import RotationRoutes
from sidegate.web.admin.route import Handler, Parameter, Route
from sidegate.web.admin.routes import ROUTES
from sidegate.web.admin.sessions import SessionRoutes
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.pagination import CursorCodec
from sidegate.web.schemas.problems import FieldError, validation_problem

# Seconds for a request. Longer than request_body.READ_TIMEOUT, which is part of it.
_REQUEST_TIMEOUT: Final = 15.0


def build_admin_app(
    sessions: Sessions,
    rotation: Rotation,
    *,
    locks: Locks,
    validator: Validator,
    audit: AuditSealer,
    analytics: Analytics,
    keys: ApiKeys,
    hosts: Iterable[str],
    lifetimes: Mapping[SessionType, Lifetimes],
    cookie: str | None,
    cursor_key: bytes,
    clock: Clock,
    on_request: OnRequest,
    timeout: float = _REQUEST_TIMEOUT,
    logout: Handler | None = None,
) -> web.Application:
    """Build the application of the admin listener.

    `hosts` are the accepted host names. `lifetimes` limit `expires_in`, and are those of
    `sessions`. `cookie` is the name of the session cookie, if there is one. `cursor_key` has 32
    secret bytes, the same on all instances. `on_request` is called after each request. `timeout` is
    in seconds, per request. `logout` handles back-channel logout, with the provider's name in
    `request.match_info["provider"]`; without it the route returns 404.
    """
    app = web.Application(
        client_max_size=bodies.MAX_SIZE,
        middlewares=[
            track_requests(on_request),
            render_errors,
            check_host(hosts),
            authenticate(keys, public_paths=[] if logout is None else [LOGOUT_PATH]),
            limit_time(timeout),
            respond_pending,
        ],
    )
    app.on_response_prepare.append(set_common_headers)
    cursors = CursorCodec(cursor_key)
    groups = (
        SessionRoutes(sessions, lifetimes=lifetimes, cookie=cookie, clock=clock),
        BulkRoutes(sessions, cursors, clock=clock),
        RotationRoutes(rotation, cookie=cookie, clock=clock),
        LockRoutes(locks),
        AuditRoutes(audit, cursors),
        AnalyticsRoutes(analytics),
        OAuth2Routes(sessions, validator),
        BackchannelLogoutRoutes(logout),
        OpenApiRoutes(partial(openapi.build_document, ROUTES)),
    )
    for path in dict.fromkeys(route.path for route in ROUTES):
        _add_path(
            app.router,
            path,
            routes=[route for route in ROUTES if route.path == path],
            groups=groups,
        )
    # aiohttp's own 404 and 405 responses would bypass `handle_expect`.
    unmatched = app.router.add_resource("/{path:.*}", name=UNMATCHED)
    unmatched.add_route(hdrs.METH_ANY, _not_found, expect_handler=handle_expect)
    return app


def _add_path(
    router: web.UrlDispatcher, path: str, *, routes: Sequence[Route], groups: Iterable[object]
) -> None:
    """Add a path with its `routes`; other methods get 405."""
    handlers = {route.method: _add_checks(route, route.bind(groups)) for route in routes}
    if hdrs.METH_GET in handlers:
        handlers[hdrs.METH_HEAD] = handlers[hdrs.METH_GET]

    async def method_not_allowed(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, handlers)

    # With an explicit pattern: aiohttp's default excludes braces, which a user id may contain.
    resource = router.add_resource(path.replace("}", ":[^/]+}"))
    for method, handler in (*handlers.items(), (hdrs.METH_ANY, method_not_allowed)):
        resource.add_route(method, handler, expect_handler=handle_expect)


async def _not_found(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


def _add_checks(route: Route, handler: Handler) -> Handler:
    async def checked(request: web.Request) -> web.StreamResponse:
        if route.scope is not None and route.scope not in request[CALLER].scopes:
            raise insufficient_scope(route.scope)
        check_expectation(request)
        _check_query(request, route.query)
        return await handler(request)

    return checked


def _check_query(request: web.Request, parameters: Iterable[Parameter]) -> None:
    query, known = request.rel_url.query, {parameter.name for parameter in parameters}
    errors = [FieldError(name, "unknown parameter") for name in sorted(set(query) - known)]
    errors += [
        FieldError(name, "duplicate parameter")
        for name in sorted(known)
        if len(query.getall(name, [])) > 1
    ]
    if errors:
        raise validation_problem("invalid_query", errors)
