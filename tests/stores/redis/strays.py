"""Replies that no command has requested, to inject before the requested ones."""

from typing import Final

from sidegate.stores.codec import encode
from tests.contracts.values import build_session, build_tombstone
from tests.stores.sql.tcp_proxy import ProxiedConnection


def format_bulk_string(value: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(value), value)


STRAY_REPLIES: Final = {
    "record of another session": format_bulk_string(encode(build_session())),
    "tombstone of another session": format_bulk_string(encode(build_tombstone())),
    "null": b"$-1\r\n",
    "empty string": b"$0\r\n\r\n",
    "empty array": b"*0\r\n",
    "array": b"*1\r\n$1\r\nx\r\n",
    "role master": b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
    "status": b"+OK\r\n",
    "integer": b":1\r\n",
    "error": b"-ERR stray\r\n",
    "wrong type error": b"-WRONGTYPE stray\r\n",
    "missing script error": b"-NOSCRIPT stray\r\n",
    "redirect without a target": b"-MOVED\r\n",
    "pubsub message": b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\ny\r\n",
    "RESP3 push": b">2\r\n+pubsub\r\n+x\r\n",
    "RESP3 map with an array as key": b"%1\r\n*0\r\n+b\r\n",
    "invalid RESP3 double": b",x\r\n",
    "HTTP response": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "truncated bulk string": b"$180\r\n00000",
    "all byte values": bytes(range(256)),
}


class InjectOnce:
    """Inserts a stray reply before the next reply, once."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self.injected = False

    def __call__(self, _: ProxiedConnection, chunk: bytes) -> bytes:
        stray = b"" if self.injected else self._reply
        self.injected = True
        return stray + chunk
