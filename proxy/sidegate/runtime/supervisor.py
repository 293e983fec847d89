"""The supervisor of several workers at one address: start, watch, restart and stop them together.

A worker is an ordinary `sidegate serve` that inherits its listeners. The supervisor opens the ops
listener for all of them. It keeps no listener of the gate accepting: without workers no connection
is accepted.
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
from importlib.metadata import version
from pathlib import Path
from typing import Final

from sidegate.core.address import Address
from sidegate.core.errors import CannotListen, SidegateError
from sidegate.observability import logs
from sidegate.observability.merge_workers import merge_metrics
from sidegate.observability.metrics import Metrics, build_supervisor_page
from sidegate.runtime.file_limits import raise_open_file_limit
from sidegate.runtime.listener_options import build_listener_options
from sidegate.settings import Settings, read_admin_key, read_token_keys
from sidegate.settings.sources import SettingPath, variable_name
from sidegate.web.ops.app import build_ops_handler
from sidegate.web.ops.workers import WorkerAggregator
from sidegate.web.server.listener import Listener
from sidegate.web.server.sockets import SharedListener

# Seconds until a worker that exited is restarted: soon at first, then later and later.
_RESTART_DELAYS: Final = (0.1, 0.5, 1.0, 5.0)
# Seconds between two looks whether a worker has opened its listeners.
_POLL_INTERVAL: Final = 0.05
# Seconds after which a worker counts as stable: its next restart comes soon again.
_STABLE_AFTER: Final = 30.0

# -P: without it Python would import modules from the working directory, such as a `logging.py`.
_WORKER_COMMAND: Final = (sys.executable, "-P", "-m", "sidegate")
_PYTHONPATH: Final = "PYTHONPATH"

_log: Final = logging.getLogger("sidegate.supervisor")


class WorkerFailed(SidegateError):
    """No worker could start. The reason is on the worker's own stderr.

    `status` is the exit status of the first one that failed.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"a worker exited with status {status}")
        self.status = status


@dataclass
class Worker:
    """A worker slot, and the process that runs in it at present."""

    number: int
    environment: Mapping[str, str]
    ops: Path
    process: asyncio.subprocess.Process | None = None
    failures: int = 0
    takes_signals: bool = False  # its ops listener is open; before that, SIGHUP would end it
    reload_pending: bool = False  # SIGHUP is sent as soon as it takes signals


class Supervisor:
    """Keeps one process running for each worker."""

    def __init__(
        self,
        workers: Sequence[Worker],
        listeners: Mapping[str, SharedListener],
        *,
        command: Sequence[str],
    ) -> None:
        """`listeners` are those that the workers inherit, by name."""
        self._workers = workers
        self._listeners = listeners
        self._command = command
        self._stopping = asyncio.Event()
        self._failed: int | None = None
        self._any_started = False  # some worker has opened its listeners

    def is_draining(self) -> bool:
        """Return whether the workers have been asked to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Let every worker drain and exit."""
        self._stopping.set()
        # First: with a copy of a Unix socket kept here, clients would wait for a closed listener.
        for listener in self._listeners.values():
            listener.release()
        for worker in self._workers:
            _send_signal(worker, signal.SIGTERM)

    def reload(self) -> None:
        """Let every worker reload its settings. One that is starting does so when it can."""
        for worker in self._workers:
            if worker.takes_signals:
                _send_signal(worker, signal.SIGHUP)
            else:
                worker.reload_pending = True

    async def run(self) -> None:
        """Keep the workers running until `stop`. Raise WorkerFailed if none could start."""
        await asyncio.gather(*(self._keep_running(worker) for worker in self._workers))
        if self._failed is not None:
            raise WorkerFailed(self._failed)

    async def _keep_running(self, worker: Worker) -> None:
        while not self.is_draining():
            status = await self._run_process(worker)
            if self.is_draining():
                return
            if status is not None and status > 0 and not self._any_started:
                self._failed = status  # wrong settings or a wrong schema: a restart is no help
                self.stop()
                return
            await self._wait_for_restart(worker, status)

    async def _run_process(self, worker: Worker) -> int | None:
        """Start a process, and return its exit status when it has ended; None: no start."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        worker.takes_signals = worker.reload_pending = False
        try:
            worker.ops.unlink(missing_ok=True)  # left behind by a process that was killed
            worker.process = await self._start_process(worker)
        except OSError as error:  # no memory, file or folder: the other workers go on
            reason = os.strerror(error.errno or 0)
            _log.error("worker start failed", extra={"worker": worker.number, "reason": reason})
            return None
        if self.is_draining():  # `stop` was called before there was a process to signal
            worker.process.terminate()
        name = f"worker {worker.number} start"
        watching = asyncio.create_task(self._watch_start(worker), name=name)
        status = await worker.process.wait()
        worker.takes_signals = False
        watching.cancel()
        if loop.time() - started > _STABLE_AFTER:
            worker.failures = 0
        return status

    async def _start_process(self, worker: Worker) -> asyncio.subprocess.Process:
        with ExitStack() as exit_stack:
            descriptors = {
                name: exit_stack.enter_context(listener.lend_descriptor())
                for name, listener in self._listeners.items()
            }
            return await asyncio.create_subprocess_exec(
                *self._command,
                env=build_worker_environment(worker.environment, _listen_settings(descriptors)),
                pass_fds=list(descriptors.values()),
                stdin=asyncio.subprocess.PIPE,  # end of file: the supervisor died
            )

    async def _watch_start(self, worker: Worker) -> None:
        while not worker.ops.exists():  # noqa: ASYNC110  # there is no notification of it
            await asyncio.sleep(_POLL_INTERVAL)
        self._any_started = worker.takes_signals = True
        if worker.reload_pending:  # it may have read the settings before they changed
            _send_signal(worker, signal.SIGHUP)

    async def _wait_for_restart(self, worker: Worker, status: int | None) -> None:
        delay = _RESTART_DELAYS[min(worker.failures, len(_RESTART_DELAYS) - 1)]
        worker.failures += 1
        if status is not None:
            _log.error(
                "worker exited",
                extra={
                    "worker": worker.number,
                    "status": status,
                    "restart_delay_seconds": delay,
                },
            )
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._stopping.wait()


def _send_signal(worker: Worker, number: signal.Signals) -> None:
    if worker.process is not None and worker.process.returncode is None:
        worker.process.send_signal(number)


async def supervise(
    settings: Settings, arguments: Sequence[str], *, environ: Mapping[str, str]
) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT.

    `arguments` are those of a worker's command line. Raise CannotListen if an address is taken, and
    WorkerFailed if no worker could start.
    """
    raise_open_file_limit()
    read_token_keys(settings)  # writes the file of keys once, before several workers would
    async with AsyncExitStack() as exit_stack:
        folder = Path(exit_stack.enter_context(tempfile.TemporaryDirectory(prefix="sidegate-")))
        listeners = _reserve_listeners(settings)
        for listener in listeners.values():
            exit_stack.callback(listener.close)
        workers = [
            _build_worker(number, folder, environ=environ) for number in range(settings.workers)
        ]
        supervisor = Supervisor(workers, listeners, command=[*_WORKER_COMMAND, *arguments])
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stop)
        loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
        await exit_stack.enter_async_context(
            _open_ops_listener(settings, supervisor, workers=workers)
        )
        await supervisor.run()


def _reserve_listeners(settings: Settings) -> dict[str, SharedListener]:
    """Reserve the addresses of the listeners that the workers open."""
    addresses = {"gate": (settings.gate.listen, settings.gate.socket_mode)}
    # Without an admin key a port is reserved, too: a worker that is restarted may find a key.
    if settings.admin.keys or read_admin_key(settings) or settings.admin.listen.path is None:
        addresses["admin"] = (settings.admin.listen, 0o600)
    return {
        name: _reserve_listener(name, address, mode=mode)
        for name, (address, mode) in addresses.items()
    }


def _reserve_listener(name: str, address: Address, *, mode: int) -> SharedListener:
    try:
        return SharedListener.open(address, socket_mode=mode)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "no such address"
        raise CannotListen(f"the {name} listener cannot open at {address}: {reason}") from error


def _build_worker(number: int, folder: Path, *, environ: Mapping[str, str]) -> Worker:
    ops = folder / f"{number}.sock"
    settings: dict[SettingPath, str] = {
        ("workers",): "1",
        ("jobs",): "true" if number == 0 else "false",
        ("ops", "listen"): f"unix:{ops}",
    }
    return Worker(number, build_worker_environment(environ, settings), ops)


def _listen_settings(descriptors: Mapping[str, int]) -> dict[SettingPath, str]:
    return {(name, "listen"): f"fd:{descriptor}" for name, descriptor in descriptors.items()}


def build_worker_environment(
    environ: Mapping[str, str], settings: Mapping[SettingPath, str]
) -> dict[str, str]:
    """Return the environment of a worker: other settings of the same paths are replaced.

    Nothing is imported from the working directory: it is dropped from PYTHONPATH.
    """
    variables = {variable_name(path): text for path, text in settings.items()}
    others = {
        name: text for name, text in environ.items() if name.removesuffix("_FILE") not in variables
    }
    if _PYTHONPATH in others:
        others[_PYTHONPATH] = _without_working_directory(others[_PYTHONPATH])
    return others | variables


def _without_working_directory(search_path: str) -> str:
    """Drop the entries that mean the working directory: an empty one does, too."""
    here = Path.cwd()
    entries = search_path.split(os.pathsep)
    return os.pathsep.join(entry for entry in entries if here != Path(entry).resolve())


@asynccontextmanager
async def _open_ops_listener(
    settings: Settings, supervisor: Supervisor, *, workers: Sequence[Worker]
) -> AsyncIterator[None]:
    metrics = Metrics(version=version("sidegate"), revocation_bound=0.0)
    metrics.watch_dropped_log_lines(logs.dropped_lines)
    aggregator = WorkerAggregator(
        {str(worker.number): str(worker.ops) for worker in workers},
        merge=lambda pages: merge_metrics({**pages, "supervisor": build_supervisor_page(metrics)}),
        is_draining=supervisor.is_draining,
    )
    handler = build_ops_handler(aggregator, aggregator.collect)
    options = build_listener_options("ops", settings.ops, metrics=metrics)
    listener = Listener("ops", handler, **options)
    bound = await listener.open(settings.ops.listen, socket_mode=0o600)
    _log.info("listener open", extra={"listener": "ops", "address": str(bound)})
    try:
        yield
    finally:
        await listener.close(drain_timeout=settings.drain.timeout.total_seconds())
