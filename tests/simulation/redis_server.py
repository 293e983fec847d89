"""A Redis in memory: the commands that the product uses, and its script, on the wire.

What real servers do and this one does not is refused as an unknown command.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from random import Random
from typing import Any, Final

import hiredis

from sidegate.stores.codec import HEADER_SIZE
from sidegate.stores.redis import sealed_write
from sidegate.stores.redis.sealed_write import MAX_RECORD_SIZE

_FRESHNESS: Final = re.compile(rb"[01]\d+\Z")
_INCOMPLETE: Final = object()
_MAX_AGE: Final = 3_600.0  # as in the script
# Older states that are kept for replicas which lag.
_HISTORY_SIZE: Final = 64

Value = bytes | dict[bytes, bytes]


class CommandError(Exception):
    """A reply that is an error."""


@dataclass
class RedisData:
    """The keys of a server, and when they expire."""

    values: dict[bytes, Value] = field(default_factory=dict)
    expiry: dict[bytes, float] = field(default_factory=dict)

    def copy(self) -> "RedisData":
        values = {
            key: dict(value) if isinstance(value, dict) else value
            for key, value in self.values.items()
        }
        return RedisData(values, dict(self.expiry))

    def set(self, key: bytes, value: bytes, *, until: float | None) -> None:
        self.values[key] = value
        self.expiry.pop(key, None)
        if until is not None:
            self.expiry[key] = until

    def delete(self, key: bytes) -> bool:
        self.expiry.pop(key, None)
        return self.values.pop(key, None) is not None


class RedisServer:
    """A primary. `now` returns seconds; `time` is added for the server's own clock."""

    def __init__(
        self, process: Any, random: Random, *, now: Callable[[], float], time: float = 0.0
    ) -> None:
        self.process = process
        self.is_up = True
        self._random = random
        self.now = now
        self.clock_offset = time
        self.data = RedisData()
        self.is_read_only = False
        self.history: deque[RedisData] = deque(maxlen=_HISTORY_SIZE)
        self.run_id = self.replication_id = ""
        self._scripts: set[bytes] = set()
        self.sessions: list[RedisSession] = []
        self.restart()

    # Faults

    def restart(self, data: RedisData | None = None) -> None:
        """Begin a new life with this data; connections are the network's business."""
        self.run_id, self.replication_id = self._build_id(), self._build_id()
        self._scripts.clear()
        self.data = RedisData() if data is None else data.copy()
        self.history.clear()

    def replace_data(self, data: RedisData) -> None:
        """Take over another server's data, as REPLICAOF and then NO ONE do."""
        self.replication_id = self._build_id()
        self.data = data.copy()

    def evict(self, share: float) -> None:
        """Evict a share of the keys."""
        for key in list(self.data.values):
            if self._random.random() < share:
                self.data.delete(key)

    def _build_id(self) -> str:
        return f"{self._random.getrandbits(160):040x}"

    # Connections

    def accept(self, send: Callable[[bytes], None]) -> "RedisSession":
        session = RedisSession(self, send)
        self.sessions.append(session)
        return session

    # Commands

    def execute(self, session: "RedisSession", command: Sequence[bytes]) -> Any:
        name, *arguments = command
        handler = _COMMANDS.get(name.upper())
        if handler is None:
            return CommandError(f"ERR unknown command '{name.decode('ascii', 'replace')}'")
        if name.upper() in _WRITES:
            if self.is_read_only:
                return CommandError("READONLY You can't write against a read only replica.")
            self.history.append(self.data.copy())
        try:
            return handler(self, session, arguments)
        except CommandError as error:
            return error

    def _get(self, key: bytes) -> Value | None:
        until = self.data.expiry.get(key)
        if until is not None and until <= self.now():
            self.data.delete(key)
        return self.data.values.get(key)

    def _get_text(self, key: bytes) -> bytes:
        value = self._get(key)
        if isinstance(value, dict):
            raise CommandError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value or b""

    def _get_hash(self, key: bytes) -> dict[bytes, bytes]:
        value = self._get(key)
        if isinstance(value, bytes):
            raise CommandError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return {} if value is None else value

    def ping(self, session: "RedisSession", _: Sequence[bytes]) -> Any:
        return [b"pong", b""] if session.channels else "PONG"

    def info(self, _: "RedisSession", __: Sequence[bytes]) -> bytes:
        return f"run_id:{self.run_id}\r\nmaster_replid:{self.replication_id}\r\n".encode()

    def role(self, _: "RedisSession", __: Sequence[bytes]) -> list[Any]:
        return [b"slave", b"", 0] if self.is_read_only else [b"master", 0, []]

    def time(self, _: "RedisSession", __: Sequence[bytes]) -> list[bytes]:
        microseconds = round((self.now() + self.clock_offset) * 1_000_000)
        return [b"%d" % part for part in divmod(microseconds, 1_000_000)]

    def getrange(self, _: "RedisSession", arguments: Sequence[bytes]) -> bytes:
        key, start, end = arguments
        return self._get_text(key)[int(start) : int(end) + 1]

    def mget(self, _: "RedisSession", keys: Sequence[bytes]) -> list[bytes | None]:
        values = [self._get(key) for key in keys]
        return [value if isinstance(value, bytes) else None for value in values]

    def set(self, _: "RedisSession", arguments: Sequence[bytes]) -> str:
        key, value, *options = arguments
        until = None
        match options:
            case []:
                pass
            case [b"EX", seconds]:
                until = self.now() + int(seconds)
            case [b"PX", milliseconds]:
                until = self.now() + int(milliseconds) / 1000
            case _:
                raise CommandError("ERR syntax error")
        self.data.set(key, value, until=until)
        return "OK"

    def delete(self, _: "RedisSession", keys: Sequence[bytes]) -> int:
        return sum(self.data.delete(key) for key in keys)

    def hset(self, _: "RedisSession", arguments: Sequence[bytes]) -> int:
        key, *pairs = arguments
        kept = self._get_hash(key)
        added = dict(zip(pairs[::2], pairs[1::2], strict=True))
        number = len(added.keys() - kept.keys())
        self.data.values[key] = kept | added
        return number

    def hkeys(self, _: "RedisSession", arguments: Sequence[bytes]) -> list[bytes]:
        return list(self._get_hash(arguments[0]))

    def hmget(self, _: "RedisSession", arguments: Sequence[bytes]) -> list[bytes | None]:
        key, *names = arguments
        kept = self._get_hash(key)
        return [kept.get(name) for name in names]

    def hdel(self, _: "RedisSession", arguments: Sequence[bytes]) -> int:
        key, *names = arguments
        kept = self._get_hash(key)
        return sum(kept.pop(name, None) is not None for name in names)

    def scan(self, _: "RedisSession", arguments: Sequence[bytes]) -> list[Any]:
        """List all keys at once: a cursor that lasts is the server's business."""
        match arguments:
            case [_, b"MATCH", pattern, b"COUNT", _]:
                text = pattern.decode("ascii").replace("{", "[{]").replace("}", "[}]")
                matches = re.compile(translate(text)).match
                keys = [key for key in list(self.data.values) if self._get(key) is not None]
                return [b"0", [key for key in keys if matches(key.decode("utf-8", "replace"))]]
        raise CommandError("ERR syntax error")

    def publish(self, _: "RedisSession", arguments: Sequence[bytes]) -> int:
        channel, message = arguments
        receivers = [session for session in self.sessions if channel in session.channels]
        for session in receivers:
            session.send([b"message", channel, message])
        return len(receivers)

    def subscribe(self, session: "RedisSession", channels: Sequence[bytes]) -> Any:
        [channel] = channels
        session.channels[channel] = None
        return [b"subscribe", channel, len(session.channels)]

    def select(self, _: "RedisSession", __: Sequence[bytes]) -> str:
        return "OK"

    def flushall(self, _: "RedisSession", __: Sequence[bytes]) -> str:
        self.data = RedisData()
        return "OK"

    def evalsha(self, _: "RedisSession", arguments: Sequence[bytes]) -> Any:
        sha, *rest = arguments
        if sha not in self._scripts:
            raise CommandError("NOSCRIPT No matching script. Please use EVAL.")
        return self._run_script(rest)

    def eval(self, _: "RedisSession", arguments: Sequence[bytes]) -> Any:
        script, *rest = arguments
        if script != sealed_write._SCRIPT:  # noqa: SLF001 - its only copy
            raise CommandError("ERR unknown script")
        self._scripts.add(sealed_write._SCRIPT_SHA.encode())  # noqa: SLF001 - as the script
        return self._run_script(rest)

    def _run_script(self, arguments: Sequence[bytes]) -> list[Any]:
        """Do what the script of sealed_write.py does, step by step."""
        count, *rest = arguments
        keys, values = rest[: int(count)], rest[int(count) :]
        nonce, expected, prefix, moved_to = values[:4]
        seal = self._get_range(keys[0], MAX_RECORD_SIZE + 1)
        is_same = seal == expected
        if not is_same and (not prefix or not seal.startswith(prefix)):
            return [nonce, 0, seal]
        replies: list[Any] = [nonce, 1, seal]
        for number, key in enumerate(keys[1:]):
            step, record, unreadable = values[4 + 3 * number : 7 + 3 * number]
            replies.append(self._run_step(step, key, record=record, unreadable=unreadable))
        if is_same and moved_to:
            self.data.set(keys[0], moved_to, until=None)
        return replies

    def _run_step(self, step: bytes, key: bytes, *, record: bytes, unreadable: bytes) -> bytes:
        head, kept = record[:HEADER_SIZE], self._get_range(key, HEADER_SIZE)
        is_fresher = len(kept) >= HEADER_SIZE and bool(_FRESHNESS.match(kept)) and kept > head
        until = self.now() + _MAX_AGE
        reply = b""
        if step == b"fill":
            if is_fresher:
                reply = self._get_range(key, MAX_RECORD_SIZE + 1)
            if not is_fresher or reply == unreadable:
                self.data.set(key, record, until=until)
                reply = record
        elif step == b"delete":
            self.data.delete(key)
        elif not is_fresher:
            self.data.set(key, record, until=until)
        return reply

    def _get_range(self, key: bytes, size: int) -> bytes:
        value = self._get(key)
        return value[:size] if isinstance(value, bytes) else b""


_Handler = Callable[[RedisServer, "RedisSession", Sequence[bytes]], Any]

_COMMANDS: Final[Mapping[bytes, _Handler]] = {
    b"PING": RedisServer.ping,
    b"INFO": RedisServer.info,
    b"ROLE": RedisServer.role,
    b"TIME": RedisServer.time,
    b"GETRANGE": RedisServer.getrange,
    b"MGET": RedisServer.mget,
    b"SET": RedisServer.set,
    b"DEL": RedisServer.delete,
    b"HSET": RedisServer.hset,
    b"HKEYS": RedisServer.hkeys,
    b"HMGET": RedisServer.hmget,
    b"HDEL": RedisServer.hdel,
    b"SCAN": RedisServer.scan,
    b"PUBLISH": RedisServer.publish,
    b"SUBSCRIBE": RedisServer.subscribe,
    b"SELECT": RedisServer.select,
    b"FLUSHALL": RedisServer.flushall,
    b"EVALSHA": RedisServer.evalsha,
    b"EVAL": RedisServer.eval,
}
_WRITES: Final = frozenset({b"SET", b"DEL", b"HSET", b"HDEL", b"EVALSHA", b"EVAL", b"FLUSHALL"})


class RedisSession:
    """One connection: reads commands, and sends replies and messages."""

    def __init__(self, server: RedisServer, send: Callable[[bytes], None]) -> None:
        self._server = server
        self._send = send
        self._parser = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self.channels: dict[bytes, None] = {}
        self.is_closed = False

    @property
    def is_subscribed(self) -> bool:
        return bool(self.channels)

    def receive(self, data: bytes) -> None:
        self._parser.feed(data)
        replies = []
        while (command := self._parser.gets()) is not _INCOMPLETE:
            replies.append(encode_reply(self._server.execute(self, command)))
        if replies and not self.is_closed:
            self._send(b"".join(replies))

    def send(self, reply: Any) -> None:
        self._send(encode_reply(reply))

    def close(self) -> None:
        self.is_closed = True
        self.channels.clear()
        if self in self._server.sessions:
            self._server.sessions.remove(self)


def encode_reply(reply: Any) -> bytes:
    """Return a reply as RESP2 has it. A `str` is a status."""
    match reply:
        case None:
            return b"$-1\r\n"
        case CommandError():
            return b"-%b\r\n" % str(reply).encode()
        case str():
            return b"+%b\r\n" % reply.encode()
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case list():
            return b"*%d\r\n%b" % (len(reply), b"".join(map(encode_reply, reply)))
    raise TypeError(f"no reply: {reply!r}")


class TcpProtocol(asyncio.Protocol):
    """Serves a simulated Redis to real sockets, for the contract suites."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._session = self._server.accept(transport.write)

    def data_received(self, data: bytes) -> None:
        self._session.receive(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._session.close()
