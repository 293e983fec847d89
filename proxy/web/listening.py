"""Listening sockets: those several processes share, and the files of Unix sockets."""

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from proxy.core.address import Address

# As asyncio's own: connections that wait to be accepted.
_BACKLOG: Final = 100


class SharedListener:
    """One address and a listening socket for each of several processes.

    A TCP port has a queue for each, among which the kernel shares out new connections; a Unix
    socket has one for all. Whoever keeps this keeps the queues: what waits in that of a process
    that has died is accepted by the next one that is given its socket.
    """

    def __init__(self, sockets: list[socket.socket], file: "SocketFile | None" = None) -> None:
        self._sockets = sockets
        self._file = file

    @classmethod
    def open(cls, address: Address, *, processes: int, socket_mode: int = 0o660) -> Self:
        """Listen at `address`. OSError: it is taken, or not ours to take."""
        if address.path is None:
            first = _tcp(address.host, address.port)
            port = first.getsockname()[1]
            return cls([first, *(_tcp(address.host, port) for _ in range(processes - 1))])
        make_way(address.path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address.path)
        os.chmod(address.path, socket_mode)  # noqa: PTH101  # once, before anybody can be waiting
        listener.listen(_BACKLOG)
        return cls([listener], SocketFile(address.path))

    def descriptor(self, process: int) -> int:
        """Return the descriptor that process number so-and-so, from 0 on, is to inherit."""
        return self._sockets[process % len(self._sockets)].fileno()

    def close(self) -> None:
        """Accept nobody any more."""
        for listener in self._sockets:
            listener.close()
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


def _tcp(host: str, port: int) -> socket.socket:
    everywhere = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if everywhere or ":" in host else socket.AF_INET
    return socket.create_server(
        (host, port),
        family=family,
        backlog=_BACKLOG,
        reuse_port=True,
        dualstack_ipv6=everywhere,
    )


def _inode(path: str) -> int | None:
    with suppress(FileNotFoundError):
        return Path(path).stat().st_ino
    return None


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        Path(path).unlink()
