"""Open the listeners, drain them, and replace their handlers after a reload."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from sidegate.core.clock import SystemClock
from sidegate.observability.metrics import build_registry
from sidegate.runtime.container import Container
from sidegate.runtime.file_limits import fit_connections, raise_open_file_limit
from sidegate.runtime.handlers import build_admin_application, build_gate
from sidegate.runtime.listener_options import build_listener_options
from sidegate.runtime.rules_in_force import read_identity_names
from sidegate.services.rules import Rules
from sidegate.settings import Settings
from sidegate.web.gate.app import build_gate_handler
from sidegate.web.ops.app import Readiness, build_ops_handler, collect_from
from sidegate.web.server.fast_path import FastPath
from sidegate.web.server.listener import (
    ConnectionLimits,
    Handler,
    Listener,
    application_handler,
    application_listener,
    deny_all,
)

_log: Final = logging.getLogger("sidegate")


class Listeners:
    """The open listeners, by name."""

    def __init__(self, container: Container) -> None:
        self.fast_path: FastPath | None = None
        self.all_open = False
        self.draining = False
        self._open: dict[str, Listener] = {}
        self._applications: list[AsyncExitStack] = []  # of the last two reloads
        self._container = container
        container.metrics.watch_draining(lambda: self.draining)

    def add(self, listener: Listener) -> None:
        self._open[listener.name] = listener

    def drain(self) -> None:
        self.draining = True
        for listener in self._open.values():
            listener.drain()

    async def prepare(self, settings: Settings, rules: Rules) -> Callable[[], None]:
        """See PrepareHandlers. Requests in progress are finished by the old handlers."""
        container = self._container
        gate_handlers, peers = build_gate(settings, container, rules=rules)
        handlers: dict[str, Handler] = {"gate": build_gate_handler(gate_handlers, peers)}
        trusted = {"gate": peers}
        application = build_admin_application(settings, container, rules=rules)
        stack = AsyncExitStack()
        handlers["admin"] = deny_all  # if the settings have no key any more
        if application is not None:
            handlers["admin"] = await stack.enter_async_context(application_handler(application))
        await self._close_applications(keep=1)
        self._applications.append(stack)

        def replace() -> None:
            for name, handler in handlers.items():
                if name in self._open:
                    self._open[name].replace_handler(handler, peers=trusted.get(name))
                elif handler is not deny_all:
                    _log.warning("listener needs a restart", extra={"listener": name})
            if self.fast_path is not None:
                self.fast_path.replace_handlers(gate_handlers, is_trusted=peers.is_trusted)
            container.memory.set_reply_headers(read_identity_names(settings).all_names())

        return replace

    async def close(self) -> None:
        await self._close_applications(keep=0)

    async def _close_applications(self, *, keep: int) -> None:
        while len(self._applications) > keep:
            await self._applications.pop(0).aclose()


@asynccontextmanager
async def open_listeners(settings: Settings, container: Container) -> AsyncIterator[Listeners]:
    """Open every listener. The first to open is the last to close."""
    listeners = Listeners(container)
    timeout = settings.drain.timeout.total_seconds()
    async with AsyncExitStack() as exit_stack:
        exit_stack.push_async_callback(listeners.close)
        for context, address in (
            (_ops_listener(settings, container, listeners=listeners), settings.ops.listen),
            (_admin_listener(settings, container), settings.admin.listen),
            (_gate_listener(settings, container, listeners=listeners), settings.gate.listen),
        ):
            listener = await exit_stack.enter_async_context(context)
            if listener is None:
                continue
            mode = settings.gate.socket_mode if listener.name == "gate" else 0o600
            bound = await listener.open(address, socket_mode=mode)
            exit_stack.push_async_callback(listener.close, drain_timeout=timeout)
            listeners.add(listener)
            _log.info("listener open", extra={"listener": listener.name, "address": str(bound)})
        listeners.all_open = True
        yield listeners


@asynccontextmanager
async def _ops_listener(
    settings: Settings, container: Container, *, listeners: Listeners
) -> AsyncIterator[Listener]:
    readiness = Readiness(
        container.pings,
        is_draining=lambda: listeners.draining,
        is_listening=lambda: listeners.all_open,
        restored_since=lambda: container.database_restore.restored_since,
        monotonic=container.clock.monotonic,
    )
    handler = build_ops_handler(
        readiness,
        collect_from(build_registry(container.metrics)),
        monotonic=container.clock.monotonic,
    )
    options = build_listener_options("ops", settings.ops, metrics=container.metrics)
    yield Listener("ops", handler, **options)


@asynccontextmanager
async def _admin_listener(
    settings: Settings, container: Container
) -> AsyncIterator[Listener | None]:
    application = build_admin_application(settings, container, rules=container.rules.current)
    if application is None:
        advice = "set admin.keys (`sidegate key new` makes one)"
        _log.info("admin listener disabled", extra={"advice": advice})
        yield None
        return
    options = build_listener_options("admin", settings.admin, metrics=container.metrics)
    options["checks_host"] = False  # the API does, by its list of hosts
    async with application_listener("admin", application, **options) as listener:
        yield listener


@asynccontextmanager
async def _gate_listener(
    settings: Settings, container: Container, *, listeners: Listeners
) -> AsyncIterator[Listener]:
    handlers, peers = build_gate(settings, container, rules=container.rules.current)
    container.memory.set_reply_headers(read_identity_names(settings).all_names())
    if settings.gate.fast_path:
        # The Date header has the machine's time, as aiohttp's has.
        listeners.fast_path = FastPath(handlers, is_trusted=peers.is_trusted, clock=SystemClock())
    listener = Listener(
        "gate",
        build_gate_handler(handlers, peers),
        on_bad_request=partial(container.metrics.count_bad_request, "gate"),
        fast_path=listeners.fast_path,
        peers=peers,
        limits=_fit_gate_limits(settings),
        on_full=container.metrics.count_refused_connection,
    )
    container.metrics.watch_connections(listener.count_connections)
    yield listener


def _fit_gate_limits(settings: Settings) -> ConnectionLimits:
    gate, shared = settings.gate, settings.ops.max_connections + settings.admin.max_connections
    total = fit_connections(gate.max_connections, limit=raise_open_file_limit(), shared=shared)
    return ConnectionLimits(total, min(gate.max_connections_per_peer or total, total))
