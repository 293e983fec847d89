"""Words that no Redis was asked for, to be said on the wire before those that it was."""

from typing import Final

from sidegate.stores.codec import encode
from tests.contracts.values import a_session, a_tombstone
from tests.stores.sql.wire import Link


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(value), value)


STRAYS: Final = {
    "another's record": bulk(encode(a_session())),
    "another's tombstone": bulk(encode(a_tombstone())),
    "nothing": b"$-1\r\n",
    "an empty string": b"$0\r\n\r\n",
    "an empty array": b"*0\r\n",
    "an array": b"*1\r\n$1\r\nx\r\n",
    "a master": b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
    "a status": b"+OK\r\n",
    "a number": b":1\r\n",
    "an error": b"-ERR nobody asked\r\n",
    "an error of another type": b"-WRONGTYPE nobody asked\r\n",
    "a script that is missing": b"-NOSCRIPT nobody asked\r\n",
    "a move to nowhere": b"-MOVED\r\n",
    "a message": b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\ny\r\n",
    "a push": b">2\r\n+pubsub\r\n+x\r\n",
    "a map with a key that is an array": b"%1\r\n*0\r\n+b\r\n",
    "a number that is none": b",x\r\n",
    "no language": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "half an answer": b"$180\r\n00000",
    "bytes": bytes(range(256)),
}


class Once:
    """Puts words before the next answer, and before no other."""

    def __init__(self, words: bytes) -> None:
        self._words = words
        self.said = False

    def __call__(self, _: Link, chunk: bytes) -> bytes:
        words = b"" if self.said else self._words
        self.said = True
        return words + chunk
