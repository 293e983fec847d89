"""An HTTP client that sends any header names, paths and order of lines unchanged."""

from __future__ import annotations

import base64
import json
import os
import socket
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPMessage, HTTPResponse
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

HeaderLine = tuple[str, str]
HOST = "app.example.test"


@dataclass(frozen=True)
class Response:
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def reached_upstream(self) -> bool:
        return "X-Upstream" in self.headers

    @property
    def upstream_request(self) -> dict[str, Any]:
        """The request as received by the upstream."""
        assert self.reached_upstream, (self.status, self.body)
        return json.loads(self.body)  # type: ignore[no-any-return]  # a JSON object

    def upstream_values(self, name: str) -> list[str]:
        """Return the values of a header at the upstream; `-`, `_` and `.` are equal, as in CGI."""
        return [
            value
            for sent, value in self.upstream_request["headers"]
            if normalize_name(sent) == normalize_name(name)
        ]


def normalize_name(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


class Client:
    """A persistent connection, replaced when the other side closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def send(
        self,
        method: str = "GET",
        path: str = "/",
        lines: Iterable[HeaderLine] = (),
        body: bytes | None = None,
        *,
        chunked: bool = False,
        host: str = HOST,
    ) -> Response:
        """Send head and body in one write, so that an early response meets no partial request."""
        if self._connection is None:
            self._connection = socket.create_connection(("127.0.0.1", self._port), 5)
        self._connection.sendall(
            _head(method, path, [("Host", host), *lines, *_framing(body, chunked)])
            + _framed(body, chunked)
        )
        with closing(HTTPResponse(self._connection, method=method)) as received:
            received.begin()
            response = Response(received.status, received.headers, received.read())
            if received.will_close:
                self._close()
        return response

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _head(method: str, path: str, lines: Iterable[HeaderLine]) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode()


def _framing(body: bytes | None, chunked: bool) -> list[HeaderLine]:
    if body is None:
        return []
    return [("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body)))]


def _framed(body: bytes | None, chunked: bool) -> bytes:
    if body is None or not chunked:
        return body or b""
    pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def send(
    port: int,
    method: str = "GET",
    path: str = "/",
    lines: Iterable[HeaderLine] = (),
    body: bytes | None = None,
    *,
    chunked: bool = False,
    host: str = HOST,
) -> Response:
    """Send one request on a new connection."""
    with Client(port) as client:
        return client.send(method, path, lines, body, chunked=chunked, host=host)


def send_over_websocket(port: int, lines: Iterable[HeaderLine], text: str) -> tuple[int, str]:
    """Upgrade and send a short text; return the status and the reply, "" if not upgraded."""
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    upgrade += [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", key)]
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(_head("GET", "/socket", [("Host", HOST), *upgrade, *lines]))
        with connection.makefile("rb") as response:
            status = int(response.readline().split()[1])
            while response.readline().strip():
                pass
            if status != HTTPStatus.SWITCHING_PROTOCOLS:
                return status, ""
            connection.sendall(_masked_text_frame(text.encode()))
            _, length = response.read(2)
            return status, response.read(length).decode()


def _masked_text_frame(payload: bytes) -> bytes:
    """Return a frame (RFC 6455 section 5.2) of up to 125 bytes; the mask of zeros is neutral."""
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload
