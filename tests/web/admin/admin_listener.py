"""The admin door of a test: a real HTTP server over a real store in a file."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from aiohttp import ClientSession, hdrs, web
from uuid_utils import uuid7
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
from sidegate.core.session import Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.services.analytics import Analytics
from sidegate.services.audit_seal import AuditSealer
from sidegate.services.backchannel_logout import BackchannelLogout
from sidegate.services.locks import Locks
from sidegate.services.rotation import Rotation
from sidegate.services.session_context import SessionContext
from sidegate.services.sessions import Sessions
from sidegate.services.validator import OnAllowed, Validator
from sidegate.stores.sqlite.analytics import SqliteAnalytics
from sidegate.stores.sqlite.audit import SqliteAudit
from sidegate.stores.sqlite.database import SqliteDatabase
from sidegate.stores.sqlite.locks import SqliteLocks
from sidegate.stores.sqlite.logout_tokens import SqliteLogoutTokens
from sidegate.stores.sqlite.sessions import SqliteSessions
from sidegate.web.admin.app import admin_app
from sidegate.web.admin.auth import ApiKey, ApiKeys, Scope
from sidegate.web.server.listener import application_listener
from tests.support.clock import FakeClock
from tests.web.admin.described import breaches

CURSOR_KEY = bytes(range(32))
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Breakable:
    """A store that cannot answer while it is broken, or fails as it is told; `like` another."""

    def __init__(self, store: object, *, like: "Breakable | None" = None) -> None:
        self._store = store
        self._like = like or self
        self.failure: Exception | None = None
        self.silent = False

    def breaks(self) -> None:
        self.failure = StoreUnavailable("sqlite", "broken on purpose")

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)

        async def asked(*args: Any, **named: Any) -> Any:
            if self._like.silent:
                await asyncio.Event().wait()
            if self._like.failure is not None:
                raise self._like.failure
            return await verb(*args, **named)

        return asked


class Silence:
    """A feed nobody follows, and events nobody counts."""

    async def publish(self, sessions: Iterable[Session]) -> None: ...

    def created(self, session: Session) -> None: ...

    def ended(self, session: Session, cause: str) -> None: ...


@dataclass(frozen=True)
class Reply:
    """What came back: `body` is the JSON in it, if there is any."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


class Counted(list[tuple[str, str, int]]):
    """The requests the door has told of; `another` is set at each."""

    def __init__(self) -> None:
        super().__init__()
        self.another = asyncio.Event()

    def __call__(self, route: str, method: str, status: int) -> None:
        self.append((route, method, status))
        self.another.set()


@dataclass
class Door:
    """The door and what is behind it. `keys` holds a key of all scopes and one of each.

    `routes` are the methods and templates it has a handler for.
    """

    client: ClientSession
    port: int
    store: Breakable
    sessions: Sessions
    analytics: Analytics
    validator: Validator
    ring: KeyRing
    clock: FakeClock
    keys: Mapping[str, str]
    counted: Counted
    routes: set[tuple[str, str]]

    async def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = "all",
        headers: Iterable[tuple[str, str]] = (),
        **about: Any,
    ) -> Reply:
        """Send a request as it stands: the path is not normalised. The document knows the reply."""
        lines = list(headers)
        if key is not None:
            lines.append(("Authorization", f"Bearer {self.keys[key]}"))
        url = URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        async with self.client.request(method, url, headers=lines, **about) as response:
            reply = Reply(response.status, response.headers, await response.text())
        wrong = breaches(method, path, reply.status, reply.headers, reply.text)
        assert not wrong, wrong
        return reply

    async def create(self, user_id: str = "ada", **fields: Any) -> tuple[str, dict[str, Any]]:
        """Create a session through the door; return its token and its document."""
        reply = await self.call("POST", "/v1/sessions", json={"user_id": user_id, **fields})
        assert reply.status == 201, reply.text
        return reply.body["token"], reply.body["session"]

    async def post_raw(self, path: str, body: bytes, kind: str = "application/json") -> Reply:
        return await self.call("POST", path, data=body, headers=[("Content-Type", kind)])

    async def send(self, sent: bytes) -> bytes:
        """Write bytes to a connection of their own and return all that comes until its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(sent)
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    def head(self, request_line: str, *lines: str) -> bytes:
        """Return a request's head that the door would let in."""
        own = [request_line, "Host: localhost", f"Authorization: Bearer {self.keys['all']}"]
        return "\r\n".join([*own, *lines, "", ""]).encode("latin-1")


@asynccontextmanager
async def admin_door(
    directory: Path,
    *,
    patience: float = 5.0,
    lifetimes: Mapping[SessionType, Lifetimes] = DEFAULT_LIFETIMES,
    seen: OnAllowed = lambda _, __: None,
    limits: Mapping[SessionType, Limit] = MappingProxyType({}),
    logout: Callable[[BackchannelLogout, FakeClock], Handler] | None = None,
) -> AsyncIterator[Door]:
    """Open a door over the store in that directory, empty at first.

    `logout` makes what listens to identity providers, by the clock of the door.
    """
    file = await SqliteDatabase.open(directory / "sessions.db")
    broken = Breakable(SqliteSessions(file))
    store = cast("DurableStore", broken)
    clock, ring = FakeClock(), KeyRing([TokenKey.generate()])
    silence = Silence()
    means = SessionContext(store, [], silence, ring, lifetimes, clock, silence, limits)
    sessions = Sessions(means, new_id=lambda: SessionId(str(uuid7())))
    rotation = Rotation(means)
    validator = Validator(store, ring=ring, clock=clock, deadline=5, seen=seen)
    trail = cast("AuditLog", Breakable(SqliteAudit(file), like=broken))
    audit = AuditSealer(trail, retention=timedelta(days=1), clock=clock, counted=lambda _, __: None)
    samples = cast("AnalyticsStore", Breakable(SqliteAnalytics(file), like=broken))
    analytics = Analytics(
        samples,
        every=timedelta(seconds=60),
        clock=clock,
        counted=lambda _: None,
        told=lambda _: None,
    )
    held = cast("SessionLocks", Breakable(SqliteLocks(file), like=broken))
    locks = Locks(held, get=store.get, clock=clock, counted=lambda _: None)
    memory = cast("LogoutTokenStore", Breakable(SqliteLogoutTokens(file), like=broken))
    logouts = BackchannelLogout(memory, sessions, clock=clock)
    texts, keys = {}, []
    for name, scopes in [("all", list(Scope)), *((str(scope), [scope]) for scope in Scope)]:
        texts[name], key = ApiKey.mint(name, scopes)
        keys.append(key)
    counted = Counted()
    app = admin_app(
        sessions,
        rotation,
        locks,
        validator,
        audit,
        analytics,
        ApiKeys(keys),
        hosts=["127.0.0.1", "LOCALHOST", "::1"],
        lifetimes=lifetimes,
        cursor_key=CURSOR_KEY,
        clock=clock,
        on_request=counted,
        patience=patience,
        logout=None if logout is None else logout(logouts, clock),
    )
    try:
        async with application_listener("admin", app, on_bad_request=lambda: None) as listener:
            port = (await listener.open(Address("127.0.0.1"))).port
            async with ClientSession() as client:
                routes = {
                    (route.method, resource.canonical)
                    for resource in app.router.resources()
                    for route in resource
                    if route.method != hdrs.METH_ANY  # it tells which methods there are
                }
                yield Door(
                    client,
                    port,
                    broken,
                    sessions,
                    analytics,
                    validator,
                    ring,
                    clock,
                    texts,
                    counted,
                    routes,
                )
            await listener.close(patience=1)
    finally:
        await file.close()
