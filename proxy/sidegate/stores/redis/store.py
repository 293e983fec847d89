"""The session cache in Redis, which never returns what was written before a restart.

Keys are `sidegate:v1:<server ID>:<generation>:s:{<digest>}`; for the server ID see connection.py.
The database holds the current generation, and begins another when a change could not be written to
Redis. The braces make the slot in a Cluster depend on the digest only.
"""

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Final, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.codec import HEADER_SIZE, decode, encode, to_microseconds
from sidegate.stores.redis.connection import (
    STORE_NAME,
    BorrowedConnection,
    RedisClient,
    check_replies,
    translate_errors,
)
from sidegate.stores.redis.topology import Pool

_Result = TypeVar("_Result")

# Longer than any record in bytes: a huge value that another program has written under the key must
# not be read as a whole.
_MAX_RECORD_SIZE: Final = 16 * 1024

# A record's header compares as text by freshness. A value without such a header, of whatever type,
# is overwritten; so is the value that the caller could not read (the last argument), if it is still
# there. The reply is the record that was kept: no other reply looks like it.
_KEEP_FRESHER: Final = b"""
local kept = redis.pcall('GETRANGE', KEYS[1], 0, tonumber(ARGV[3]))
if type(kept) == 'string' and #kept > %(head)d and kept ~= ARGV[4]
   and string.find(string.sub(kept, 1, %(head)d), '^[01]%%d+$')
   and string.sub(kept, 1, %(head)d) > string.sub(ARGV[1], 1, %(head)d) then
  return kept
end
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2])
return ARGV[1]
""" % {b"head": HEADER_SIZE}
_SCRIPT_SHA: Final = sha1(_KEEP_FRESHER, usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class _Put:
    """A session to put, its record, and the last reply of Redis to it."""

    session: Session
    record: bytes
    reply: Any = None

    def command(self, namespace: str) -> tuple[Any, ...]:
        """Return the arguments of the script; it overwrites a value that was unreadable."""
        key = _key(namespace, self.session.digest)
        until = to_microseconds(self.session.expires_at) // 1000
        unreadable = self.reply if isinstance(self.reply, bytes) else b""
        return (1, key, self.record, until, _MAX_RECORD_SIZE, unreadable)


class RedisStore:
    """A cache backend. An unreadable record is reported and counts as a miss."""

    def __init__(
        self,
        url: str,
        *,
        trust: RedisTrust,
        on_unreadable: Callable[[str], None],
        timeout: float = 0.05,
    ) -> None:
        """Connect on the first request, as RedisClient does.

        Only sessions of `trust.generation` are read and written; none are before it is known.
        `on_unreadable` receives the store's name for each unreadable record.
        """
        self.client = RedisClient(url, timeout=timeout)
        self._trust = trust
        self._on_unreadable = on_unreadable

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        self._require_generation()
        with translate_errors():
            groups = await self._group_by_pool(digests)
            results = await _gather(self._find_in_pool(*group) for group in groups.items())
        return {digest: session for result in results for digest, session in result.items()}

    async def find(self, digest: Digest) -> Session | None:
        return (await self.find_many((digest,))).get(digest)

    async def put(self, session: Session) -> Session:
        return (await self.put_many({session.digest: session}))[session.digest]

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        self._require_generation()
        with translate_errors():
            groups = await self._group_by_pool(sessions)
            results = await _gather(
                self._put_in_pool(pool, [sessions[digest] for digest in digests])
                for pool, digests in groups.items()
            )
        return {digest: session for result in results for digest, session in result.items()}

    async def ping(self) -> None:
        """Return when Redis answers. Raise StoreUnavailable if it does not."""
        await self.client.ping()

    async def close(self) -> None:
        await self.client.close()

    async def _find_in_pool(self, pool: Pool, digests: Sequence[Digest]) -> dict[Digest, Session]:
        found = {}
        async with self.client.acquire(pool) as connection:
            commands = (
                ("GETRANGE", _key(self._namespace(connection), digest), 0, _MAX_RECORD_SIZE)
                for digest in digests
            )
            replies = await connection.execute(*commands)
            for digest, reply in zip(digests, check_replies(replies), strict=True):
                session = await self._read_session(connection, digest, reply=reply)
                if session is not None:
                    found[digest] = session
        return found

    async def _put_in_pool(self, pool: Pool, sessions: Sequence[Session]) -> dict[Digest, Session]:
        kept: dict[Digest, Session] = {}
        puts = [_Put(session, encode(session)) for session in sessions]
        async with self.client.acquire(pool) as connection:
            for _ in range(2):
                for put, reply in zip(puts, await self._run_script(connection, puts), strict=True):
                    put.reply = reply
                    if (session := await self._read_kept(connection, put)) is not None:
                        kept[put.session.digest] = session
                puts = [put for put in puts if put.session.digest not in kept]
                if not puts:
                    return kept
                await connection.drop()
        raise RedisConnectionError("reply to another command")

    async def _read_kept(self, connection: BorrowedConnection, put: _Put) -> Session | None:
        """Return the session that was kept, or None if the reply does not contain it.

        Then either there is an unreadable body after a fresher header, which would stay until it
        expires, or the reply is not ours and the kept session is not known: it may be a tombstone.
        """
        if put.reply == put.record:
            return put.session
        kept = await self._read_session(connection, put.session.digest, reply=put.reply)
        return kept if kept is not None and kept.freshness > put.session.freshness else None

    async def _run_script(self, connection: BorrowedConnection, puts: Sequence[_Put]) -> list[Any]:
        commands = [put.command(self._namespace(connection)) for put in puts]
        replies = await connection.execute(
            *(("EVALSHA", _SCRIPT_SHA, *command) for command in commands)
        )
        if any(isinstance(reply, NoScriptError) for reply in replies):
            replies = await connection.execute(
                *(("EVAL", _KEEP_FRESHER, *command) for command in commands)
            )
        return check_replies(replies)

    async def _read_session(
        self, connection: BorrowedConnection, digest: Digest, *, reply: Any
    ) -> Session | None:
        """Return the session in a reply if it belongs to `digest`, else None."""
        if not reply:
            return None
        try:
            if not isinstance(reply, bytes):
                raise UnreadableRecord("not a string")
            session = decode(reply)
            if session.digest != digest:
                # Not our reply, and neither are the next ones on this connection.
                await connection.drop()
                raise UnreadableRecord("record of another digest")
        except UnreadableRecord:
            self._on_unreadable(STORE_NAME)
            return None
        return session

    def _require_generation(self) -> None:
        if self._trust.generation is None:
            raise StoreUnavailable(STORE_NAME, "generation not known yet")

    async def _group_by_pool(self, digests: Iterable[Digest]) -> dict[Pool, list[Digest]]:
        groups: dict[Pool, list[Digest]] = {}
        for digest in digests:
            pool = await self.client.get_pool(_hash_tag(digest).encode())
            groups.setdefault(pool, []).append(digest)
        return groups

    def _namespace(self, connection: BorrowedConnection) -> str:
        return f"{connection.server_id}:{self._trust.generation}"


async def _gather(requests: Iterable[Coroutine[Any, Any, _Result]]) -> Sequence[_Result]:
    """Return all results. A single request, the usual case, takes no task."""
    coroutines = tuple(requests)
    return (await coroutines[0],) if len(coroutines) == 1 else await asyncio.gather(*coroutines)


def _hash_tag(digest: Digest) -> str:
    return f"{{{urlsafe_b64encode(digest).decode()[:43]}}}"


def _key(namespace: str, digest: Digest) -> str:
    return f"{namespace}:s:{_hash_tag(digest)}"
