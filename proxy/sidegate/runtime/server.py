"""The entry points of the program: serve, and what the command line does on the same services."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.timeouts import with_timeout
from sidegate.observability import logs
from sidegate.runtime.background_tasks import BackgroundTask, BackgroundTaskRunner
from sidegate.runtime.container import Container, build_services
from sidegate.runtime.database import run_migrations
from sidegate.runtime.gc_tuning import limit_gc_pauses
from sidegate.runtime.listeners import open_listeners
from sidegate.runtime.reload import ReadSettings, Reloader
from sidegate.settings import Settings

# Seconds that the start waits for the stores before the listeners open without them.
_STARTUP_TIMEOUT: Final = 3.0
# A digest that belongs to no token.
_UNUSED_DIGEST: Final = Digest(bytes(32))
# Seconds between two queries of the database's clock. In between the monotonic clock advances the
# time, whatever the machine's clock does.
_CLOCK_SYNC_INTERVAL: Final = 2.0

_log: Final = logging.getLogger("sidegate")


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Container]:
    """Open the services without listeners, for one command, with the database's time."""
    async with build_services(settings) as container:
        with suppress(StoreUnavailable):
            await container.subscriptions.pending.refresh()
        with suppress(StoreUnavailable):  # what needs the time will raise it
            await _synchronize_clock(container)
        yield container


async def cleanup(settings: Settings) -> AsyncIterator[int]:
    """Purge sessions that ended long ago, and yield the number of each batch.

    Raise StoreUnavailable, having purged none, if the database's time is not known, and
    PurgeInProgress when another process purges.
    """
    async with build_services(settings) as container:
        await _synchronize_clock(container)
        async for purged in container.cleanup.clean():
            yield purged


async def _synchronize_clock(container: Container) -> None:
    """Take the time from the database, if it has the clock; else from Redis, if that knows it."""
    if container.clock_sync is not None:
        await container.clock_sync.sync_or_use_reference()


async def migrate(settings: Settings) -> list[str]:
    """Apply the missing migrations and return their names."""
    return await run_migrations(settings)


async def serve(
    settings: Settings, *, read_settings: ReadSettings, parent_pipe_fd: int | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and close. On SIGHUP reload the settings.

    `parent_pipe_fd` is the read end of a pipe that the parent process holds open: its end of file
    means that the parent has exited, and stops the server, too.
    """
    stop, reload_requested = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload_requested.set)
    if parent_pipe_fd is not None:
        loop.add_reader(parent_pipe_fd, stop.set)
    async with build_services(settings) as container:
        container.metrics.watch_dropped_log_lines(logs.dropped_lines)
        count = container.metrics.count_background_task_failure
        runner = BackgroundTaskRunner(count, monotonic=container.clock.monotonic)
        await _connect_stores(container)
        async with (
            runner.run(build_background_tasks(settings, container)),
            open_listeners(settings, container) as listeners,
        ):
            reloader = Reloader(
                settings, container, read_settings=read_settings, prepare=listeners.prepare
            )
            _log.info("ready")
            reload = BackgroundTask("reload", partial(reloader.run, reload_requested))
            async with runner.run([reload]):
                await stop.wait()
            if parent_pipe_fd is not None:
                loop.remove_reader(parent_pipe_fd)
            _log.info("draining")
            listeners.drain()
            await asyncio.sleep(reloader.settings.drain.delay.total_seconds())


async def _connect_stores(container: Container) -> None:
    """Query each store once, so that the first check does not pay for connections.

    Raise SchemaMismatch if the tables do not fit. A store that does not answer delays the start by
    `_STARTUP_TIMEOUT` at most.
    """
    try:
        await with_timeout(_query_stores(container), _STARTUP_TIMEOUT, store="durable")
    except StoreUnavailable as outage:
        _log.warning("store unavailable at start", extra={"reason": str(outage)})


async def _query_stores(container: Container) -> None:
    with suppress(StoreUnavailable):  # first: the database does not know what is pending
        await container.subscriptions.pending.refresh()
    await container.database.check_schema()
    with suppress(StoreUnavailable):  # slow answers: the background task tries again soon
        await _synchronize_clock(container)
    await container.change_poller.poll()
    if container.cache_follower is not None:
        with suppress(StoreUnavailable):  # the background task tries again soon
            await container.cache_follower.follow()
    for store in (container.durable, container.redis):
        if store is not None:
            await store.find(_UNUSED_DIGEST)


def build_background_tasks(settings: Settings, container: Container) -> Iterator[BackgroundTask]:
    """Yield the tasks of a server, each with a name of its own."""
    touch_interval = settings.touch.interval.total_seconds()
    yield BackgroundTask("activity", partial(container.activity.run, interval=touch_interval))
    yield BackgroundTask("binding_revocations", container.background_revoker.run)
    yield BackgroundTask("analytics", partial(container.analytics.run, sampling=settings.jobs))
    yield BackgroundTask("store_monitor", container.store_monitor.run)
    yield BackgroundTask("gc", limit_gc_pauses)
    if container.clock_sync is not None:
        sync = partial(container.clock_sync.run, interval=_CLOCK_SYNC_INTERVAL)
        yield BackgroundTask("clock_sync", sync)
    if settings.jobs:  # in one worker of several
        clean = partial(container.cleanup.run, interval=settings.cleanup.interval.total_seconds())
        yield BackgroundTask("cleanup", clean)
        seal = partial(container.audit.run, interval=settings.audit.interval.total_seconds())
        yield BackgroundTask("audit", seal)
    yield from container.subscriptions.background_tasks()
