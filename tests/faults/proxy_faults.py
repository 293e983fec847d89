"""Faults that a TCP proxy injects into the bytes it forwards."""

import re
from collections import defaultdict
from random import Random
from typing import Final

from tests.stores.sql.tcp_proxy import Filter, ProxiedConnection

# A bulk reply long enough for a session record.
_RECORD: Final = re.compile(rb"\$(\d{3,4})\r\n")

# The statements that change sessions, and their audit trail with them.
_CHANGES: Final = re.compile(rb"INSERT INTO sessions|UPDATE sessions SET")


def reset_each(number: int) -> Filter:
    """Return a filter that resets the connection at every `number`-th reply of all."""
    passed = 0

    def on_reply(connection: ProxiedConnection, chunk: bytes) -> bytes:
        nonlocal passed
        passed += 1
        if passed % number == 0:
            connection.reset()
            return b""
        return chunk

    return on_reply


class StrayReplies:
    """Insert another session's record before a reply, or duplicate a reply, at random."""

    def __init__(self, random: Random, *, share: float) -> None:
        self.injected = 0
        self._random = random
        self._share = share
        self._recent: list[bytes] = []

    def on_reply(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        del connection
        record = _find_record(chunk)
        if record is None:
            return chunk
        earlier, self._recent = self._recent, [*self._recent[-20:], record]
        if not earlier or self._random.random() >= self._share:
            return chunk
        self.injected += 1
        if self._random.random() < 0.5:
            return chunk + record
        return self._random.choice(earlier) + chunk


def _find_record(chunk: bytes) -> bytes | None:
    """Return the chunk if it is exactly one bulk reply of a record's size."""
    found = _RECORD.match(chunk)
    if found is None or len(chunk) != found.end() + int(found[1]) + 2:
        return None
    return chunk


class CutsAfterCommit:
    """Cut the connection at the reply to a committed change, so that its result is unknown."""

    def __init__(self, random: Random, *, share: float) -> None:
        self.cut_count = 0
        self._random = random
        self._share = share
        self._change_statements: defaultdict[ProxiedConnection, set[bytes]] = defaultdict(set)
        self._awaiting_commit: set[ProxiedConnection] = set()

    def on_request(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        for kind, body in _messages(chunk):
            if kind == b"P" and _CHANGES.search(body):
                self._change_statements[connection].add(body.partition(b"\0")[0])
            if kind == b"B" and _statement(body) in self._change_statements[connection]:
                self._awaiting_commit.add(connection)
        return chunk

    def on_reply(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        if connection not in self._awaiting_commit:
            return chunk
        if not chunk.endswith(b"Z\0\0\0\5I"):  # not committed before ReadyForQuery
            return chunk
        self._awaiting_commit.discard(connection)
        if self._random.random() >= self._share:
            return chunk
        self.cut_count += 1
        connection.reset()
        return b""


def _messages(chunk: bytes) -> list[tuple[bytes, bytes]]:
    """Return the complete messages of a chunk that starts with one."""
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
