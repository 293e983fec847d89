"""Several workers at one address: started, watched, started again, and stopped together.

A worker is an ordinary `sidegate serve` that inherits its listeners and answers to us. We open the
ops door for all of them, and answer for none: without workers there is nobody at the gate.
"""

import asyncio
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidegate.core.address import Address
from sidegate.core.errors import CannotListen, SidegateError
from sidegate.observability.merge_workers import merge_metrics
from sidegate.runtime.file_limits import raise_limit
from sidegate.settings import Settings, first_admin_key, token_keys
from sidegate.settings.sources import SettingPath, variable_of
from sidegate.web.ops.app import ops_handler
from sidegate.web.ops.workers import Workers
from sidegate.web.server.listener import Listener
from sidegate.web.server.sockets import SharedListener

# Seconds until one that ended is started again: at once, then longer and longer.
_PAUSES: Final = (0.1, 0.5, 1.0, 5.0)
# Seconds between two looks whether a worker has opened its doors.
_LOOK: Final = 0.05
# Seconds after which one that lives is forgiven that it was started again.
_SETTLED: Final = 30.0

_log: Final = logging.getLogger("sidegate.supervisor")


class WorkerFailed(SidegateError):
    """The workers cannot begin: their own words say why. `status` is what one ended with."""

    def __init__(self, status: int) -> None:
        super().__init__(f"a worker ended with {status}")
        self.status = status


@dataclass
class _Worker:
    """One place for a process, and whoever has it at the moment."""

    number: int
    environment: Mapping[str, str]
    ops: Path
    process: asyncio.subprocess.Process | None = None
    failures: int = 0
    takes_signals: bool = False  # its ops door is open; before, SIGHUP would end it
    reload_pending: bool = False  # SIGHUP is sent as soon as it takes signals


class Supervisor:
    """Keeps as many workers alive as it is given places."""

    def __init__(
        self,
        workers: Sequence[_Worker],
        listeners: Mapping[str, SharedListener],
        command: Sequence[str],
    ) -> None:
        """`listeners`: at which address each door of the workers opens, by its name."""
        self._workers = workers
        self._listeners = listeners
        self._command = command
        self._stopping = asyncio.Event()
        self._failed: int | None = None
        self._proven = False  # some worker has opened its doors

    def draining(self) -> bool:
        """Say whether the workers have been told to end."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Let every worker drain and end."""
        self._stopping.set()
        # First: a Unix socket of which we kept a copy would let clients wait for nobody.
        for listener in self._listeners.values():
            listener.leave()
        for worker in self._workers:
            _send(worker, signal.SIGTERM)

    def reload(self) -> None:
        """Let every worker read the settings again. One that is starting does so when it can."""
        for worker in self._workers:
            if worker.takes_signals:
                _send(worker, signal.SIGHUP)
            else:
                worker.reload_pending = True

    async def run(self) -> None:
        """Keep the workers alive until `stop`. WorkerFailed: they could not begin."""
        await asyncio.gather(*(self._keep_alive(worker) for worker in self._workers))
        if self._failed is not None:
            raise WorkerFailed(self._failed)

    async def _keep_alive(self, worker: _Worker) -> None:
        while not self.draining():
            status = await self._lived(worker)
            if self.draining():
                return
            if status > 0 and not self._proven:
                self._failed = status  # wrong settings, a wrong schema: they do not mend themselves
                self.stop()
                return
            await self._pause(worker, status)

    async def _lived(self, worker: _Worker) -> int:
        """Start it, and return what it ended with."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        worker.takes_signals = worker.reload_pending = False
        worker.ops.unlink(missing_ok=True)  # of one that was killed
        try:
            worker.process = await self._started(worker)
        except OSError as error:  # no memory, no room, no descriptor: the others live
            _log.error("a worker cannot be started: %s", os.strerror(error.errno or 0))
            return -1
        if self.draining():  # told before there was anybody to tell
            worker.process.terminate()
        proving = asyncio.create_task(self._prove(worker))
        status = await worker.process.wait()
        worker.takes_signals = False
        proving.cancel()
        if loop.time() - began > _SETTLED:
            worker.failures = 0
        return status

    async def _started(self, worker: _Worker) -> asyncio.subprocess.Process:
        with ExitStack() as lending:
            descriptors = {
                name: lending.enter_context(listener.lent())
                for name, listener in self._listeners.items()
            }
            return await asyncio.create_subprocess_exec(
                *self._command,
                env=_environment(worker.environment, _listen_settings(descriptors)),
                pass_fds=list(descriptors.values()),
                stdin=asyncio.subprocess.PIPE,  # whose end it notices, should we be killed
            )

    async def _prove(self, worker: _Worker) -> None:
        while not worker.ops.exists():  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(_LOOK)
        self._proven = worker.takes_signals = True
        if worker.reload_pending:  # it may have read the settings before they changed
            _send(worker, signal.SIGHUP)

    async def _pause(self, worker: _Worker, status: int) -> None:
        seconds = _PAUSES[min(worker.failures, len(_PAUSES) - 1)]
        worker.failures += 1
        about = {"worker": worker.number, "status": status, "pause_seconds": seconds}
        _log.error("a worker ended; it is started again", extra=about)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _send(worker: _Worker, number: signal.Signals) -> None:
    if worker.process is not None and worker.process.returncode is None:
        worker.process.send_signal(number)


async def supervise(
    settings: Settings, arguments: Sequence[str], environ: Mapping[str, str]
) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT.

    `arguments` are those of the command line that a worker is started with. CannotListen: an
    address is taken. WorkerFailed: no worker could begin.
    """
    raise_limit()
    token_keys(settings)  # made once, if they are to be made
    async with AsyncExitStack() as cellar:
        folder = Path(cellar.enter_context(tempfile.TemporaryDirectory(prefix="sidegate-")))
        listeners = _listeners(settings)
        for listener in listeners.values():
            cellar.callback(listener.close)
        workers = [_place(number, folder, environ) for number in range(settings.workers)]
        command = [sys.executable, "-m", "sidegate", *arguments]
        supervisor = Supervisor(workers, listeners, command)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stop)
        loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
        await cellar.enter_async_context(_ops_door(settings, supervisor, workers))
        await supervisor.run()


def _listeners(settings: Settings) -> dict[str, SharedListener]:
    """Take the addresses of the doors that the workers open."""
    doors = {"gate": (settings.gate.listen, settings.gate.socket_mode)}
    # A port is taken without a key, too: a worker that is started again may find one.
    if settings.admin.keys or first_admin_key(settings) or settings.admin.listen.path is None:
        doors["admin"] = (settings.admin.listen, 0o600)
    return {name: _listener(name, address, mode) for name, (address, mode) in doors.items()}


def _listener(name: str, address: Address, mode: int) -> SharedListener:
    try:
        return SharedListener.open(address, socket_mode=mode)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else "no such address"
        raise CannotListen(f"the {name} door cannot open at {address}: {why}") from error


def _place(number: int, folder: Path, environ: Mapping[str, str]) -> _Worker:
    ops = folder / f"{number}.sock"
    told: dict[SettingPath, str] = {
        ("workers",): "1",
        ("jobs",): "true" if number == 0 else "false",
        ("ops", "listen"): f"unix:{ops}",
    }
    return _Worker(number, _environment(environ, told), ops)


def _listen_settings(descriptors: Mapping[str, int]) -> dict[SettingPath, str]:
    return {(name, "listen"): f"fd:{descriptor}" for name, descriptor in descriptors.items()}


def _environment(environ: Mapping[str, str], settings: Mapping[SettingPath, str]) -> dict[str, str]:
    """Return the environment in which these settings are told, and nothing else about them."""
    ours = {variable_of(path): text for path, text in settings.items()}
    others = {
        name: text for name, text in environ.items() if name.removesuffix("_FILE") not in ours
    }
    return others | ours


@asynccontextmanager
async def _ops_door(
    settings: Settings, supervisor: Supervisor, workers: Sequence[_Worker]
) -> AsyncIterator[None]:
    asked = Workers(
        {str(worker.number): str(worker.ops) for worker in workers},
        merge=merge_metrics,
        draining=supervisor.draining,
    )

    door = Listener("ops", ops_handler(asked, asked.scraped), on_bad_request=lambda: None)
    where = await door.open(settings.ops.listen, socket_mode=0o600)
    _log.info("ops door open", extra={"address": str(where)})
    try:
        yield
    finally:
        await door.close(patience=settings.drain.timeout.total_seconds())
