"""Real programs as children of the test run: unprivileged, in their own group, always stopped."""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
SCRIPTS = Path(sysconfig.get_path("scripts"))
# A cold start of the slowest server takes a second; the rest is for a busy machine.
PATIENCE = 30.0


class ServerDied(Exception):
    """The program ended, or did not answer, before it was ready; the message ends with its log."""


def missing(reason: str) -> NoReturn:
    """Skip the test for want of a server; fail where nothing may be skipped (the CI says so)."""
    if os.environ.get("SIDEGATE_TESTS_SKIP_NOTHING") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def nobody() -> pwd.struct_passwd | None:
    """Whom children run as when the tests run as root: postgres refuses root, nginx leaves it."""
    return pwd.getpwnam("nobody") if os.getuid() == 0 else None


def make_directory() -> Path:
    """Return a new directory the demoted children own: pytest's own are closed to them."""
    directory = Path(
        tempfile.mkdtemp(prefix="sg-", dir="/tmp")
    )  # short: a socket's path may lie here
    directory.chmod(0o755)
    give_away(directory)
    return directory


def give_away(directory: Path) -> None:
    """Hand a tree to the user the children run as."""
    user = nobody()
    if user is None:
        return
    for path in (directory, *directory.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


@contextmanager
def temporary_directory() -> Iterator[Path]:
    directory = make_directory()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def find_program(name: str, *candidates: Path | str | None) -> Path:
    """Return the first candidate that exists, at a path every user may walk; skip if none does."""
    for candidate in candidates:
        if candidate is not None and Path(candidate).exists():
            return _walkable(Path(candidate).resolve())
    missing(f"{name} is not installed; looked for {[str(c) for c in candidates if c]}")


@functools.cache
def _walkable(path: Path) -> Path:
    """Return the path, or a copy that a demoted child can reach (a venv may lie below /root)."""
    if nobody() is None or all(parent.stat().st_mode & 0o001 for parent in path.parents):
        return path
    home = make_directory()
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    copy = home / path.name
    if path.is_dir():
        shutil.copytree(path, copy, symlinks=True)
    else:
        shutil.copy2(path, copy)
    return copy


def free_port(*also_above: int) -> int:
    """Return a free port of 127.0.0.1, free at each offset above it too (Redis Cluster's bus)."""
    while True:
        port = 20_000 + secrets.randbelow(30_000)
        if all(_is_free(port + offset) for offset in (0, *also_above)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def listens(port: int) -> bool:
    """Whether something accepts connections on the port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


@dataclass(eq=False)
class Child:
    """One program that can be started again; `process` is its present run.

    `ready` is asked until it says yes. `polite` is the signal that ends the program in good order.
    """

    name: str
    argv: Sequence[str | Path]
    directory: Path
    ready: Callable[[], bool]
    polite: signal.Signals = signal.SIGTERM
    environment: Mapping[str, str] = field(default_factory=dict)
    demoted: bool = True
    _process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def log(self) -> str:
        """What the program has said, all runs together."""
        return self._log_file.read_text(errors="replace")

    @property
    def _log_file(self) -> Path:
        return self.directory / f"{self.name}.log"

    def start(self) -> None:
        """Start and wait until ready; the caller may use it at once. Raises ServerDied."""
        user = nobody() if self.demoted else None
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv,
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
            )
        atexit.register(self.kill)
        self._wait_until_ready()

    def _environment(self) -> dict[str, str]:
        home = str(self.directory)  # Caddy and friends write below HOME
        bare = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        return (
            bare
            | {"HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home}
            | dict(self.environment)
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.ready():
            ended = self.process.poll()
            if ended is not None or time.monotonic() > deadline:
                self.kill()
                state = "is not ready" if ended is None else f"ended with {ended}"
                raise ServerDied(f"{self.name} {state}\n{self.log[-4000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it in good order; kill it if it will not."""
        if self.process.poll() is None:
            self.resume()
            self.process.send_signal(self.polite)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.kill()

    def kill(self) -> None:
        """SIGKILL it and all it started, as a power cut would; returns when they are gone."""
        self._signal_family(
            signal.SIGSTOP
        )  # a stopped parent cannot fork while we count its children
        family = self.family()
        self._signal_family(signal.SIGKILL)
        self.process.wait()
        while any(_lives(pid) for pid in family):
            time.sleep(0.002)
        atexit.unregister(self.kill)

    def pause(self) -> None:
        """SIGSTOP it and all it started: connections stay open, nobody answers."""
        self._signal_family(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_family(signal.SIGCONT)

    def restart(self) -> None:
        """Stop it if it runs, and start it again with the same arguments, port and directory."""
        self.stop()
        self.start()

    def _signal_family(self, number: signal.Signals) -> None:
        for pid in self.family():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def family(self) -> list[int]:
        """The process and its descendants: Postgres gives each of its children its own group."""
        if self.process.poll() is not None:
            return []
        family = [self.process.pid]
        for pid in family:  # grows while it is walked
            family += _children(pid)
        return family


def _children(parent: int) -> list[int]:
    return [pid for pid, (_, its_parent) in _all_processes() if its_parent == parent]


def _all_processes() -> Iterator[tuple[int, tuple[str, int]]]:
    for entry in Path("/proc").glob("[0-9]*"):
        state = _state(int(entry.name))
        if state is not None:
            yield int(entry.name), state


def _state(pid: int) -> tuple[str, int] | None:
    """(state letter, parent) of a process, or None if there is none."""
    with suppress(OSError):
        letter, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return letter, int(parent)
    return None


def _lives(pid: int) -> bool:
    state = _state(pid)
    return state is not None and state[0] not in "ZX"


@dataclass(frozen=True)
class Server:
    """A running server: where it is, and how to hurt it. Every verb waits until it is done."""

    name: str
    port: int
    url: str
    child: Child = field(repr=False)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.child.process

    @property
    def directory(self) -> Path:
        return self.child.directory

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.child.log

    def stop(self) -> None:
        self.child.stop()

    def kill(self) -> None:
        self.child.kill()

    def pause(self) -> None:
        self.child.pause()

    def resume(self) -> None:
        self.child.resume()

    def restart(self) -> None:
        self.child.restart()


def start_on_a_free_port(launch: Callable[[int], Server], port: int | None, *also: int) -> Server:
    """Start the server that `launch` makes for a port; another port if somebody was quicker."""
    if port is not None:
        return _started(launch(port))
    for _ in range(3):
        with suppress(ServerDied):
            return _started(launch(free_port(*also)))
    return _started(launch(free_port(*also)))


def _started(server: Server) -> Server:
    server.child.start()
    return server


def python_module(module: str, *arguments: str) -> list[str | Path]:
    """The command line of `python -m module`, with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
