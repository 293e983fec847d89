"""The health check of a running server. Standard library only: a container runs it often."""

import socket
from http.client import HTTPConnection, HTTPException
from typing import Final

from sidegate.core.address import Address

TIMEOUT: Final = 3.0
"""Seconds for connecting, and for each read."""


class _Connection(HTTPConnection):
    """HTTP to a listener on TCP or on a Unix socket."""

    def __init__(self, address: Address) -> None:
        host = "localhost" if address.path else address.local.host
        super().__init__(host, address.port, timeout=TIMEOUT)
        self._path = address.path

    def connect(self) -> None:
        if self._path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def get_livez(address: Address) -> int:
    """Return the status of /livez. Raise OSError if there is no HTTP response in time."""
    connection = _Connection(address)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status
    except HTTPException as error:
        raise OSError(f"the response is not HTTP: {error!r}") from error
    finally:
        connection.close()
