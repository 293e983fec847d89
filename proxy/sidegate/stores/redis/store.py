"""Redis as a hot store: two verbs, and nothing that was written before a restart is believed.

Keys are `sidegate:v1:<life>:<generation>:s:{<digest>}`. The life is the server's (redis_server.py).
The durable store says which generation is believed; it begins another when a Redis could not be
told of a change. The braces keep a session's slot in a Cluster independent of all that.
"""

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Final, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session
from sidegate.core.token import Digest
from sidegate.stores.codec import HEAD, decode, encode, microseconds
from sidegate.stores.redis.connection import NAME, BorrowedConnection, RedisClient, checked, outages
from sidegate.stores.redis.topology import Pool

_Answer = TypeVar("_Answer")

# Nobody writes a longer record; somebody else's huge value under our key must not be read whole.
_LONGEST_RECORD: Final = 16 * 1024

# A record's head sorts as text by freshness. Whatever lies there without such a head, of whatever
# type, is overwritten; so is what the caller could not read (the last argument), if it is still
# there. The reply is the record that was kept: nothing else can be taken for it.
_KEEP_THE_FRESHER: Final = b"""
local kept = redis.pcall('GETRANGE', KEYS[1], 0, tonumber(ARGV[3]))
if type(kept) == 'string' and #kept > %(head)d and kept ~= ARGV[4]
   and string.find(string.sub(kept, 1, %(head)d), '^[01]%%d+$')
   and string.sub(kept, 1, %(head)d) > string.sub(ARGV[1], 1, %(head)d) then
  return kept
end
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2])
return ARGV[1]
""" % {b"head": HEAD}
_SCRIPT_SHA: Final = sha1(_KEEP_THE_FRESHER, usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class _Offer:
    """A copy that is put, its record, and what Redis last replied to it."""

    session: Session
    record: bytes
    reply: Any = None

    def command(self, namespace: str) -> tuple[Any, ...]:
        """Return what follows the script's name. What could not be read is named, to go."""
        key = _key(namespace, self.session.digest)
        until = microseconds(self.session.expires_at) // 1000
        unreadable = self.reply if isinstance(self.reply, bytes) else b""
        return (1, key, self.record, until, _LONGEST_RECORD, unreadable)


class RedisStore:
    """A hot leaf. An unreadable record is counted and is a miss."""

    def __init__(
        self,
        url: str,
        *,
        on_unreadable: Callable[[str], None],
        timeout: float = 0.05,
        generation: int | None = 0,
    ) -> None:
        """Connect when first asked, as RedisServer does.

        `on_unreadable` is told the store's name for each record that could not be read. Of copies
        only those of `generation` are believed; None: of none, until `believe` says which.
        """
        self.server = RedisClient(url, timeout=timeout)
        self._generation = generation
        self._on_unreadable = on_unreadable

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        self._must_believe()
        with outages():
            groups = await self._by_pool(digests)
            answers = await _all(self._ask(*group) for group in groups.items())
        return {digest: session for answer in answers for digest, session in answer.items()}

    async def find(self, digest: Digest) -> Session | None:
        return (await self.find_many((digest,))).get(digest)

    async def put(self, session: Session) -> Session:
        return (await self.put_many({session.digest: session}))[session.digest]

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        self._must_believe()
        with outages():
            groups = await self._by_pool(sessions)
            kept = await _all(
                self._offer(pool, [sessions[digest] for digest in digests])
                for pool, digests in groups.items()
            )
        return {digest: session for some in kept for digest, session in some.items()}

    def use_generation(self, generation: int) -> None:
        """From now on believe copies of this generation, and of no other."""
        self._generation = generation

    async def ping(self) -> None:
        """Return when Redis answers. StoreUnavailable: it does not."""
        await self.server.ping()

    async def close(self) -> None:
        await self.server.close()

    async def _ask(self, pool: Pool, digests: Sequence[Digest]) -> dict[Digest, Session]:
        found = {}
        async with self.server.acquire(pool) as line:
            commands = (
                ("GETRANGE", _key(self._namespace(line), digest), 0, _LONGEST_RECORD)
                for digest in digests
            )
            replies = await line.ask(*commands)
            for digest, reply in zip(digests, checked(replies), strict=True):
                session = await self._read(line, digest, reply)
                if session is not None:
                    found[digest] = session
        return found

    async def _offer(self, pool: Pool, sessions: Sequence[Session]) -> dict[Digest, Session]:
        kept: dict[Digest, Session] = {}
        offers = [_Offer(session, encode(session)) for session in sessions]
        async with self.server.acquire(pool) as line:
            for _ in range(2):
                for offer, reply in zip(offers, await self._replies(line, offers), strict=True):
                    offer.reply = reply
                    if (session := await self._kept(line, offer)) is not None:
                        kept[offer.session.digest] = session
                offers = [offer for offer in offers if offer.session.digest not in kept]
                if not offers:
                    return kept
                await line.drop()
        raise RedisConnectionError("the reply to another question")

    async def _kept(self, line: BorrowedConnection, offer: "_Offer") -> Session | None:
        """Return what was kept by a reply; None: it does not say.

        Either there is an unreadable body under a fresher head, which would be in the way for ever,
        or it is not our reply at all; then what lies there is not known, and may be a tombstone.
        """
        if offer.reply == offer.record:
            return offer.session
        kept = await self._read(line, offer.session.digest, offer.reply)
        return kept if kept is not None and kept.freshness > offer.session.freshness else None

    async def _replies(self, line: BorrowedConnection, offers: Sequence["_Offer"]) -> list[Any]:
        commands = [offer.command(self._namespace(line)) for offer in offers]
        replies = await line.ask(*(("EVALSHA", _SCRIPT_SHA, *command) for command in commands))
        if any(isinstance(reply, NoScriptError) for reply in replies):
            replies = await line.ask(
                *(("EVAL", _KEEP_THE_FRESHER, *command) for command in commands)
            )
        return checked(replies)

    async def _read(self, line: BorrowedConnection, digest: Digest, reply: Any) -> Session | None:
        """Return the session a reply holds if it answers for `digest`, else None."""
        if not reply:
            return None
        try:
            if not isinstance(reply, bytes):
                raise UnreadableRecord("not a string")
            session = decode(reply)
            if session.digest != digest:
                # Not our answer. Whatever comes next on this connection is not ours either.
                await line.drop()
                raise UnreadableRecord("a record for another digest")
        except UnreadableRecord:
            self._on_unreadable(NAME)
            return None
        return session

    def _must_believe(self) -> None:
        if self._generation is None:
            raise StoreUnavailable(NAME, "nobody has said yet which generation to believe")

    async def _by_pool(self, digests: Iterable[Digest]) -> dict[Pool, list[Digest]]:
        groups: dict[Pool, list[Digest]] = {}
        for digest in digests:
            pool = await self.server.pool_for(_slot(digest).encode())
            groups.setdefault(pool, []).append(digest)
        return groups

    def _namespace(self, line: BorrowedConnection) -> str:
        return f"{line.life}:{self._generation}"


async def _all(questions: Iterable[Coroutine[Any, Any, _Answer]]) -> Sequence[_Answer]:
    """Return all answers. One alone, as there nearly always is, takes no task."""
    asking = tuple(questions)
    return (await asking[0],) if len(asking) == 1 else await asyncio.gather(*asking)


def _slot(digest: Digest) -> str:
    return f"{{{urlsafe_b64encode(digest).decode()[:43]}}}"


def _key(namespace: str, digest: Digest) -> str:
    return f"{namespace}:s:{_slot(digest)}"
