"""The session cache in Redis.

Copies lie under keys that contain a namespace. Each bucket of keys has a seal, which names the
namespace and says how far its copies have followed the database; sealed_write.py has the keys.
Every lookup reads the seal before and after the copies, in one round trip: on one connection the
server may change between two commands.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError

from sidegate.core.change_log import ChangedSession, list_copies
from sidegate.core.digest import Digest
from sidegate.core.errors import CacheNotTrusted, UnreadableRecord
from sidegate.core.protocols import Fill, Found, OnFound, SealedServer
from sidegate.core.seal import Seal, read_namespace
from sidegate.core.session import Session
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.codec import HEADER_SIZE, decode, encode
from sidegate.stores.redis.connection import (
    STORE_NAME,
    RedisClient,
    translate_error,
    translate_errors,
)
from sidegate.stores.redis.pipelines import PipelinedConnection, check_replies
from sidegate.stores.redis.sealed_servers import open_sealed_servers
from sidegate.stores.redis.sealed_write import (
    CLUSTER_BUCKETS,
    MAX_RECORD_SIZE,
    SealedWrite,
    Step,
    bucket_of,
    build_hash_tag,
    build_key_pattern,
    pack_reads,
    run_writes,
)
from sidegate.stores.redis.topology import Pool

_Result = TypeVar("_Result")

# A lookup is repeated once, under the namespace that the seal names, or because the seal was moved
# between the commands. One that began without a task does not count.
_MAX_ATTEMPTS: Final = 2

# Keys that one SCAN looks at: about a millisecond in Redis.
_SCAN_SIZE: Final = 1_000

_ONLY_HASH_TAG: Final = build_hash_tag(0).encode()

# Equal to no seal, and to none at all neither.
_NO_SEAL: Final = b"-"


class _Lookup(NamedTuple):
    """What is looked up in one bucket, and under which namespace."""

    bucket: int
    namespace: str
    digests: Sequence[Digest]


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

        Only copies that `trust` approves are returned. `on_unreadable` receives the store's name
        for each unreadable record.
        """
        self.client = RedisClient(url, timeout=timeout)
        self._buckets = CLUSTER_BUCKETS if self.client.is_cluster else 1
        self._trust = trust
        self._on_unreadable = on_unreadable

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        with translate_errors():
            groups = await self._group_by_pool(digests)
            results = await _gather(self._find_in_pool(*group) for group in groups.items())
        return {digest: session for result in results for digest, session in result.items()}

    def start_many(self, digests: Sequence[Digest], on_found: OnFound) -> bool:
        """See RemoteBatchCache."""
        pool = self.client.only_pool
        connection = None if pool is None else self.client.borrow_idle(pool)
        if pool is None or connection is None:
            return False
        lookup = _Lookup(0, self._guess_namespace(connection, 0), digests)

        def finish(replies: list[Any] | Exception) -> None:
            found: Found
            error: Exception | None = None
            try:
                found = self._read_found(connection, lookup, replies=replies)
            except Exception as failure:  # noqa: BLE001 - the callers get it
                error, found = failure, translate_error(failure) or failure
            self.client.give_back(pool, connection, error=error)
            on_found(found)

        packed = pack_reads(0, digests, namespace=lookup.namespace)
        connection.start(packed, len(digests) + 2, on_replies=finish)
        return True

    async def find(self, digest: Digest) -> Session | None:
        return (await self.find_many((digest,))).get(digest)

    async def fill_many(self, fills: Mapping[Digest, Fill]) -> Mapping[Digest, Session]:
        kept = {digest: fill.session for digest, fill in fills.items()}
        with translate_errors():
            groups = await self._group_by_pool(fills)
            for result in await _gather(
                self._fill_in_pool(pool, {digest: fills[digest] for digest in digests})
                for pool, digests in groups.items()
            ):
                kept.update(result)
        return kept

    async def fill(self, fill: Fill) -> Session:
        digest = fill.session.digest
        return (await self.fill_many({digest: fill}))[digest]

    async def restrict_many(self, copies: Sequence[Session]) -> bool:
        by_digest = {copy.digest: copy for copy in copies}
        with translate_errors():
            groups = await self._group_by_pool(by_digest)
            results = await _gather(
                self._restrict_in_pool(pool, [by_digest[digest] for digest in digests])
                for pool, digests in groups.items()
            )
        return all(results)

    async def restrict(self, changes: Sequence[ChangedSession]) -> bool:
        return await self.restrict_many(list_copies(changes))

    def open_round(self) -> AbstractAsyncContextManager[Sequence[SealedServer]]:
        return open_sealed_servers(
            self.client, buckets=self._buckets, wanted=self._trust.pop_seen()
        )

    async def read_tombstones(self, namespace: str) -> AsyncIterator[Sequence[Session]]:
        """Yield the tombstones under a namespace, a few at a time."""
        for pool in await self._list_pools():
            async for keys in self._scan(pool, build_key_pattern(namespace)):
                with translate_errors():
                    async with self.client.acquire(pool) as connection:
                        records = check_replies(
                            await connection.execute(
                                *(("GETRANGE", key, 0, MAX_RECORD_SIZE) for key in keys)
                            )
                        )
                yield [session for record in records if (session := _read_tombstone(record))]

    async def _scan(self, pool: Pool, pattern: str) -> AsyncIterator[Sequence[bytes]]:
        cursor = b"0"
        while True:
            with translate_errors():
                async with self.client.acquire(pool) as connection:
                    [reply] = check_replies(
                        await connection.execute(
                            ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_SIZE)
                        )
                    )
                match reply:
                    case [bytes(cursor), [*keys]]:
                        pass
                    case _:
                        raise RedisConnectionError("invalid reply to SCAN")
            if keys:
                yield keys
            if cursor == b"0":
                return

    async def ping(self) -> None:
        """Return when Redis answers. Raise StoreUnavailable if it does not."""
        await self.client.ping()

    async def close(self) -> None:
        await self.client.close()

    async def _find_in_pool(self, pool: Pool, digests: Sequence[Digest]) -> dict[Digest, Session]:
        async with self.client.acquire(pool) as connection:
            found = await self._find_approved(connection, digests)
        if found is None:  # only now: an error would close the connection
            raise _build_distrust()
        return found

    def _read_found(
        self, connection: PipelinedConnection, lookup: _Lookup, *, replies: list[Any] | Exception
    ) -> Found:
        """Return the copies, or None if the lookup has to be repeated. Raise the errors of both."""
        if isinstance(replies, Exception):
            raise replies
        if not _keep_seals(connection, [lookup], replies=check_replies(replies)):
            return None
        found = self._decode_approved(connection, [lookup], replies=replies)
        return _build_distrust() if found is None else found

    async def _find_approved(
        self, connection: PipelinedConnection, digests: Sequence[Digest]
    ) -> dict[Digest, Session] | None:
        """Return the copies, or None if they were not read under approved seals."""
        groups = self._group_by_bucket(digests)
        for _ in range(_MAX_ATTEMPTS):
            lookups = [
                _Lookup(bucket, self._guess_namespace(connection, bucket), group)
                for bucket, group in groups.items()
            ]
            replies = await self._read(connection, lookups)
            if _keep_seals(connection, lookups, replies=replies):
                return self._decode_approved(connection, lookups, replies=replies)
        connection.close()  # it may be out of step
        return None

    def _guess_namespace(self, connection: PipelinedConnection, bucket: int) -> str:
        """Return the namespace last seen on this connection, or else on any; empty: unknown."""
        record = connection.seals.get(bucket)
        if record:
            return read_namespace(record)
        seal = self._trust.position.get(bucket)
        return "" if seal is None else seal.namespace

    async def _read(
        self, connection: PipelinedConnection, lookups: Sequence[_Lookup]
    ) -> Sequence[Any]:
        packed = [pack_reads(bucket, digests, namespace=name) for bucket, name, digests in lookups]
        replies = await connection.send(
            b"".join(packed), sum(len(digests) + 2 for _, _, digests in lookups)
        )
        return check_replies(replies)

    def _decode_approved(
        self, connection: PipelinedConnection, lookups: Sequence[_Lookup], *, replies: Sequence[Any]
    ) -> dict[Digest, Session] | None:
        """Return the copies that were read, or None unless all seals are approved."""
        found: dict[Digest, Session] = {}
        end = -1
        for bucket, _, digests in lookups:
            start, end = end + 1, end + len(digests) + 2
            if not self._trust.approve(bucket, connection.seals[bucket]):
                return None
            for digest, reply in zip(digests, replies[start + 1 : end], strict=True):
                session = self._read_session(connection, digest, reply=reply)
                if session is not None:
                    found[digest] = session
        return found

    async def _fill_in_pool(
        self, pool: Pool, fills: Mapping[Digest, Fill]
    ) -> dict[Digest, Session]:
        """Return the copies that Redis has now. Fills that no seal covers are not sent."""
        kept: dict[Digest, Session] = {}
        seals = {digest: self._covering_seal(fill) for digest, fill in fills.items()}
        steps = {
            digest: Step("fill", digest, encode(fills[digest].session))
            for digest, seal in seals.items()
            if seal is not None
        }
        if not steps:
            return kept
        for _ in range(_MAX_ATTEMPTS):
            async with self.client.acquire(pool) as connection:
                replies = await self._send_fills(connection, steps, seals=seals)
                for digest, reply in replies.items():
                    step, session = steps.pop(digest), fills[digest].session
                    kept[digest] = session
                    if len(reply) <= HEADER_SIZE or reply == step.record:
                        continue  # it was dropped, or is stored
                    found = self._read_session(connection, digest, reply=reply)
                    if found is not None and found.freshness > session.freshness:
                        kept[digest] = found
                    elif found is None:  # an unreadable body after a fresher header: overwrite it
                        steps[digest] = Step("fill", digest, step.record, reply)
            if not steps:
                return kept
        raise RedisConnectionError("reply to another command")

    async def _send_fills(
        self,
        connection: PipelinedConnection,
        steps: Mapping[Digest, Step],
        *,
        seals: Mapping[Digest, Seal | None],
    ) -> dict[Digest, bytes]:
        """Return the reply for each digest; empty: it was dropped, since the seal has moved."""
        groups: dict[Seal, list[Step]] = {}
        buckets: dict[Seal, int] = {}
        for digest, step in steps.items():
            seal = seals[digest]
            assert seal is not None  # as planned
            groups.setdefault(seal, []).append(step)
            buckets[seal] = self._bucket_of(digest)
        writes = [
            SealedWrite(buckets[seal], seal.namespace, group, expected=seal.encode())
            for seal, group in groups.items()
        ]
        replies = dict.fromkeys(steps, b"")
        for write, result in zip(writes, await run_writes(connection, writes), strict=True):
            if result.done:
                replies.update(
                    (step.digest, reply)
                    for step, reply in zip(write.steps, result.replies, strict=True)
                )
        return replies

    def _covering_seal(self, fill: Fill) -> Seal | None:
        seal = fill.position.get(self._bucket_of(fill.session.digest))
        return seal if seal is not None and seal.mark.covers(fill.session) else None

    async def _restrict_in_pool(self, pool: Pool, copies: Sequence[Session]) -> bool:
        remaining: dict[int, list[Step]] = {}
        for copy in copies:
            remaining.setdefault(self._bucket_of(copy.digest), []).append(Step.restrict(copy))
        async with self.client.acquire(pool) as connection:
            for _ in range(_MAX_ATTEMPTS):
                writes = [
                    self._plan_restriction(connection, bucket, steps=steps)
                    for bucket, steps in remaining.items()
                ]
                for write, result in zip(writes, await run_writes(connection, writes), strict=True):
                    if result.done:
                        del remaining[write.bucket]
                if not remaining:
                    return True
        return False

    def _plan_restriction(
        self, connection: PipelinedConnection, bucket: int, *, steps: Sequence[Step]
    ) -> SealedWrite:
        """Return the write in the namespace last seen; without one, a write that only reads it."""
        namespace = self._guess_namespace(connection, bucket)
        if not namespace:
            return SealedWrite(bucket, "", (), expected=_NO_SEAL)
        return SealedWrite(bucket, namespace, steps, expected=_NO_SEAL, under_any_seal=True)

    def _read_session(
        self, connection: PipelinedConnection, digest: Digest, *, reply: Any
    ) -> Session | None:
        """Return the session in a reply if it belongs to `digest`, else None."""
        if not reply or len(_read_record(reply)) == HEADER_SIZE:  # it only blocks older copies
            return None
        try:
            if not isinstance(reply, bytes):
                raise UnreadableRecord("not a string")
            session = decode(reply)
            if session.digest != digest:
                # Not our reply, and neither are the next ones on this connection.
                connection.close()
                raise UnreadableRecord("record of another digest")
        except UnreadableRecord:
            self._on_unreadable(STORE_NAME)
            return None
        return session

    def _bucket_of(self, digest: Digest) -> int:
        return bucket_of(digest, self._buckets)

    def _group_by_bucket(self, digests: Iterable[Digest]) -> dict[int, list[Digest]]:
        groups: dict[int, list[Digest]] = {}
        for digest in digests:
            groups.setdefault(self._bucket_of(digest), []).append(digest)
        return groups

    async def _list_pools(self) -> set[Pool]:
        with translate_errors():
            return {
                await self.client.get_pool(build_hash_tag(bucket).encode())
                for bucket in range(self._buckets)
            }

    async def _group_by_pool(self, digests: Iterable[Digest]) -> dict[Pool, list[Digest]]:
        if self._buckets == 1:
            return {await self.client.get_pool(_ONLY_HASH_TAG): [*digests]}
        groups: dict[Pool, list[Digest]] = {}
        for bucket, group in self._group_by_bucket(digests).items():
            pool = await self.client.get_pool(build_hash_tag(bucket).encode())
            groups.setdefault(pool, []).extend(group)
        return groups


def _build_distrust() -> CacheNotTrusted:
    return CacheNotTrusted(STORE_NAME, "changes may have been missed")


def _keep_seals(
    connection: PipelinedConnection, lookups: Sequence[_Lookup], *, replies: Sequence[Any]
) -> bool:
    """Keep the seals that were read; return whether the copies were all read under them."""
    is_consistent, end = True, -1
    for bucket, namespace, digests in lookups:
        start, end = end + 1, end + len(digests) + 2
        before, seal = _read_record(replies[start]), _read_record(replies[end])
        connection.seals[bucket] = seal
        if before != seal or read_namespace(seal) not in (namespace, ""):
            is_consistent = False
    return is_consistent


def _read_record(reply: Any) -> bytes:
    """Return a record in a reply; empty: there is none, or a value of another type."""
    return reply if isinstance(reply, bytes) else b""


async def _gather(requests: Iterable[Coroutine[Any, Any, _Result]]) -> Sequence[_Result]:
    """Return all results. A single request, the usual case, takes no task."""
    coroutines = tuple(requests)
    return (await coroutines[0],) if len(coroutines) == 1 else await asyncio.gather(*coroutines)


def _read_tombstone(record: Any) -> Session | None:
    """Return the revoked session of a record, or None if it is another one."""
    if not isinstance(record, bytes) or not record.startswith(b"1"):
        return None
    try:
        session = decode(record)
    except UnreadableRecord:
        return None
    return session if session.revoked_at is not None else None
