"""Faults at the reply of Postgres to a certain statement, injected by a proxy."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Final

from tests.scenarios.trust_sites import disconnect
from tests.stores.sql.tcp_proxy import ProxiedConnection, TcpProxy, pass_through

# Settings of the instance, so that the proxy sees the text of each statement.
UNPREPARED: Final = {"SIDEGATE_POSTGRES__PREPARED_STATEMENTS": "false"}

# Seconds until a statement that never comes fails the test.
_TIMEOUT: Final = 15.0

# A message that Postgres may send at any time: a parameter's value, here that of application_name.
_PARAMETER_STATUS: Final = b"S" + (22).to_bytes(4) + b"application_name\0\0"


class StatementFault:
    """Passes the first replies to statements of a pattern to `act`, in a proxy of `UNPREPARED`.

    `act` returns what to forward. A statement is executed before its reply comes, and committed.
    """

    def __init__(
        self,
        proxy: TcpProxy,
        pattern: bytes,
        *,
        act: Callable[[ProxiedConnection, bytes], bytes],
    ) -> None:
        self._pattern = re.compile(pattern)
        self._act = act
        self._prepared: set[ProxiedConnection] = set()
        self._executed: set[ProxiedConnection] = set()
        proxy.client_filter = self._on_request
        proxy.server_filter = self._on_reply

    def _on_request(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        for kind, body in _list_messages(chunk):
            if kind == b"P":
                self._prepared.discard(connection)
                if self._pattern.search(body):
                    self._prepared.add(connection)
            if kind == b"B" and connection in self._prepared:
                self._executed.add(connection)
        return chunk

    def _on_reply(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        return self._act(connection, chunk) if connection in self._executed else chunk


class CutAtCommit:
    """Cuts the link to Postgres when it has committed the next rotation, before its reply."""

    def __init__(self, proxy: TcpProxy) -> None:
        self._proxy = proxy
        self.happened = False
        StatementFault(proxy, rb"UPDATE sessions SET", act=self._cut)

    def heal(self) -> None:
        """Let the instance connect again."""
        self._proxy.client_filter = self._proxy.server_filter = pass_through
        self._proxy.refuse_new = False

    def _cut(self, _: ProxiedConnection, chunk: bytes) -> bytes:
        self.happened = True
        disconnect(self._proxy)
        return chunk  # to a connection that was reset


class HeldReplies:
    """Holds the replies to the statements of a pattern back until `release`."""

    def __init__(self, proxy: TcpProxy, pattern: bytes) -> None:
        self._proxy = proxy
        self._held: list[tuple[ProxiedConnection, bytes]] = []
        self._happened = asyncio.Event()
        StatementFault(proxy, pattern, act=self._hold)

    async def wait(self) -> None:
        """Return when a reply is held back."""
        async with asyncio.timeout(_TIMEOUT):
            await self._happened.wait()

    def release(self) -> None:
        """Deliver what was held, and hold nothing any more."""
        self._proxy.client_filter = self._proxy.server_filter = pass_through
        for connection, chunk in self._held:
            connection.inject(chunk)
        self._held.clear()

    def _hold(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        self._held.append((connection, chunk))
        self._happened.set()
        return _PARAMETER_STATUS  # the proxy would close the connection if nothing was left


def _list_messages(chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and body of the complete messages of a chunk that starts with one."""
    while len(chunk) >= 5:
        length = int.from_bytes(chunk[1:5])
        if len(chunk) <= length:
            return
        yield chunk[:1], chunk[5 : length + 1]
        chunk = chunk[length + 1 :]
