"""A proxy that speaks TLS to clients and plain text to a server, as a server with TLS would."""

import asyncio
import ssl
from contextlib import suppress
from typing import Final

from tests.support.authority import Certificate
from tests.support.local_server import LocalServer

_SSL_REQUEST: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class TlsProxy(LocalServer):
    """Forwards to `port`.

    For Postgres TLS begins after the client's request for it. The attributes may be changed at any
    time, and apply to new connections.
    """

    def __init__(self, port: int, certificate: Certificate, *, is_postgres: bool = False) -> None:
        super().__init__()
        self._target = port
        self._is_postgres = is_postgres
        self.context = build_server_context(certificate)
        self.refuses_tls = False  # Postgres' answer to a request for TLS is no
        self.received = b""  # what clients sent in plain text

    def use(self, certificate: Certificate, *, client_ca: str | None = None) -> None:
        """Present another certificate; require one of clients, if there is a CA for them."""
        self.context = build_server_context(certificate, client_ca=client_ca)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await self._begin_tls(reader, writer):
                await self._forward(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _begin_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if self._is_postgres:
            first = await reader.readexactly(8)
            if first != _SSL_REQUEST:
                self.received += first + await reader.read(4096)
                return False
            writer.write(b"N" if self.refuses_tls else b"S")
            if self.refuses_tls:
                self.received += await reader.read(4096)
                return False
        await writer.start_tls(self.context)
        return True

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pipe(reader, server_writer))
                tasks.create_task(_pipe(server_reader, writer))
        finally:
            server_writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, RuntimeError):  # uvloop's, when the other end was closed
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


def build_server_context(
    certificate: Certificate, *, client_ca: str | None = None
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context
