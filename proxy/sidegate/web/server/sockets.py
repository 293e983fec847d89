"""Listening sockets shared by several processes, and the files of Unix sockets."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from sidegate.core.address import Address

# Connections that wait to be accepted; asyncio's default.
_BACKLOG: Final = 100


class SharedListener:
    """One address at which several processes listen.

    On a TCP port each process has a socket of its own (SO_REUSEPORT), and the kernel distributes
    new connections. No copy of such a socket is kept: when its process ends, unaccepted connections
    are reset, and the gateway retries with another process at once instead of waiting for a
    replacement. The socket kept here is bound and does not listen: it reserves the port meanwhile.

    A Unix socket is one socket for all: any running process accepts what waits there.
    """

    def __init__(
        self, reserved: socket.socket, *, host: str = "", file: "SocketFile | None" = None
    ) -> None:
        self._reserved = reserved
        self._host = host
        self._file = file

    @classmethod
    def open(cls, address: Address, *, socket_mode: int = 0o660) -> Self:
        """Bind `address`. Raise OSError if it is in use or not permitted."""
        if address.path is None:
            return cls(_reserve_port(address.host, address.port), host=address.host)
        remove_stale_socket(address.path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address.path)
        os.chmod(address.path, socket_mode)  # noqa: PTH101  # once, before it listens
        listener.listen(_BACKLOG)
        return cls(listener, file=SocketFile(address.path))

    @contextmanager
    def lend_descriptor(self) -> Iterator[int]:
        """Yield a descriptor for a process to inherit and listen on; closed afterwards for TCP.

        Raise OSError if no socket can be opened.
        """
        if self._reserved.family == socket.AF_UNIX:
            yield self._reserved.fileno()
        else:
            with bind_port(self._host, self._reserved.getsockname()[1]) as fresh:
                yield fresh.fileno()

    def release(self) -> None:
        """Close the kept socket: no more processes will be started."""
        self._reserved.close()

    def close(self) -> None:
        """Release, and remove the file of a Unix socket."""
        self.release()
        if self._file is not None:
            self._file.remove()


class SocketFile:
    """The file of a Unix socket that has just been bound."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._inode = _inode(path)

    def remove(self) -> None:
        """Remove the file, unless another process has replaced it."""
        if _inode(self._path) == self._inode:
            _unlink(self._path)


def remove_stale_socket(path: str) -> None:
    """Remove the socket file of a killed process.

    Raise OSError if a process listens on it, or if it is another kind of file.
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


def _reserve_port(host: str, port: int) -> socket.socket:
    """Return a TCP socket that reserves a port for the processes that will listen there."""
    reserved = bind_port(host, port, shared=False)
    # Set after the bind, which fails if the port is in use. SO_REUSEADDR must go: with it on both
    # sockets, any process could bind the port while none listens.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return reserved


def is_every_address(host: str) -> bool:
    """Return whether a listen host means every address, of IPv4 and IPv6."""
    return host in ("", "::")


def bind_port(host: str, port: int, *, shared: bool = True) -> socket.socket:
    """Return a bound TCP socket. `shared`: several sockets may bind the same port.

    For every address it takes connections of IPv4 and IPv6, as far as the machine has both.
    """
    has_both = is_every_address(host) and socket.has_dualstack_ipv6()
    bound = socket.socket(socket.AF_INET6 if has_both or ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not has_both)
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
