"""A remote cache in memory, with seals that are compared and set as SealedServer says."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sidegate.core.change_log import Mark
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import SealedServer
from sidegate.core.seal import Seal
from sidegate.core.session import EPOCH, Session

Key = tuple[str, Digest]


@dataclass
class FakeServer:
    """One server: a seal for each bucket, and copies by namespace and digest.

    `down`: it does not answer. `read_only`: it takes no writes. `written`: scripts that were done.
    """

    seals: dict[int, Seal | None] = field(default_factory=lambda: {0: None})
    copies: dict[Key, Session] = field(default_factory=dict)
    down: bool = False
    read_only: bool = False
    written: int = 0

    def copy_of(self, digest: Digest) -> Session | None:
        """Return the copy under the present namespace."""
        seal = self.seals[self.bucket_of(digest)]
        return None if seal is None else self.copies.get((seal.namespace, digest))

    def put(self, session: Session) -> None:
        """Put a copy into the present namespace, as a fill does."""
        seal = self.seals[self.bucket_of(session.digest)]
        assert seal is not None
        self.copies[seal.namespace, session.digest] = session

    def bucket_of(self, digest: Digest) -> int:
        return digest[0] % len(self.seals)


class FakeSealedServer:
    """A connection to a server during one round."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self.seals = dict(server.seals)

    async def apply(
        self,
        changes: Sequence[Session],
        *,
        deleted: Sequence[Digest] = (),
        buckets: Collection[int],
        moved_to: Mark | None,
    ) -> set[int]:
        done = self._compare(buckets)
        changed = done if moved_to is not None else set[int]()
        for copy in changes:
            if (key := self._key_of(copy.digest, done)) is not None:
                self._apply_copy(key, copy, moved_to=moved_to)
                changed = changed | {self._server.bucket_of(copy.digest)}
        for digest in deleted:
            if (key := self._key_of(digest, done)) is not None:
                self._server.copies.pop(key, None)
                changed = changed | {self._server.bucket_of(digest)}
        for bucket in changed:
            seal = self.seals[bucket]
            assert seal is not None
            self._set(bucket, seal.advanced(moved_to))
        return done

    async def begin(self, mark: Mark, *, buckets: Collection[int]) -> set[int]:
        done = self._compare(buckets)
        for bucket in done:
            self._set(bucket, Seal.begin(mark))
        return done

    def _compare(self, buckets: Collection[int]) -> set[int]:
        """Return the buckets that have their seals, and read the seals of the others."""
        if self._server.down or self._server.read_only:
            raise StoreUnavailable("redis", "no writes in this test")
        done = {each for each in buckets if self._server.seals[each] == self.seals[each]}
        self.seals |= {each: self._server.seals[each] for each in buckets}
        self._server.written += bool(done)
        return done

    def _key_of(self, digest: Digest, buckets: Collection[int]) -> Key | None:
        """Return the key of a digest, or None if it is not in these buckets."""
        bucket = self._server.bucket_of(digest)
        seal = self.seals[bucket]
        return None if seal is None or bucket not in buckets else (seal.namespace, digest)

    def _set(self, bucket: int, seal: Seal) -> None:
        self._server.seals[bucket] = self.seals[bucket] = seal

    def _apply_copy(self, key: Key, copy: Session, *, moved_to: Mark | None) -> None:
        copies = self._server.copies
        if key in copies and copies[key].freshness > copy.freshness:
            return
        is_covered = moved_to is not None and moved_to.covers(copy)
        if is_covered or copy.valid_until == EPOCH or copy.digest == copy.previous_digest:
            copies[key] = copy
        else:
            copies.pop(key, None)


class FakeSealedCache:
    """A SealedCache of several servers."""

    def __init__(self, *servers: FakeServer) -> None:
        self.servers = servers

    @asynccontextmanager
    async def open_round(self) -> AsyncIterator[Sequence[SealedServer]]:
        answering = [FakeSealedServer(server) for server in self.servers if not server.down]
        if not answering:
            raise StoreUnavailable("redis", "unavailable in this test")
        yield answering
