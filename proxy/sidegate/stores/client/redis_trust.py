"""Whether copies in Redis may be used. Nothing else in this process decides or keeps it.

docs/architecture.md explains the protocol.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from sidegate.core.digest import Digest
from sidegate.core.errors import CacheNotTrusted, UnreadableRecord
from sidegate.core.protocols import Fill, Found, OnFound, RemoteBatchCache, RoundStart
from sidegate.core.seal import CachePosition, Seal
from sidegate.core.session import Session, pick_fresher

_STORE: Final = "redis"

# Seconds after the start of the last round until copies are not used any more: a process that was
# suspended must not use what it has verified before. Two rounds that fail after a second each.
LAPSE: Final = 3.0
# Seconds for which changes that were committed here are remembered: longer than a round takes.
_MEMORY_OF_CHANGES: Final = 30.0

_log: Final = logging.getLogger("sidegate.trust")


class RedisTrust:
    """The namespaces in Redis that have followed the database, as far as this process knows.

    A round of the cache follower verifies them. Copies are used if they were read together with a
    seal of a verified namespace that is at least as far as the round has found it.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        trust_without_database: float,
        on_invalidated: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Start without a verified namespace.

        While the database is unavailable, trust lasts `trust_without_database` seconds after the
        last complete round. `on_invalidated` is called with the reason of each loss of trust.
        """
        # Called when the next round should begin at once.
        self.request_round: Callable[[], None] = lambda: None
        self._monotonic = monotonic
        self._trust_without_database = trust_without_database
        self._on_invalidated = on_invalidated
        self._verified: Mapping[str, Seal] = MappingProxyType({})  # by namespace
        self._approved: CachePosition = MappingProxyType({})  # the last one of each bucket
        self._records: dict[int, bytes] = {}  # those of `_approved`, as stored
        # The buckets and namespaces that lookups have met since the last round; an empty namespace
        # where there was no seal.
        self._seen: set[tuple[int, str]] = set()
        self._expires_at = 0.0
        self._verified_at = float("-inf")  # the start of the last complete round
        self._invalidation_count = 0
        self._was_trusted = False
        self._changes: dict[Digest, tuple[float, Session]] = {}  # with the time of the commit

    @property
    def is_trusted(self) -> bool:
        """Whether copies of some namespace may be used now."""
        return bool(self._verified) and self._monotonic() < self._expires_at

    @property
    def age(self) -> float:
        """The seconds since the start of the last complete round; infinite before the first one."""
        return self._monotonic() - self._verified_at

    @property
    def position(self) -> CachePosition:
        """The seals last approved, by bucket."""
        return self._approved if self.is_trusted else MappingProxyType({})

    @property
    def verified(self) -> Mapping[str, Seal]:
        """The verified namespaces, with their seals as the last round has found or moved them."""
        return self._verified

    def approve(self, bucket: int, record: bytes) -> bool:
        """Return whether copies that were read together with this seal may be used."""
        if not self.is_trusted:
            return False
        if self._records.get(bucket) == record:
            return True
        try:
            seal = Seal.decode(record)
        except UnreadableRecord:
            self._seen.add((bucket, ""))
            self.request_round()
            return False
        self._seen.add((bucket, seal.namespace))
        if not self._is_verified(seal):
            self.request_round()
            return False
        if bucket in self._approved:
            self._seen.add((bucket, self._approved[bucket].namespace))
        self._records[bucket] = record
        self._approved = MappingProxyType({**self._approved, bucket: seal})
        return True

    def pop_seen(self) -> set[tuple[int, str]]:
        """Return the buckets and namespaces met since the last call, and those approved before.

        The namespace is empty if a bucket was met without a seal.
        """
        seen, self._seen = self._seen, set()
        return seen | {(bucket, seal.namespace) for bucket, seal in self._approved.items()}

    def record_changes(self, copies: Iterable[Session]) -> None:
        """Use no older copies than these, which were committed here, until a later round.

        Redis may lose what was written to it, and the database may be lost before a round has found
        that.
        """
        now = self._monotonic()
        for copy in copies:
            _, kept = self._changes.pop(copy.digest, (now, copy))
            self._changes[copy.digest] = now, pick_fresher(kept, copy)
        self._drop_changes(before=now - _MEMORY_OF_CHANGES)

    def apply_changes(self, found: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        """Return copies from Redis, or instead of them those of later changes made here."""
        if not self._changes:
            return found
        return {digest: self._apply_change(copy) for digest, copy in found.items()}

    def begin_round(self) -> RoundStart:
        """Return the present, to be passed to `confirm`."""
        if self._verified and self._monotonic() >= self._expires_at:
            self.invalidate("lapsed")
        return RoundStart(self._monotonic(), self._invalidation_count)

    def invalidate(self, reason: str) -> None:
        """Use no copies until a round that begins after this has verified them."""
        self._invalidation_count += 1
        if self._verified:
            self._clear(reason)
            self.request_round()

    def confirm(self, verified: Mapping[str, Seal], start: RoundStart) -> None:
        """Use copies of these namespaces, and of no others, for `LAPSE` seconds from `start`.

        Has no effect if there was an invalidation since.
        """
        if start.invalidation_count != self._invalidation_count:
            return
        if not verified:
            self._clear("not followed")
            return
        self._replace_verified(verified)
        self._verified_at = start.at
        self._expires_at = start.at + LAPSE
        self._drop_changes(before=start.at)
        self._log_change("lapsed")

    def extend(self, start: RoundStart) -> None:
        """Use what is verified for longer, after a round that failed for lack of the database."""
        latest = self._verified_at + self._trust_without_database
        self._expires_at = max(self._expires_at, min(start.at + LAPSE, latest))

    def _apply_change(self, copy: Session) -> Session:
        _, changed = self._changes.get(copy.digest, (0.0, copy))
        return pick_fresher(copy, changed)

    def _drop_changes(self, *, before: float) -> None:
        """Drop changes that were committed before a time, the oldest of which come first."""
        while self._changes:
            digest, (at, _) = next(iter(self._changes.items()))
            if at >= before:
                return
            del self._changes[digest]

    def _clear(self, reason: str) -> None:
        if self._verified:
            self._on_invalidated(reason)
        self._replace_verified({})
        self._log_change(reason)

    def _is_verified(self, seal: Seal) -> bool:
        verified = self._verified.get(seal.namespace)
        if verified is None:
            return False
        return seal.mark.snapshot.order >= verified.mark.snapshot.order

    def _replace_verified(self, verified: Mapping[str, Seal]) -> None:
        self._verified = MappingProxyType(dict(verified))
        approved = {
            bucket: seal if self._is_verified(seal) else verified[seal.namespace]
            for bucket, seal in self._approved.items()
            if seal.namespace in verified
        }
        self._approved = MappingProxyType(approved)
        self._records = {bucket: seal.encode() for bucket, seal in approved.items()}

    def _log_change(self, reason: str) -> None:
        if self.is_trusted == self._was_trusted:
            return
        self._was_trusted = self.is_trusted
        if self._was_trusted:
            _log.info("redis trusted")
        else:
            _log.warning("redis not trusted", extra={"reason": reason})


class Trusted:
    """A cache backend that is not asked while nothing in Redis is trusted.

    Its lookups raise CacheNotTrusted then, and fills are dropped.
    """

    def __init__(self, backend: RemoteBatchCache, trust: RedisTrust) -> None:
        self._backend = backend
        self._trust = trust

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        if not self._trust.is_trusted:
            raise CacheNotTrusted(_STORE, "changes may have been missed")
        return self._trust.apply_changes(await self._backend.find_many(digests))

    def start_many(self, digests: Sequence[Digest], on_found: OnFound) -> bool:
        def apply_changes(found: Found) -> None:
            if found is not None and not isinstance(found, Exception):
                found = self._trust.apply_changes(found)
            on_found(found)

        return self._trust.is_trusted and self._backend.start_many(digests, apply_changes)

    async def fill_many(self, fills: Mapping[Digest, Fill]) -> Mapping[Digest, Session]:
        if not self._trust.is_trusted:
            return {digest: fill.session for digest, fill in fills.items()}
        return await self._backend.fill_many(fills)

    async def restrict_many(self, copies: Sequence[Session]) -> bool:
        return await self._backend.restrict_many(copies)
