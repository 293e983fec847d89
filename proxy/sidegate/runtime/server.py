"""The composition root's outside: open the doors, keep the house running, close in order.

serve           what `sidegate serve` does, until it is told to stop
opened          everything but the doors, for the command line
cleanup         delete what ended long ago
migrate         bring the database up to date
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from hashlib import blake2s
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sidegate.core.clock import SystemClock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.token import Digest
from sidegate.core.within import within
from sidegate.observability.metrics import registry
from sidegate.runtime import gc_tuning as pauses
from sidegate.runtime.container import Container, build_services
from sidegate.runtime.database import run_migrations
from sidegate.runtime.file_limits import connections_that_fit, raise_limit
from sidegate.runtime.reload import Read, Reload
from sidegate.settings import Settings, first_admin_key, token_keys
from sidegate.web.admin.app import admin_app
from sidegate.web.admin.auth import ApiKey, ApiKeys, Scope
from sidegate.web.gate.app import build_handlers, gate_handler
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.gateways.identity_headers import IdentityNames
from sidegate.web.ops.app import Readiness, always, ops_handler
from sidegate.web.server.fast_path import FastPath
from sidegate.web.server.handler import RequestHandler
from sidegate.web.server.listener import (
    Application,
    Handler,
    Listener,
    application_handler,
    application_listener,
    closed_handler,
)
from sidegate.web.server.trusted_peers import TrustedPeers

if TYPE_CHECKING:
    from sidegate.web.oidc.routes import LogoutRoutes

# Seconds that the start waits for the stores before the doors open without them.
_FIRST_CONTACT: Final = 3.0
_NOBODYS: Final = Digest(bytes(32))

# Seconds between two looks at the database's clock. In between ours goes on evenly, whatever the
# machine's does.
_TIME_TOLD: Final = 2.0

_log: Final = logging.getLogger("sidegate")


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Container]:
    """Lend everything but the doors, on the stores of the settings."""
    async with build_services(settings) as house:
        with suppress(StoreUnavailable):  # a revocation may do without the database
            await house.catch_up.redeliver()
        with suppress(StoreUnavailable):
            await house.news.pending.refresh()
        yield house
        with suppress(StoreUnavailable):  # what was done is done; servers mend it within seconds
            await house.catch_up.redeliver()


async def cleanup(settings: Settings) -> AsyncIterator[int]:
    """Delete what ended long ago, and yield after each batch how many sessions that were."""
    async with build_services(settings) as house:
        async for purged in house.janitor.clean():
            yield purged


async def migrate(settings: Settings) -> list[str]:
    """Bring the database up to date and return the names of what was applied."""
    return await run_migrations(settings)


async def serve(settings: Settings, *, read: Read, leash: int | None = None) -> None:
    """Open the doors and answer until SIGTERM or SIGINT, then drain and close.

    On SIGHUP the settings are read again. `leash` is a descriptor whose other end somebody holds:
    when they are gone, it ends as well.
    """
    stop, again = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, again.set)
    if leash is not None:
        loop.add_reader(leash, stop.set)
    async with build_services(settings) as house:
        await _first_contact(house)
        async with _background(settings, house), _open_listeners(settings, house) as doors:
            reload = Reload(settings, house, read=read, prepare=doors.prepared)
            _log.info("ready")
            async with _running(reload.run(again)):
                await stop.wait()
            if leash is not None:
                loop.remove_reader(leash)
            _log.info("draining")
            doors.drain()
            await asyncio.sleep(reload.settings.drain.delay.total_seconds())


async def _first_contact(house: Container) -> None:
    """Learn what is to be believed, and ask once what the gate will ask: the first pays for all.

    A database that answers must fit; one that does not answer is waited for with open doors.
    """
    try:
        await within(_FIRST_CONTACT, "durable", _greeted(house))
    except StoreUnavailable as outage:
        _log.warning("not every store answers yet: %s", outage)


async def _greeted(house: Container) -> None:
    with suppress(StoreUnavailable):  # first: the truth does not know what is pending
        await house.news.pending.refresh()
    await house.truth.check()
    if house.shared_time is not None:
        with suppress(StoreUnavailable):  # one that is slow is asked again soon
            await house.shared_time.sync()
    await house.catch_up.poll()
    for store in (house.durable, house.redis):
        if store is not None:
            await store.find(_NOBODYS)


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, NoReturn]) -> AsyncIterator[None]:
    """Do it meanwhile."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work)
        try:
            yield
        finally:
            task.cancel()


class _Listeners:
    """The doors that are open, and how they drain and change hands."""

    def __init__(self, house: Container) -> None:
        self._open: dict[str, Listener] = {}
        self.express: FastPath | None = None
        self.opened = False
        self.draining = False
        self._applications: list[AsyncExitStack] = []  # of reloads: the last one, and one before
        house.metrics.watch_draining(lambda: self.draining)

    def add(self, door: Listener) -> None:
        self._open[door.name] = door

    def drain(self) -> None:
        self.draining = True
        for door in self._open.values():
            door.drain()

    async def prepared(self, settings: Settings, house: Container) -> Callable[[], None]:
        """See Prepare. What answered before finishes what it has begun."""
        among, peers = _answering(settings, house)
        handlers: dict[str, Handler] = {"gate": gate_handler(among, peers)}
        trusted = {"gate": peers}
        application, stack = _admin_application(settings, house), AsyncExitStack()
        handlers["admin"] = closed_handler  # where there was a key and is none any more
        if application is not None:
            handlers["admin"] = await stack.enter_async_context(application_handler(application))
        await self._close_applications(keep=1)
        self._applications.append(stack)

        def exchange() -> None:
            for name, handler in handlers.items():
                if name in self._open:
                    self._open[name].exchange(handler, peers=trusted.get(name))
                elif handler is not closed_handler:
                    _log.warning("the %s door had no key at the start: it takes a restart", name)
            if self.express is not None:
                self.express.exchange(among, trust=peers.trust)
            house.local.set_reply_headers(_identity(settings).all())

        return exchange

    async def close(self) -> None:
        await self._close_applications(keep=0)

    async def _close_applications(self, *, keep: int) -> None:
        while len(self._applications) > keep:
            await self._applications.pop(0).aclose()


@asynccontextmanager
async def _open_listeners(settings: Settings, house: Container) -> AsyncIterator[_Listeners]:
    """Open every door. The first to open is the last to close."""
    doors = _Listeners(house)
    async with AsyncExitStack() as closing:
        closing.push_async_callback(doors.close)
        for made, address in (
            (_ops_door(house, doors), settings.ops.listen),
            (_admin_door(settings, house), settings.admin.listen),
            (_gate_door(settings, house, doors), settings.gate.listen),
        ):
            door = await closing.enter_async_context(made)
            if door is None:
                continue
            mode = settings.gate.socket_mode if door.name == "gate" else 0o600
            where = await door.open(address, socket_mode=mode)
            patience = settings.drain.timeout.total_seconds()
            closing.push_async_callback(door.close, patience=patience)
            doors.add(door)
            _log.info("%s door open", door.name, extra={"address": str(where)})
        doors.opened = True
        yield doors


@asynccontextmanager
async def _ops_door(house: Container, doors: _Listeners) -> AsyncIterator[Listener]:
    ready = Readiness(house.pings, lambda: doors.draining, lambda: doors.opened)
    handler = ops_handler(ready, always(registry(house.metrics)))
    yield Listener("ops", handler, on_bad_request=partial(house.metrics.bad_request, "ops"))


@asynccontextmanager
async def _admin_door(settings: Settings, house: Container) -> AsyncIterator[Listener | None]:
    application = _admin_application(settings, house)
    if application is None:
        _log.info("admin door shut: no admin.keys (`sidegate key new` makes one)")
        yield None
        return
    count = partial(house.metrics.bad_request, "admin")
    async with application_listener("admin", application, on_bad_request=count) as door:
        yield door


def _admin_application(settings: Settings, house: Container) -> Application | None:
    """Return what answers at the admin door; None: nobody could open it."""
    keys = _api_keys(settings)
    if not keys:
        return None
    newest, logout = token_keys(settings)[0], _logout(settings, house)
    return admin_app(
        house.sessions,
        house.rotation,
        house.locks,
        house.validator,
        house.audit,
        house.analytics,
        ApiKeys(keys),
        hosts=settings.admin.hosts,
        lifetimes=settings.sessions.by_type(),
        cursor_key=blake2s(b"page cursors", key=newest.secret).digest(),
        clock=house.means.clock,
        on_request=house.metrics.admin_request,
        logout=None if logout is None else logout.receive,
    )


@asynccontextmanager
async def _gate_door(
    settings: Settings, house: Container, doors: _Listeners
) -> AsyncIterator[Listener]:
    among, peers = _answering(settings, house)
    house.local.set_reply_headers(_identity(settings).all())
    if settings.gate.fast_path:
        doors.express = FastPath(among, trust=peers.trust, clock=house.means.clock)
    door = Listener(
        "gate",
        gate_handler(among, peers),
        on_bad_request=partial(house.metrics.bad_request, "gate"),
        express=doors.express,
        peers=peers,
        max_connections=connections_that_fit(settings.gate.max_connections, limit=raise_limit()),
        on_full=house.metrics.connection_refused,
    )
    house.metrics.watch_connections(door.lanes)
    yield door


def _answering(
    settings: Settings, house: Container
) -> tuple[Sequence[RequestHandler], TrustedPeers]:
    """Return who answers at the gate, and whom."""
    wishes = settings.gate
    sources = CredentialSources(
        bearer=wishes.bearer,
        cookie=None if wishes.cookie is None else wishes.cookie.encode("ascii"),
        header=None if wishes.header is None else wishes.header.lower().encode("ascii"),
    )
    manners = GatewayPolicy(
        sources=sources,
        identity=_identity(settings),
        realm=wishes.realm,
        signals=_signals(settings, house),
    )
    among = build_handlers(
        house.validator,
        manners,
        events=house.metrics,
        clock=house.means.clock,
        binding=house.binding,
    )
    return among, TrustedPeers(wishes.trusted_peers, refused=house.metrics.untrusted_peer)


def _identity(settings: Settings) -> IdentityNames:
    return IdentityNames(**settings.gate.identity.model_dump())


def _signals(settings: Settings, house: Container) -> SignalSources:
    header = settings.binding.header.name
    return SignalSources(
        wanted=house.binding.watched,
        header=None if header is None else header.lower().encode("ascii"),
        trusted_hops=settings.gate.trusted_hops,
    )


def _logout(settings: Settings, house: Container) -> "LogoutRoutes | None":
    """Return who listens to identity providers; None: there are none, and nobody loads PyJWT."""
    if not settings.sso.providers:
        return None
    from sidegate.runtime.oidc_providers import logout_routes

    return logout_routes(settings.sso.providers, house.logouts, house.metrics, SystemClock())


def _api_keys(settings: Settings) -> list[ApiKey]:
    keys = [
        ApiKey(key.name, key.sha256, frozenset(Scope(scope) for scope in key.scopes))
        for key in settings.admin.keys
    ]
    first = first_admin_key(settings)
    if first is not None:
        path, text = first
        _log.info("the API key is in a file", extra={"path": str(path)})
        keys.append(ApiKey.of("first", text, Scope))
    return keys


@asynccontextmanager
async def _background(settings: Settings, house: Container) -> AsyncIterator[None]:
    """Hear what other instances change. An error nobody foresaw here ends the process."""
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(house.toucher.run(every=settings.touch.interval.total_seconds())),
            tasks.create_task(house.revoke_behind.run()),
            tasks.create_task(house.analytics.run(sampling=settings.jobs)),
            tasks.create_task(pauses.keep_short()),
        ]
        if house.shared_time is not None:
            running.append(tasks.create_task(house.shared_time.run(every=_TIME_TOLD)))
        if settings.jobs:
            running += [tasks.create_task(job) for job in _jobs(settings, house)]
        running += [tasks.create_task(listening) for listening in house.news.listening()]
        try:
            yield
        finally:
            for task in running:
                task.cancel()


def _jobs(settings: Settings, house: Container) -> Iterator[Coroutine[Any, Any, NoReturn]]:
    """Yield what one process has to do for all."""
    yield house.janitor.run(every=settings.cleanup.interval.total_seconds())
    yield house.audit.run(every=settings.audit.interval.total_seconds())
