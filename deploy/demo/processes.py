"""Start the processes of the demo: Sidegate with an SQLite file, Caddy, and a small application."""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import IO

from application import Application

ROOT = Path(__file__).parents[2]
START_TIMEOUT = 30.0  # seconds, for a machine under load


@dataclass(frozen=True)
class Demo:
    """The ports of the running processes, and the file of the API key."""

    caddy: int
    gate: int
    admin: int
    ops: int
    application: int
    api_key_file: Path

    @property
    def api_key(self) -> str:
        return self.api_key_file.read_text().strip()


class StartFailed(Exception):
    """A process did not start. The message ends with its log."""


@contextmanager
def start_demo() -> Iterator[Demo]:
    """Start the processes, and stop them in the end."""
    with ExitStack() as exit_stack:
        folder = Path(
            exit_stack.enter_context(tempfile.TemporaryDirectory(prefix="sidegate-demo-"))
        )
        demo = Demo(
            caddy=_find_port(8080),
            gate=_find_port(7080),
            admin=_find_port(7081),
            ops=_find_port(7082),
            application=_find_port(9000),
            api_key_file=folder / "data" / "admin.key",
        )
        exit_stack.enter_context(_run_application(demo.application))
        exit_stack.enter_context(_run_sidegate(demo, folder))
        exit_stack.enter_context(_run_caddy(demo, folder))
        yield demo


def _find_port(default: int) -> int:
    """Return the default port, or another one if it is taken."""
    for port in (default, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
    raise StartFailed("there is no free port")


@contextmanager
def _run_application(port: int) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", port), Application) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@contextmanager
def _run_sidegate(demo: Demo, folder: Path) -> Iterator[None]:
    settings = {
        "SIDEGATE_DATA_DIR": str(folder / "data"),
        "SIDEGATE_GATE__LISTEN": f"127.0.0.1:{demo.gate}",
        "SIDEGATE_ADMIN__LISTEN": f"127.0.0.1:{demo.admin}",
        "SIDEGATE_OPS__LISTEN": f"127.0.0.1:{demo.ops}",
        "SIDEGATE_DRAIN__DELAY": "0s",  # there is no load balancer
    }
    command = [sys.executable, "-P", "-m", "sidegate", "serve"]
    with _run_process(
        "sidegate", command, folder, settings, lambda: _responds(demo.ops, "/readyz")
    ):
        yield


@contextmanager
def _run_caddy(demo: Demo, folder: Path) -> Iterator[None]:
    """Run Caddy with the configuration that `sidegate gateway caddy` prints."""
    _write_caddyfile(demo, folder)
    program = shutil.which("caddy", path=sysconfig.get_path("scripts")) or "caddy"
    command = [program, "run", "--config", str(folder / "Caddyfile")]
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with _run_process("caddy", command, folder, home, lambda: _responds(demo.caddy, "/", 401)):
        yield


def _write_caddyfile(demo: Demo, folder: Path) -> None:
    addresses = {
        "--listen": f"127.0.0.1:{demo.caddy}",
        "--gate": f"127.0.0.1:{demo.gate}",
        "--upstream": f"http://127.0.0.1:{demo.application}",
    }
    command = [sys.executable, "-P", "-m", "sidegate", "gateway", "caddy"]
    command += ["--directory", str(folder)]
    for option, address in addresses.items():
        command += [option, address]
    subprocess.run(command, env=_inherit(), check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - the arguments are our own


def _inherit() -> dict[str, str]:
    """Return this process's environment without settings of Sidegate."""
    return {k: v for k, v in os.environ.items() if not k.startswith("SIDEGATE_")}


@contextmanager
def _run_process(
    name: str,
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    is_ready: Callable[[], bool],
) -> Iterator[None]:
    with (folder / f"{name}.log").open("w+") as log:
        process = subprocess.Popen(  # noqa: S603 - the arguments are our own
            command,
            cwd=ROOT,
            env=_inherit() | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which stops the others in order
        )
        try:
            _wait_until_ready(name, process, log, is_ready)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(
    name: str, process: subprocess.Popen[bytes], log: IO[str], is_ready: Callable[[], bool]
) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            raise StartFailed(f"{name} did not start:\n{log.read()[-4000:]}")
        time.sleep(0.02)


def _responds(port: int, path: str, status: int = 200) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    with suppress(OSError):
        connection.request("GET", path)
        return connection.getresponse().status == status
    return False
