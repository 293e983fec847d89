"""Ask a running server whether it lives. Standard library only: a container asks often."""

import socket
from http.client import HTTPConnection, HTTPException
from typing import Final

from sidegate.core.address import Address

PATIENCE: Final = 3.0

# A server that listens everywhere is asked at home.
_EVERYWHERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class _Connection(HTTPConnection):
    """HTTP to a listener, be it of TCP or a Unix socket."""

    def __init__(self, address: Address) -> None:
        host = _EVERYWHERE.get(address.host, address.host)
        super().__init__("localhost" if address.path else host, address.port, timeout=PATIENCE)
        self._path = address.path

    def connect(self) -> None:
        if self._path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


def livez(address: Address) -> int:
    """Return the status of /livez. OSError: there was no answer in time."""
    connection = _Connection(address)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status
    except HTTPException as error:
        raise OSError(f"that is no HTTP: {error!r}") from error
    finally:
        connection.close()
