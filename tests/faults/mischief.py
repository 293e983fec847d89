"""What a wire does to the bytes that pass."""

import re
from collections import defaultdict
from random import Random
from typing import Final

from tests.stores.sql.wire import Link, Passing

# A bulk reply that is long enough for a session's record.
_RECORD: Final = re.compile(rb"\$(\d{3,4})\r\n")

# The statements that change sessions, and their audit trail with them.
_CHANGES: Final = re.compile(rb"INSERT INTO sessions|UPDATE sessions SET")


def reset_each(number: int) -> Passing:
    """Cut the link at every `number`-th reply, counted over all links."""
    passed = 0

    def answers(link: Link, chunk: bytes) -> bytes:
        nonlocal passed
        passed += 1
        if passed % number == 0:
            link.cut()
            return b""
        return chunk

    return answers


class Strays:
    """Put another session's record before a reply, or say a reply twice, now and then."""

    def __init__(self, random: Random, *, share: float) -> None:
        self.put = 0
        self._random = random
        self._share = share
        self._heard: list[bytes] = []

    def answers(self, link: Link, chunk: bytes) -> bytes:
        del link
        record = _whole_record(chunk)
        if record is None:
            return chunk
        strays, self._heard = self._heard, [*self._heard[-20:], record]
        if not strays or self._random.random() >= self._share:
            return chunk
        self.put += 1
        if self._random.random() < 0.5:
            return chunk + record
        return self._random.choice(strays) + chunk


def _whole_record(chunk: bytes) -> bytes | None:
    """Return the chunk if it is one bulk reply of a record's size, and nothing else."""
    found = _RECORD.match(chunk)
    if found is None or len(chunk) != found.end() + int(found[1]) + 2:
        return None
    return chunk


class CutsAfterCommit:
    """Cut a link when the reply to a change comes back: it was done, and nobody hears of it."""

    def __init__(self, random: Random, *, share: float) -> None:
        self.cut = 0
        self._random = random
        self._share = share
        self._names: defaultdict[Link, set[bytes]] = defaultdict(set)
        self._armed: set[Link] = set()

    def questions(self, link: Link, chunk: bytes) -> bytes:
        for kind, body in _messages(chunk):
            if kind == b"P" and _CHANGES.search(body):
                self._names[link].add(body.partition(b"\0")[0])
            if kind == b"B" and _statement(body) in self._names[link]:
                self._armed.add(link)
        return chunk

    def answers(self, link: Link, chunk: bytes) -> bytes:
        if link not in self._armed:
            return chunk
        if not chunk.endswith(b"Z\0\0\0\5I"):  # until it is ready again it may not be committed
            return chunk
        self._armed.discard(link)
        if self._random.random() >= self._share:
            return chunk
        self.cut += 1
        link.cut()
        return b""


def _messages(chunk: bytes) -> list[tuple[bytes, bytes]]:
    """Return the whole messages of a chunk that begins with one."""
    messages, rest = [], chunk
    while len(rest) >= 5:
        length = int.from_bytes(rest[1:5])
        if len(rest) < length + 1:
            break
        messages.append((rest[:1], rest[5 : length + 1]))
        rest = rest[length + 1 :]
    return messages


def _statement(bind: bytes) -> bytes:
    """Return the name of the prepared statement in the body of a Bind message."""
    return bind.split(b"\0", 2)[1]
