"""A client that sends exactly what it is told: any header name, any path, any order of lines."""

from __future__ import annotations

import base64
import json
import os
import socket
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPMessage
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

Line = tuple[str, str]


@dataclass(frozen=True)
class Response:
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def reached_upstream(self) -> bool:
        return "X-Upstream" in self.headers

    @property
    def told(self) -> dict[str, Any]:
        """What the upstream said it received."""
        assert self.reached_upstream, (self.status, self.body)
        return json.loads(self.body)  # type: ignore[no-any-return]  # the upstream's own JSON object

    def upstream_values(self, name: str) -> list[str]:
        """The values of a header at the upstream; `-`, `_` and `.` are one, as for CGI."""
        return [value for sent, value in self.told["headers"] if folded(sent) == folded(name)]


def folded(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


class Client:
    """One kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(
        self,
        method: str = "GET",
        path: str = "/",
        lines: Iterable[Line] = (),
        body: bytes | None = None,
        *,
        chunked: bool = False,
    ) -> Response:
        self._connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in lines:
            self._connection.putheader(name, value)
        if chunked:
            self._connection.putheader("Transfer-Encoding", "chunked")
        elif body is not None:
            self._connection.putheader("Content-Length", str(len(body)))
        self._connection.endheaders(_pieces(body) if chunked else body, encode_chunked=chunked)
        with closing(self._connection.getresponse()) as response:
            return Response(response.status, response.headers, response.read())


def _pieces(body: bytes | None) -> Iterable[bytes]:
    assert body is not None
    return (body[at : at + 1000] for at in range(0, len(body), 1000))


def send(
    port: int,
    method: str = "GET",
    path: str = "/",
    lines: Iterable[Line] = (),
    body: bytes | None = None,
    *,
    chunked: bool = False,
) -> Response:
    """Send one request on a connection of its own."""
    with Client(port) as client:
        return client.send(method, path, lines, body, chunked=chunked)


def say_over_websocket(port: int, lines: Iterable[Line], text: str) -> tuple[int, str]:
    """Upgrade, say one short text, return the status and the answer (or "" if refused)."""
    key = base64.b64encode(os.urandom(16)).decode()
    head = "GET /socket HTTP/1.1\r\nHost: app.example.test\r\nConnection: Upgrade\r\n"
    head += f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines) + "\r\n"
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(head.encode())
        with connection.makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            while answer.readline().strip():
                pass
            if status != HTTPStatus.SWITCHING_PROTOCOLS:
                return status, ""
            connection.sendall(_masked_text_frame(text.encode()))
            _, length = answer.read(2)
            return status, answer.read(length).decode()


def _masked_text_frame(payload: bytes) -> bytes:
    """RFC 6455 section 5.2, for up to 125 bytes; the mask of zeros changes nothing."""
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload
