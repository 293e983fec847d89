"""The TLS context of new connections, which follows its files: certificates are renewed."""

import logging
from pathlib import Path
from ssl import SSLContext
from typing import Final

from sidegate.core.client_tls import ClientTls, TlsFileError, build_client_context

_log: Final = logging.getLogger("sidegate.stores")

_Stamp = tuple[tuple[int, int, int] | None, ...]


class ClientContext:
    """Builds the context when it is first asked for, and again after a file has changed."""

    def __init__(self, tls: ClientTls, *, store: str) -> None:
        self._tls = tls
        self._store = store
        self._context: SSLContext | None = None
        self._stamp: _Stamp = ()

    def get(self) -> SSLContext:
        """Return the context for one connection.

        If the changed files cannot be used, it is still the previous one: a certificate and its key
        are not replaced at the same moment. Raise TlsFileError if there is none.
        """
        stamp = tuple(_read_stamp(path) for path in self._tls.files.values())
        if self._context is not None and stamp == self._stamp:
            return self._context
        try:
            context = build_client_context(self._tls)
        except TlsFileError as error:
            if self._context is None:
                raise
            if stamp != self._stamp:
                _log.warning(
                    "tls files unusable", extra={"store": self._store, "reason": str(error)}
                )
            context = self._context
        self._context, self._stamp = context, stamp
        return context


def _read_stamp(path: str) -> tuple[int, int, int] | None:
    """Return what changes when a file is replaced; None if it cannot be read."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
