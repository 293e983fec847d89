"""Faults that a TCP proxy injects into the bytes it forwards."""

import asyncio
import re
from collections import defaultdict, deque
from collections.abc import Iterable
from random import Random
from typing import Final
from uuid import UUID

from tests.stores.sql.tcp_proxy import Filter, ProxiedConnection

# A bulk reply.
_BULK: Final = re.compile(rb"\$(\d{1,4})\r\n")

# The statements that change sessions, and their audit trail with them.
_CHANGES: Final = re.compile(rb"INSERT INTO sessions|UPDATE sessions SET")
_TOUCHES: Final = re.compile(rb"UPDATE sessions SET last_seen_at")

# ReadyForQuery, outside of a transaction: the end of the reply to a committed statement.
_READY: Final = b"Z\0\0\0\5I"

# Sent in place of what is withheld, since an empty chunk would end the stream: a ParameterStatus
# that no client knows.
_NOTHING: Final = b"S\0\0\0\x0drig\0none\0"


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
    """Duplicate a reply, or send that to another lookup before or instead of it, at random."""

    def __init__(self, random: Random, *, share: float) -> None:
        self.injected = 0
        self._random = random
        self._share = share
        self._recent: list[bytes] = []

    def on_reply(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        del connection
        if not _is_hit(chunk):
            return chunk
        earlier, self._recent = self._recent, [*self._recent[-20:], chunk]
        if not earlier or self._random.random() >= self._share:
            return chunk
        self.injected += 1
        seal, _, _ = chunk.partition(b"\r\n$")
        same_seal = [each for each in earlier if each.startswith(seal)]
        stray = self._random.choice(same_seal or earlier)
        return self._random.choice((chunk + chunk, stray + chunk, stray))


def _is_hit(chunk: bytes) -> bool:
    """Return whether the chunk is the reply to one lookup: a seal, a record, and a seal."""
    replies, end = [], 0
    while end < len(chunk) and (found := _BULK.match(chunk, end)):
        start, end = end, found.end() + int(found[1]) + 2
        replies.append(chunk[start:end])
    return end == len(chunk) and len(replies) == 3 and replies[0] == replies[2] != replies[1]


class _Statements:
    """The statements of a kind that are executed on the connections to Postgres.

    Only those that are prepared after the start are recognised.
    """

    def __init__(self, text: re.Pattern[bytes]) -> None:
        self._text = text
        self._names: defaultdict[ProxiedConnection, set[bytes]] = defaultdict(set)

    def executed(self, connection: ProxiedConnection, chunk: bytes) -> list[bytes]:
        """Return the arguments of each execution in this request."""
        executions = []
        for kind, body in _messages(chunk):
            if kind == b"P" and self._text.search(body):
                self._names[connection].add(body.partition(b"\0")[0])
            if kind == b"B" and _statement(body) in self._names[connection]:
                executions.append(body)
        return executions


class CutsAfterCommit:
    """Cut the connection at the reply to a committed change, so that its result is unknown."""

    def __init__(self, random: Random, *, share: float) -> None:
        self.cut_count = 0
        self._random = random
        self._share = share
        self._statements = _Statements(_CHANGES)
        self._awaiting_commit: set[ProxiedConnection] = set()

    def on_request(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        if self._statements.executed(connection, chunk):
            self._awaiting_commit.add(connection)
        return chunk

    def on_reply(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        if connection not in self._awaiting_commit:
            return chunk
        if not chunk.endswith(_READY):  # not committed before ReadyForQuery
            return chunk
        self._awaiting_commit.discard(connection)
        if self._random.random() >= self._share:
            return chunk
        self.cut_count += 1
        connection.reset()
        return b""


class WithheldCommits:
    """Withhold the replies to the next committed change of each of these sessions."""

    def __init__(self, sessions: Iterable[str]) -> None:
        self._missing = {UUID(session).bytes for session in sessions}
        self._statements = _Statements(_CHANGES)
        self._sessions: dict[ProxiedConnection, bytes] = {}

    @property
    def is_complete(self) -> bool:
        """Whether a change of each session was committed, and its reply withheld."""
        return not self._missing

    def is_withheld(self, session: str) -> bool:
        """Return whether a change of this session was committed, and its reply withheld."""
        return UUID(session).bytes not in self._missing

    def on_request(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        for arguments in self._statements.executed(connection, chunk):
            for session in self._missing:
                if session in arguments:
                    self._sessions[connection] = session
        return chunk

    def on_reply(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        if connection not in self._sessions or not chunk.endswith(_READY):
            return chunk
        self._missing.discard(self._sessions[connection])
        return _NOTHING


class LateReplies:
    """Deliver the replies to touches so many seconds late, in their order."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._statements = _Statements(_TOUCHES)
        self._touching: set[ProxiedConnection] = set()
        self._late: deque[tuple[ProxiedConnection, bytes]] = deque()

    def is_late(self, session: str) -> bool:
        """Return whether a reply about the session is being delayed."""
        return any(UUID(session).bytes in reply for _, reply in self._late)

    @property
    def is_idle(self) -> bool:
        """Whether no reply is being delayed."""
        return not self._late

    def on_request(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        if self._statements.executed(connection, chunk):
            self._touching.add(connection)
        return chunk

    def on_reply(self, connection: ProxiedConnection, chunk: bytes) -> bytes:
        if connection not in self._touching:
            return chunk
        if chunk.endswith(_READY):
            self._touching.discard(connection)
        self._late.append((connection, chunk))
        asyncio.get_running_loop().call_later(self._seconds, self._deliver)
        return _NOTHING

    def _deliver(self) -> None:
        connection, chunk = self._late.popleft()
        connection.inject(chunk)


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
