"""Programs as child processes of the tests: unprivileged, in their own session, always stopped."""

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
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
SCRIPTS = Path(sysconfig.get_path("scripts"))
# Seconds. A cold start of the slowest server takes one; the rest is for a busy machine.
START_TIMEOUT = 30.0


class ServerFailed(Exception):
    """The program exited or timed out before it was ready; the message ends with its log."""


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test because a program is missing; fail where skips are not allowed (in the CI)."""
    if os.environ.get("TESTS_SKIP_NOTHING") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def child_user() -> pwd.struct_passwd | None:
    """Return the user of child processes if the tests run as root, which Postgres refuses."""
    return pwd.getpwnam("nobody") if os.getuid() == 0 else None


def make_directory() -> Path:
    """Return a new directory owned by the child user, who cannot read pytest's directories."""
    directory = Path(
        tempfile.mkdtemp(prefix="sg-", dir="/tmp")
    )  # short, for the paths of Unix sockets
    directory.chmod(0o755)
    chown_to_child_user(directory)
    return directory


def chown_to_child_user(directory: Path) -> None:
    """Make the child user the owner of a directory tree."""
    user = child_user()
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
    """Return the first existing candidate, at a path that the child user can read, or skip."""
    for candidate in candidates:
        if candidate is not None and Path(candidate).exists():
            # The last link is kept: Debian's redis-server is one, and behaves by its name.
            parent = Path(candidate).parent.resolve()
            return _make_accessible(parent / Path(candidate).name)
    skip_or_fail(f"{name} is not installed; looked for {[str(c) for c in candidates if c]}")


@functools.cache
def _make_accessible(path: Path) -> Path:
    """Return the path, or a copy that the child user can read (a venv may be below /root)."""
    if child_user() is None or all(parent.stat().st_mode & 0o001 for parent in path.parents):
        return path
    if path.is_relative_to(SITE_PACKAGES):
        program = path.relative_to(SITE_PACKAGES)
        return _copy_package(program.parts[0]) / program
    home = _make_home()
    if path.is_dir():
        shutil.copytree(path, home / path.name, symlinks=True)
    else:
        shutil.copy2(path, home / path.name)
    return home / path.name


@functools.cache
def _copy_package(name: str) -> Path:
    """Copy an installed package, and the libraries that its wheel put beside it."""
    home = _make_home()
    for folder in (name, f"{name}.libs"):
        if (SITE_PACKAGES / folder).exists():
            shutil.copytree(SITE_PACKAGES / folder, home / folder, symlinks=True)
    return home


def _make_home() -> Path:
    """Return a directory that is removed when the tests end."""
    home = make_directory()
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def find_free_port(*also_above: int) -> int:
    """Return a free port of 127.0.0.1 whose ports at each offset above are free, too.

    All lie below 32,768, where Linux begins to take ports for outgoing connections.
    """
    highest_offset = max(also_above, default=0)
    while True:
        port = 20_000 + secrets.randbelow(32_768 - 20_000 - highest_offset)
        if all(_is_free(port + offset) for offset in (0, *also_above)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def is_listening(port: int) -> bool:
    """Return whether something accepts connections on the port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


@dataclass(eq=False)
class Child:
    """A program that can be restarted; `process` is its current process.

    `is_ready` is polled after a start. `stop_signal` requests a graceful shutdown.
    """

    name: str
    argv: Sequence[str | Path]
    directory: Path
    is_ready: Callable[[], bool]
    stop_signal: signal.Signals = signal.SIGTERM
    environment: Mapping[str, str] = field(default_factory=dict)
    unprivileged: bool = True
    _process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def log(self) -> str:
        """The output of the program, of all its runs."""
        return self._log_file.read_text(errors="replace")

    @property
    def _log_file(self) -> Path:
        return self.directory / f"{self.name}.log"

    def start(self) -> None:
        """Start the program and wait until it is ready. Raise ServerFailed if it is not."""
        user = child_user() if self.unprivileged else None
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
        home = str(self.directory)  # Caddy and others write below HOME
        bare = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        return (
            bare
            | {"HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home}
            | dict(self.environment)
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self.is_ready():
            exit_code = self.process.poll()
            if exit_code is not None or time.monotonic() > deadline:
                self.kill()
                state = "is not ready" if exit_code is None else f"exited with {exit_code}"
                raise ServerFailed(f"{self.name} {state}\n{self.log[-4000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Shut down gracefully; kill it after a timeout."""
        if self.process.poll() is None:
            self.resume()
            self.process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.kill()

    def kill(self) -> None:
        """SIGKILL the process and its descendants; return when they have exited."""
        self._signal_tree(signal.SIGSTOP)  # a stopped parent cannot fork meanwhile
        tree = self.process_tree()
        self._signal_tree(signal.SIGKILL)
        self.process.wait()
        while any(_is_running(pid) for pid in tree):
            time.sleep(0.002)
        atexit.unregister(self.kill)

    def pause(self) -> None:
        """SIGSTOP the process and its descendants: connections stay open without responses."""
        self._signal_tree(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_tree(signal.SIGCONT)

    def restart(self) -> None:
        """Stop it if it is running, and start it with the same arguments, port and directory."""
        self.stop()
        self.start()

    def _signal_tree(self, number: signal.Signals) -> None:
        for pid in self.process_tree():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def process_tree(self) -> list[int]:
        """Return the process and its descendants: Postgres puts each child in its own group."""
        if self.process.poll() is not None:
            return []
        tree, children = [self.process.pid], _children_by_parent()
        for pid in tree:  # grows during the iteration
            tree += children[pid]
        return tree


def _children_by_parent() -> Mapping[int, list[int]]:
    children = defaultdict[int, list[int]](list)
    for name in os.listdir("/proc"):  # noqa: PTH208  # a thousand Path objects take longer
        state = _state(int(name)) if name.isdecimal() else None
        if state is not None:
            children[state[1]].append(int(name))
    return children


def _state(pid: int) -> tuple[str, int] | None:
    """Return state letter and parent of a process, or None if it does not exist."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:  # noqa: PTH123  # as above
        letter, parent, *_ = file.read().rpartition(")")[2].split(maxsplit=2)
        return letter, int(parent)
    return None


def _is_running(pid: int) -> bool:
    state = _state(pid)
    return state is not None and state[0] not in "ZX"


@dataclass(frozen=True)
class Server:
    """A running server, and methods for faults. Each returns when its effect is complete."""

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


def start_on_free_port(launch: Callable[[int], Server], port: int | None, *also: int) -> Server:
    """Start the server that `launch` builds for a port; try other ports if one was taken."""
    if port is not None:
        return _start(launch(port))
    for _ in range(3):
        with suppress(ServerFailed):
            return _start(launch(find_free_port(*also)))
    return _start(launch(find_free_port(*also)))


def _start(server: Server) -> Server:
    server.child.start()
    return server


def module_command(module: str, *arguments: str) -> list[str | Path]:
    """Return the command line of `python -m module`, with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
