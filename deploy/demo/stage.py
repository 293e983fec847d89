"""The demo's stage: Sidegate on the embedded default, Caddy before it, and a small application."""

import json
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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import IO

CADDYFILE = Path(__file__).parents[1] / "caddy" / "Caddyfile"
IDENTITY = ("X-Auth-User", "X-Auth-Session", "X-Auth-Type", "X-Auth-Scopes")
PATIENCE = 30.0  # for a machine that has other things to do as well


@dataclass(frozen=True)
class Stage:
    """Where everybody is, and the API key of the admin door."""

    caddy: int
    gate: int
    admin: int
    ops: int
    application: int
    api_key_file: Path

    @property
    def api_key(self) -> str:
        return self.api_key_file.read_text().strip()


class Fallen(Exception):
    """Somebody did not come up; the message ends with what it had to say."""


@contextmanager
def built() -> Iterator[Stage]:
    """Start everybody, and stop them again."""
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="sidegate-demo-")))
        stage = Stage(
            caddy=_port(8080),
            gate=_port(7080),
            admin=_port(7081),
            ops=_port(7082),
            application=_port(9000),
            api_key_file=folder / "data" / "admin.key",
        )
        ending.enter_context(_application(stage.application))
        ending.enter_context(_sidegate(stage, folder))
        ending.enter_context(_caddy(stage, folder))
        yield stage


def _port(wanted: int) -> int:
    """Return the port everybody knows, or another one if it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
    raise Fallen("there is no free port")


class _Application(BaseHTTPRequestHandler):
    """Knows nothing of sessions: it tells whom its gateway says it is talking to."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # one packet for head and body: two would wait for each other's receipt

    def do_GET(self) -> None:
        seen = {name: self.headers.get(name) for name in IDENTITY}
        body = json.dumps(seen, indent=2).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def _application(port: int) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", port), _Application) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@contextmanager
def _sidegate(stage: Stage, folder: Path) -> Iterator[None]:
    settings = {
        "SIDEGATE_DATA_DIR": str(folder / "data"),
        "SIDEGATE_GATE__LISTEN": f"127.0.0.1:{stage.gate}",
        "SIDEGATE_ADMIN__LISTEN": f"127.0.0.1:{stage.admin}",
        "SIDEGATE_OPS__LISTEN": f"127.0.0.1:{stage.ops}",
        "SIDEGATE_DRAIN__DELAY": "0s",  # no load balancer has to notice
    }
    command = [sys.executable, "-m", "sidegate", "serve"]
    with _running("sidegate", command, folder, settings, lambda: _answers(stage.ops, "/readyz")):
        yield


@contextmanager
def _caddy(stage: Stage, folder: Path) -> Iterator[None]:
    """Caddy with the very file of deploy/caddy; ports that were taken are replaced, no more."""
    text = CADDYFILE.read_text()
    for there, here in (
        ("http://:8080 ", f"http://:{stage.caddy} "),
        ("127.0.0.1:7080", f"127.0.0.1:{stage.gate}"),
        ("127.0.0.1:9000", f"127.0.0.1:{stage.application}"),
    ):
        if there not in text:
            raise Fallen(f"{CADDYFILE} does not say {there!r} any more")
        text = text.replace(there, here)
    (folder / "Caddyfile").write_text(text)
    program = shutil.which("caddy", path=sysconfig.get_path("scripts")) or "caddy"
    command = [program, "run", "--config", str(folder / "Caddyfile")]
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with _running("caddy", command, folder, home, lambda: _answers(stage.caddy, "/", 401)):
        yield


@contextmanager
def _running(
    name: str,
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    ready: Callable[[], bool],
) -> Iterator[None]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SIDEGATE_")}
    with (folder / f"{name}.log").open("w+") as log:
        process = subprocess.Popen(  # noqa: S603 - our own words
            command,
            cwd=CADDYFILE.parents[2],
            env=inherited | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; we end the others in order
        )
        try:
            _wait(name, process, log, ready)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(
    name: str, process: subprocess.Popen[bytes], log: IO[str], ready: Callable[[], bool]
) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            raise Fallen(f"{name} did not come up:\n{log.read()[-4000:]}")
        time.sleep(0.02)


def _answers(port: int, path: str, status: int = 200) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    with suppress(OSError):
        connection.request("GET", path)
        return connection.getresponse().status == status
    return False
