"""Listening sockets: those several processes share, and the files of Unix sockets."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from sidegate.core.address import Address

# As asyncio's own: connections that wait to be accepted.
_BACKLOG: Final = 100


class SharedListener:
    """One address at which several processes listen.

    At a TCP port each process has a socket of its own, among which the kernel shares out new
    connections. A socket listens while its process lives and no longer, for we keep no copy: when
    the process ends, what waits there unaccepted is reset, and its gateway asks another process at
    once, which is better than to hang until there is a successor. What we keep is bound and does
    not listen: the port stays ours between two processes.

    A Unix socket is one for all: what waits there is accepted by whoever lives.
    """

    def __init__(
        self, kept: socket.socket, *, host: str = "", file: "SocketFile | None" = None
    ) -> None:
        self._kept = kept
        self._host = host
        self._file = file

    @classmethod
    def open(cls, address: Address, *, socket_mode: int = 0o660) -> Self:
        """Take `address`. OSError: it is taken, or not ours to take."""
        if address.path is None:
            return cls(_kept(address.host, address.port), host=address.host)
        make_way(address.path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address.path)
        os.chmod(address.path, socket_mode)  # noqa: PTH101  # once, before anybody can be waiting
        listener.listen(_BACKLOG)
        return cls(listener, file=SocketFile(address.path))

    @contextmanager
    def lent(self) -> Iterator[int]:
        """Lend a descriptor while a process is started that inherits it, and is to listen on it.

        OSError: there is none.
        """
        if self._kept.family == socket.AF_UNIX:
            yield self._kept.fileno()
        else:
            with _bound(self._host, self._kept.getsockname()[1]) as fresh:
                yield fresh.fileno()

    def leave(self) -> None:
        """Let those who listen be the only ones: no process is started any more."""
        self._kept.close()

    def close(self) -> None:
        """Leave, and clear away the file of a Unix socket."""
        self.leave()
        if self._file is not None:
            self._file.remove()


class SocketFile:
    """The file of a Unix socket that has just been made."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._inode = _inode(path)

    def remove(self) -> None:
        """Remove it, but not one that a successor has put in its place."""
        if _inode(self._path) == self._inode:
            _unlink(self._path)


def make_way(path: str) -> None:
    """Remove a socket that a killed process left behind; leave a living one's, and any other file.

    OSError: somebody else has the path.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                _unlink(path)
            else:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _kept(host: str, port: int) -> socket.socket:
    """Return a TCP socket that keeps a port for those of ours who are to listen there."""
    kept = _bound(host, port, shared=False)
    # Only now: nobody else has the port, and by SO_REUSEPORT our processes share it. With
    # SO_REUSEADDR on both, anybody could bind it while nobody listens.
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return kept


def _bound(host: str, port: int, *, shared: bool = True) -> socket.socket:
    """Return a TCP socket that does not listen yet. `shared`: several may have the same port."""
    everywhere = not host and socket.has_dualstack_ipv6()
    bound = socket.socket(socket.AF_INET6 if everywhere or ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not everywhere)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound


def _inode(path: str) -> int | None:
    with suppress(FileNotFoundError):
        return Path(path).stat().st_ino
    return None


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        Path(path).unlink()
