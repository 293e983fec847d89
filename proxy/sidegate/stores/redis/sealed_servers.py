"""The seals of all servers that connections lead to, and the changes that move them."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from sidegate.core.change_log import Mark
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.codec import encode
from sidegate.stores.redis.connection import (
    STORE_NAME,
    RedisClient,
    translate_errors,
)
from sidegate.stores.redis.pipelines import PipelinedConnection, check_replies
from sidegate.stores.redis.sealed_write import (
    MAX_RECORD_SIZE,
    SealedWrite,
    Step,
    bucket_of,
    build_hash_tag,
    build_seal_key,
    run_writes,
)
from sidegate.stores.redis.topology import Pool

# Connections of one pool that a round borrows to find the servers of namespaces that were met.
_MAX_CONNECTIONS: Final = 8


class RedisSealedServer:
    """A SealedServer: the buckets of one Redis server, by one borrowed connection."""

    def __init__(self, connection: PipelinedConnection, buckets: int) -> None:
        """`buckets`: the number of buckets of all servers together."""
        self._connection = connection
        self._buckets = buckets
        self.seals: dict[int, Seal | None] = {}
        self._records: dict[int, bytes] = {}  # the seals as stored; empty: there is none

    async def read_seals(self, buckets: Sequence[int]) -> None:
        replies = await self._connection.execute(
            *(("GETRANGE", build_seal_key(bucket), 0, MAX_RECORD_SIZE) for bucket in buckets)
        )
        for bucket, reply in zip(buckets, check_replies(replies), strict=True):
            self._keep(bucket, reply if isinstance(reply, bytes) else b"")

    async def apply(
        self,
        changes: Sequence[Session],
        *,
        deleted: Sequence[Digest] = (),
        buckets: Collection[int],
        moved_to: Mark | None,
    ) -> set[int]:
        steps: dict[int, list[Step]] = {bucket: [] for bucket in buckets}
        for step in (*(_plan(copy, moved_to) for copy in changes), *map(_plan_delete, deleted)):
            bucket = bucket_of(step.digest, self._buckets)
            if bucket in steps:
                steps[bucket].append(step)
        seals = {
            bucket: _advance(self.seals[bucket], moved_to)
            for bucket in buckets
            if moved_to is not None or steps[bucket]
        }
        return await self._write(seals, steps) | set(buckets).difference(seals)

    async def begin(self, mark: Mark, *, buckets: Collection[int]) -> set[int]:
        return await self._write({bucket: Seal.begin(mark) for bucket in buckets}, {})

    async def _write(
        self, seals: Mapping[int, Seal], steps: Mapping[int, Sequence[Step]]
    ) -> set[int]:
        """Do the steps and replace the seals; return the buckets where that was done."""
        writes = [
            SealedWrite(
                bucket,
                _namespace_of(self.seals[bucket]),
                steps.get(bucket, ()),
                expected=self._records[bucket],
                moved_to=seal.encode(),
            )
            for bucket, seal in seals.items()
        ]
        if not writes:
            return set()
        done = set()
        try:
            with translate_errors():
                results = await run_writes(self._connection, writes)
        except BaseException:
            self._connection.close()  # replies may be on their way
            raise
        for write, result in zip(writes, results, strict=True):
            self._keep(write.bucket, write.moved_to if result.done else result.seal)
            if result.done:
                done.add(write.bucket)
        return done

    def _keep(self, bucket: int, record: bytes) -> None:
        self._records[bucket] = record
        self._connection.seals[bucket] = record
        try:
            self.seals[bucket] = Seal.decode(record)
        except UnreadableRecord:
            self.seals[bucket] = None


def _plan(copy: Session, moved_to: Mark | None) -> Step:
    if moved_to is not None and moved_to.covers(copy):
        return Step("put", copy.digest, encode(copy))
    return Step.restrict(copy)


def _plan_delete(digest: Digest) -> Step:
    return Step("delete", digest)


def _advance(seal: Seal | None, mark: Mark | None) -> Seal:
    assert seal is not None  # a bucket without a seal has no copies to change
    return seal.advanced(mark)


def _namespace_of(seal: Seal | None) -> str:
    return "" if seal is None else seal.namespace


@asynccontextmanager
async def open_sealed_servers(
    client: RedisClient, *, buckets: int, wanted: Collection[tuple[int, str]]
) -> AsyncIterator[Sequence[RedisSealedServer]]:
    """Borrow a connection to each server for one round, and read the seals there.

    `wanted` are the buckets and namespaces that lookups have met; an empty namespace: there was no
    seal. While no connection leads to the server of one of them, more are borrowed. Servers that do
    not answer are omitted. Raise StoreUnavailable if none answers.
    """
    async with AsyncExitStack() as stack:
        pools: dict[Pool, list[int]] = {}
        with translate_errors():
            for bucket in range(buckets):
                pool = await client.get_pool(build_hash_tag(bucket).encode())
                pools.setdefault(pool, []).append(bucket)
        results = await asyncio.gather(
            *(
                _open_pool(client, pool, own=own, stack=stack, buckets=buckets, wanted=wanted)
                for pool, own in pools.items()
            ),
            return_exceptions=True,
        )
        servers: list[RedisSealedServer] = []
        outage: StoreUnavailable | None = None
        for result in results:
            if isinstance(result, StoreUnavailable):
                outage = result
            elif isinstance(result, BaseException):
                raise result
            else:
                servers.extend(result)
        if not servers:
            raise outage or StoreUnavailable(STORE_NAME, "no server")
        yield servers


async def _open_pool(
    client: RedisClient,
    pool: Pool,
    *,
    own: Sequence[int],
    stack: AsyncExitStack,
    buckets: int,
    wanted: Collection[tuple[int, str]],
) -> list[RedisSealedServer]:
    """Return the servers of a pool: one, unless its connections lead to several."""
    servers: list[RedisSealedServer] = []
    found: set[str] = set()
    own_wanted = {namespace for bucket, namespace in wanted if bucket in own}
    for _ in range(_MAX_CONNECTIONS):
        try:
            server = await _open_server(client, pool, own=own, stack=stack, buckets=buckets)
        except StoreUnavailable:
            if servers:
                break
            raise
        namespaces = {_namespace_of(seal) for seal in server.seals.values()}
        if not servers or not namespaces <= found:
            servers.append(server)
        found |= namespaces
        if found.issuperset(own_wanted):
            break
    return servers


async def _open_server(
    client: RedisClient, pool: Pool, *, own: Sequence[int], stack: AsyncExitStack, buckets: int
) -> RedisSealedServer:
    """Return the server that the next connection of a pool leads to, with its seals."""
    with translate_errors():
        async with AsyncExitStack() as opening:  # an error drops the connection
            connection = await opening.enter_async_context(client.acquire_now(pool))
            server = RedisSealedServer(connection, buckets)
            await server.read_seals(own)
            await stack.enter_async_context(opening.pop_all())
    return server
