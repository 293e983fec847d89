"""A client that sends HTTP/2 requests which libraries refuse to send: CONNECT, trailers."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    Field = tuple[str, str]

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4


def send_http2(
    port: int,
    fields: Sequence[Field],
    *,
    body: bytes,
    trailers: Sequence[Field] = (),
    ends: bool = True,
) -> None:
    """Send one request in cleartext and wait for the response, whatever it is.

    `fields` start with the pseudo-header fields. With `ends=False` the body stays open.
    """
    stream = _frame(_HEADERS, _END_HEADERS, stream=1, payload=_encode(fields))
    stream += _frame(_DATA, _END_STREAM if ends and not trailers else 0, stream=1, payload=body)
    if trailers:
        flags = _END_HEADERS | _END_STREAM
        stream += _frame(_HEADERS, flags, stream=1, payload=_encode(trailers))
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0) + _frame(_SETTINGS, _ACK) + stream)
        with connection.makefile("rb") as received:
            ends_of_requests = {_HEADERS, _RST_STREAM, _GOAWAY}
            next((kind for kind in _read_kinds(received) if kind in ends_of_requests), None)


def _read_kinds(received: BinaryIO) -> Iterator[int]:
    """Yield the types of the received frames; none if the other side does not speak HTTP/2."""
    while len(head := received.read(9)) == 9:
        received.read(int.from_bytes(head[:3], "big"))
        yield head[3]


def _frame(kind: int, flags: int, *, stream: int = 0, payload: bytes = b"") -> bytes:
    """Return a frame (RFC 9113, 4.1)."""
    return b"%b%c%c%b%b" % (
        len(payload).to_bytes(3, "big"),
        kind,
        flags,
        stream.to_bytes(4, "big"),
        payload,
    )


def _encode(fields: Sequence[Field]) -> bytes:
    """Return fields as literals that are not indexed (RFC 7541, 6.2.2)."""
    return b"".join(
        b"\x00" + _string(name.encode()) + _string(value.encode()) for name, value in fields
    )


def _string(text: bytes) -> bytes:
    assert len(text) < 127, "longer ones need more bytes of length"
    return b"%c%b" % (len(text), text)
