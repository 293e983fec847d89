"""An admin listener for tests: a real HTTP server with SQLite stores in a file."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from aiohttp import ClientSession, hdrs, web
from yarl import URL

from sidegate.core.address import Address
from sidegate.core.errors import StoreUnavailable
from sidegate.core.lifetimes import DEFAULT_LIFETIMES, Lifetimes
from sidegate.core.limits import Limit
from sidegate.core.protocols import (
    AnalyticsStore,
    AuditLog,
    DurableStore,
    LogoutTokenStore,
    SessionLocks,
)
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.services.analytics import Analytics
from sidegate.services.audit_seal import AuditSealer
from sidegate.services.backchannel_logout import BackchannelLogout
from sidegate.services.locks import Locks
from sidegate.services.rotation import Rotation
from sidegate.services.rules import Rules, RulesInForce
from sidegate.services.sessions import Sessions
from sidegate.services.validator import Validator
from sidegate.stores.sqlite.analytics import SqliteAnalytics
from sidegate.stores.sqlite.audit import SqliteAudit
from sidegate.stores.sqlite.database import SqliteDatabase
from sidegate.stores.sqlite.locks import SqliteLocks
from sidegate.stores.sqlite.logout_tokens import SqliteLogoutTokens
from sidegate.stores.sqlite.sessions import SqliteSessions
from sidegate.web.admin.app import build_admin_app
from sidegate.web.admin.auth import ApiKey, ApiKeys, Scope
from sidegate.web.gateways.identity_headers import IdentityLimit, IdentityNames
from sidegate.web.server.listener import application_listener
from tests.support.clock import FakeClock
from tests.support.fakes import FakeLookup, know_idleness
from tests.support.operations import build_operations
from tests.web.admin.conformance import find_violations

CURSOR_KEY = bytes(range(32))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Breakable:
    """A store that can be made to fail or to hang; with `follows`, whenever that store does."""

    def __init__(self, store: object, *, follows: "Breakable | None" = None) -> None:
        self._store = store
        self._leader = follows or self
        self.failure: Exception | None = None
        self.hanging = False

    def break_store(self) -> None:
        self.failure = StoreUnavailable("sqlite", "broken on purpose")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._leader.hanging:
                await asyncio.Event().wait()
            if self._leader.failure is not None:
                raise self._leader.failure
            return await method(*args, **kwargs)

        return call


class NullEvents:
    """Counters that count nothing."""

    def created(self, session: Session) -> None: ...

    def ended(self, session: Session, cause: str) -> None: ...


@dataclass(frozen=True)
class Reply:
    """A response; `body` is its parsed JSON."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


class RequestCounter(list[tuple[str, str, int]]):
    """The requests passed to `on_request`; each sets `updated`."""

    def __init__(self) -> None:
        super().__init__()
        self.updated = asyncio.Event()

    def __call__(self, route: str, method: str, status: int) -> None:
        self.append((route, method, status))
        self.updated.set()


@dataclass
class AdminHarness:
    """An admin listener with its services. `keys` are by scope, and one with all scopes.

    `routes` are the methods and path templates that have a handler.
    """

    client: ClientSession
    port: int
    store: Breakable
    analytics: Analytics
    validator: Validator
    ring: KeyRing
    clock: FakeClock
    keys: Mapping[str, str]
    requests: RequestCounter
    routes: set[tuple[str, str]]
    rules: RulesInForce
    sessions: Sessions
    rotation: Rotation

    async def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = "all",
        headers: Iterable[tuple[str, str]] = (),
        **options: Any,
    ) -> Reply:
        """Send a request without normalising its path; check that OpenAPI describes the reply."""
        fields = list(headers)
        if key is not None:
            fields.append(("Authorization", f"Bearer {self.keys[key]}"))
        url = URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        async with self.client.request(method, url, headers=fields, **options) as response:
            reply = Reply(response.status, response.headers, await response.text())
        violations = find_violations(method, path, reply.status, reply.headers, reply.text)
        assert not violations, violations
        return reply

    async def create(self, user_id: str = "ada", **fields: Any) -> tuple[str, dict[str, Any]]:
        """Create a session with a request; return its token and its document."""
        reply = await self.call("POST", "/v1/sessions", json={"user_id": user_id, **fields})
        assert reply.status == 201, reply.text
        return reply.body["token"], reply.body["session"]

    def set_max_identity(self, size: int) -> None:
        """Set the limit of the identity headers, as a reload does."""
        limit = IdentityLimit(IdentityNames(), size)
        self.rules.current = replace(self.rules.current, check_identity=limit.check)

    async def post_raw(self, path: str, body: bytes, media_type: str = "application/json") -> Reply:
        return await self.call("POST", path, data=body, headers=[("Content-Type", media_type)])

    async def send(self, request: bytes) -> bytes:
        """Write `request` to a new connection, and return all bytes until it is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    def head(self, request_line: str, *lines: str) -> bytes:
        """Return a request head with valid host and API key, and more header `lines`."""
        start = [request_line, "Host: localhost", f"Authorization: Bearer {self.keys['all']}"]
        return "\r\n".join([*start, *lines, "", ""]).encode("latin-1")


@asynccontextmanager
async def open_admin(
    directory: Path,
    *,
    request_timeout: float = 5.0,
    lifetimes: Mapping[SessionType, Lifetimes] = DEFAULT_LIFETIMES,
    limits: Mapping[SessionType, Limit] = MappingProxyType({}),
    logout: Callable[[BackchannelLogout, FakeClock], Handler] | None = None,
    durable: DurableStore | None = None,
) -> AsyncIterator[AdminHarness]:
    """Open an admin listener with a new database in `directory`.

    `logout` builds the handler of back-channel logout. `durable` has the sessions, if they are not
    to be in that database, too.
    """
    file = await SqliteDatabase.open(directory / "sessions.db")
    breakable = Breakable(durable or SqliteSessions(file))
    store = cast("DurableStore", breakable)
    clock, ring = FakeClock(), KeyRing([TokenKey.generate()])
    events = NullEvents()
    rules = Rules(ring=ring, lifetimes=lifetimes, limits=limits)
    sessions, rotation, in_force = build_operations(store, rules, clock=clock, events=events)
    validator = Validator(
        FakeLookup(store),
        rules=in_force,
        clock=clock,
        deadline=5,
        require_idle_known=know_idleness,
    )
    trail = cast("AuditLog", Breakable(SqliteAudit(file), follows=breakable))
    audit = AuditSealer(trail, retention=timedelta(days=1), clock=clock, count=lambda _, __: None)
    samples = cast("AnalyticsStore", Breakable(SqliteAnalytics(file), follows=breakable))
    analytics = Analytics(
        samples,
        interval=timedelta(seconds=60),
        clock=clock,
        count=lambda _: None,
        on_report=lambda _: None,
    )
    session_locks = cast("SessionLocks", Breakable(SqliteLocks(file), follows=breakable))
    locks = Locks(
        session_locks,
        get=store.get,
        clock=clock,
        count=lambda _: None,
        has_ended=Session.has_ended,
    )
    logout_tokens = cast("LogoutTokenStore", Breakable(SqliteLogoutTokens(file), follows=breakable))
    backchannel_logout = BackchannelLogout(logout_tokens, sessions, clock=clock)
    texts, keys = {}, []
    for name, scopes in [("all", list(Scope)), *((str(scope), [scope]) for scope in Scope)]:
        texts[name], key = ApiKey.mint(name, scopes)
        keys.append(key)
    requests = RequestCounter()
    app = build_admin_app(
        sessions,
        rotation,
        locks=locks,
        validator=validator,
        audit=audit,
        analytics=analytics,
        keys=ApiKeys(keys),
        hosts=["127.0.0.1", "LOCALHOST", "::1"],
        lifetimes=lifetimes,
        cookie="__Host-session",
        cursor_key=CURSOR_KEY,
        clock=clock,
        on_request=requests,
        timeout=request_timeout,
        logout=None if logout is None else logout(backchannel_logout, clock),
    )
    try:
        async with application_listener(
            "admin", app, on_bad_request=lambda: None, checks_host=False
        ) as listener:
            port = (await listener.open(Address("127.0.0.1"))).port
            async with ClientSession() as client:
                routes = {
                    (route.method, resource.canonical)
                    for resource in app.router.resources()
                    for route in resource
                    if route.method != hdrs.METH_ANY  # responds with 405
                }
                yield AdminHarness(
                    client,
                    port,
                    breakable,
                    analytics,
                    validator,
                    ring,
                    clock,
                    texts,
                    requests,
                    routes,
                    in_force,
                    sessions,
                    rotation,
                )
            await listener.close(drain_timeout=1)
    finally:
        await file.close()
