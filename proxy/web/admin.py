"""The admin door: who may ask what, and where it is answered."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import hdrs, web

from proxy.core.clock import Clock
from proxy.core.lifetimes import Lifetimes
from proxy.core.session_type import SessionType
from proxy.service.analytics import Analytics
from proxy.service.audit import Audit
from proxy.service.locks import Locks
from proxy.service.rotation import Rotation
from proxy.service.sessions import Sessions
from proxy.service.validator import Validator
from proxy.web import bodies
from proxy.web.admin_analytics import AnalyticsRoutes
from proxy.web.admin_audit import AUDIT_QUERY, AuditRoutes
from proxy.web.admin_auth import ApiKeys, Scope
from proxy.web.admin_locks import LockRoutes
from proxy.web.admin_many import PAGE_QUERY, PROVIDER_QUERY, ManySessionsRoutes
from proxy.web.admin_oauth2 import OAuth2Routes
from proxy.web.admin_rotation import RotationRoutes
from proxy.web.admin_sessions import SessionRoutes
from proxy.web.cursors import Cursors
from proxy.web.middleware import (
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
from proxy.web.problems import Mistake, invalid

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Patterns are given because aiohttp's own leaves out braces, which a user id may have.
_SESSION: Final = "/v1/sessions/{session_id:[^/]+}"
# Seconds for a request, more than the body alone may take.
_PATIENCE: Final = 15.0
_USER: Final = "/v1/users/{user_id:[^/]+}"
_LOGOUT: Final = "/oidc/backchannel-logout/{provider}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the table: `scope` is what a key needs, `query` which parameters there are.

    Without a scope no key is needed: the handler itself sees to who may ask.
    """

    method: str
    path: str
    scope: Scope | None
    handler: _Handler
    query: frozenset[str] = frozenset()


def admin_app(
    sessions: Sessions,
    rotation: Rotation,
    locks: Locks,
    validator: Validator,
    audit: Audit,
    analytics: Analytics,
    keys: ApiKeys,
    *,
    hosts: Iterable[str],
    lifetimes: Mapping[SessionType, Lifetimes],
    cursor_key: bytes,
    clock: Clock,
    on_request: OnRequest,
    patience: float = _PATIENCE,
    logout: _Handler | None = None,
) -> web.Application:
    """Build the application of the admin listener.

    `hosts` are the host names it answers to. `lifetimes` are those `sessions` works with, to refuse
    what they would shorten. `cursor_key` is 32 secret bytes every instance shares. `on_request` is
    told the route's template, the method and the status of each request. `patience` is how many
    seconds a request may take. `logout` answers identity providers, and finds which one as
    `request.match_info["provider"]`; without it there is no such route.
    """
    app = web.Application(
        client_max_size=bodies.LIMIT,
        middlewares=[
            accounted(on_request),
            rendered,
            host_checked(hosts),
            authenticated(keys, open_paths=[] if logout is None else [_LOGOUT]),
            timely(patience),
        ],
    )
    app.on_response_prepare.append(sign)
    cursors = Cursors(cursor_key)
    table = _table(
        SessionRoutes(sessions, lifetimes=lifetimes, clock=clock),
        ManySessionsRoutes(sessions, cursors, clock=clock),
        RotationRoutes(rotation, clock=clock),
        LockRoutes(locks),
        AuditRoutes(audit, cursors),
        AnalyticsRoutes(analytics),
        OAuth2Routes(sessions, validator),
    )
    if logout is not None:
        table = (*table, Endpoint("POST", _LOGOUT, None, logout))
    for path in dict.fromkeys(endpoint.path for endpoint in table):
        _add(app.router, path, [endpoint for endpoint in table if endpoint.path == path])
    # aiohttp's own 404 and 405 are not asked: they would answer an Expect line in their own way.
    nowhere = app.router.add_resource("/{anything:.*}", name=UNMATCHED)
    nowhere.add_route(hdrs.METH_ANY, _nowhere, expect_handler=expect)
    return app


def _table(
    one: SessionRoutes,
    many: ManySessionsRoutes,
    rotating: RotationRoutes,
    locking: LockRoutes,
    audit: AuditRoutes,
    analytics: AnalyticsRoutes,
    oauth2: OAuth2Routes,
) -> tuple[Endpoint, ...]:
    return (
        Endpoint("POST", "/v1/sessions", Scope.WRITE, one.create),
        Endpoint("GET", "/v1/sessions", Scope.READ, many.list_for_provider, PROVIDER_QUERY),
        Endpoint("GET", _SESSION, Scope.READ, one.show),
        Endpoint("POST", f"{_SESSION}/revoke", Scope.REVOKE, one.revoke),
        Endpoint("POST", f"{_SESSION}/touch", Scope.WRITE, one.touch),
        Endpoint("POST", f"{_SESSION}/sso", Scope.WRITE, rotating.migrate),
        Endpoint("POST", f"{_SESSION}/lock", Scope.WRITE, locking.acquire),
        Endpoint("PUT", f"{_SESSION}/lock", Scope.WRITE, locking.renew),
        Endpoint("DELETE", f"{_SESSION}/lock", Scope.WRITE, locking.release),
        Endpoint("POST", "/v1/refresh", Scope.WRITE, rotating.refresh),
        Endpoint("GET", f"{_USER}/sessions", Scope.READ, many.list_for_user, PAGE_QUERY),
        Endpoint("POST", f"{_USER}/revoke", Scope.REVOKE, many.revoke_for_user),
        Endpoint("POST", "/v1/revoke", Scope.REVOKE, many.revoke_where),
        Endpoint("GET", "/v1/audit", Scope.READ, audit.list_events, AUDIT_QUERY),
        Endpoint("GET", "/v1/analytics", Scope.READ, analytics.show),
        Endpoint("POST", "/oauth2/introspect", Scope.READ, oauth2.introspect),
        Endpoint("POST", "/oauth2/revoke", Scope.REVOKE, oauth2.revoke),
    )


def _add(router: web.UrlDispatcher, path: str, endpoints: Sequence[Endpoint]) -> None:
    """Open a path for the methods of its endpoints, and tell whoever comes with another."""
    handlers = {endpoint.method: _guarded(endpoint) for endpoint in endpoints}
    if hdrs.METH_GET in handlers:
        handlers[hdrs.METH_HEAD] = handlers[hdrs.METH_GET]

    async def wrong_method(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, handlers)

    resource = router.add_resource(path)
    for method, handler in (*handlers.items(), (hdrs.METH_ANY, wrong_method)):
        resource.add_route(method, handler, expect_handler=expect)


async def _nowhere(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


def _guarded(endpoint: Endpoint) -> _Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        if endpoint.scope is not None and endpoint.scope not in request[CALLER].scopes:
            raise insufficient(endpoint.scope)
        check_expectation(request)
        _check_query(request, endpoint.query)
        return await endpoint.handler(request)

    return handler


def _check_query(request: web.Request, known: frozenset[str]) -> None:
    query = request.rel_url.query
    mistakes = [Mistake(name, "no such parameter") for name in sorted(set(query) - known)]
    mistakes += [
        Mistake(name, "given twice") for name in sorted(known) if len(query.getall(name, [])) > 1
    ]
    if mistakes:
        raise invalid("invalid_query", mistakes)
