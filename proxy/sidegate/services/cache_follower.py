"""Bring each Redis forward to the present of the database, and verify that it may be trusted.

docs/architecture.md explains the protocol.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NoReturn, TypeVar

from sidegate.core.change_log import ChangeCursor, ChangePage, Mark, list_copies
from sidegate.core.clock import Clock
from sidegate.core.errors import PositionLost, StoreUnavailable, TooManyChanges
from sidegate.core.protocols import ChangeLog, FollowedTrust, SealedCache, SealedServer
from sidegate.core.seal import Seal
from sidegate.core.timeouts import with_timeout
from sidegate.services.job_outage import watch_job

# Seconds between two rounds. All instances begin theirs at the same times of the shared clock, but
# for the jitter, so that usually one of them moves the seal, and the others find it moved.
INTERVAL: Final = 0.5
MAX_JITTER: Final = 0.05
# Seconds between two rounds, however often one is asked for.
_MIN_PAUSE: Final = 0.025
# Changes in one page: decoded in a step of about a millisecond, and applied by one script in Redis,
# which takes less.
_PAGE_SIZE: Final = 64
# Seconds for all pages of a round. What cannot be read within them is not read: a new namespace
# costs the same for any number of changes.
_PAGES_TIMEOUT: Final = 5.0
# Attempts to bring a seal forward in one round.
_MAX_PASSES: Final = 3
# Seconds for one question to the database, and for one page in Redis. With the pause before the
# round it is less than trust lasts (LAPSE in stores/client/redis_trust.py): trust does not lapse
# while a database hangs.
QUESTION_TIMEOUT: Final = 1.0
_PAGE_TIMEOUT: Final = 1.0

_Result = TypeVar("_Result")
_Buckets = Mapping[SealedServer, Collection[int]]

_log: Final = logging.getLogger("sidegate.follower")


@dataclass(frozen=True, slots=True)
class _Group:
    """The buckets of all servers that have a seal with the same mark."""

    mark: Mark
    buckets: _Buckets

    def namespaces(self) -> dict[str, Seal]:
        """Return the present seals by namespace."""
        seals = (server.seals[b] for server, own in self.buckets.items() for b in own)
        return {seal.namespace: seal for seal in seals if seal is not None}


@dataclass(slots=True)
class _Round:
    """What a round has found: verified seals by namespace, and whether there were changes.

    Two servers may have one namespace with different seals, as a primary and its former replica.
    Then `verified` has the earlier one, under which there are all changes, too.
    """

    verified: dict[str, Seal] = field(default_factory=dict)
    has_changed: bool = False
    _seals: set[Seal] = field(default_factory=set)

    def add_verified(self, seals: Mapping[str, Seal]) -> None:
        for namespace, seal in seals.items():
            earlier = self.verified.setdefault(namespace, seal)
            if seal.mark.snapshot.order < earlier.mark.snapshot.order:
                self.verified[namespace] = seal
        self._seals.update(seals.values())

    def is_verified(self, seal: Seal | None) -> bool:
        return seal in self._seals


class CacheFollower:
    """Makes rounds: reads the seals, asks the database what has changed since, and applies it.

    After a round the namespaces that are trusted, and no others, have all changes that were
    committed before the round began.
    """

    def __init__(
        self,
        change_log: ChangeLog,
        cache: SealedCache,
        *,
        trust: FollowedTrust,
        clock: Clock,
        wakeup: asyncio.Event,
        on_position_lost: Callable[[PositionLost, Collection[str]], None],
        count_move: Callable[[str], None] = lambda _: None,
        jitter: Callable[[], float] = random.random,
        pages_timeout: float = _PAGES_TIMEOUT,
    ) -> None:
        """Begin a round at once when `wakeup` is set. `count_move` receives moved or begun.

        `on_position_lost` is called when the database does not know the mark of seals, with their
        namespaces, which are left. `pages_timeout` is in seconds, for all changes since a mark.
        """
        self._change_log = change_log
        self._cache = cache
        self._trust = trust
        self._clock = clock
        self._wakeup = wakeup
        self._on_position_lost = on_position_lost
        self._count_move = count_move
        self._jitter = jitter
        self._pages_timeout = pages_timeout
        self._outage = watch_job("cache_follower", clock)

    async def run(self, on_round: Callable[[bool], None]) -> NoReturn:
        """Make rounds until cancelled; pass to `on_round` whether each was complete."""
        while True:
            try:
                await self.follow()
            except StoreUnavailable as error:
                self._outage.record_failure(error)
                on_round(False)
            else:
                self._outage.record_success()
                on_round(True)
            await asyncio.sleep(_MIN_PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._compute_pause()):
                    await self._wakeup.wait()
            self._wakeup.clear()

    async def follow(self) -> None:
        """Make one round. Raise StoreUnavailable if it is not complete."""
        start, this_round = self._trust.begin_round(), _Round()
        outage: _DatabaseUnavailable | None = None
        # Where the cache does not answer, trust lapses by itself.
        async with self._cache.open_round() as servers:
            try:
                await self._bring_forward(servers, this_round)
            except _DatabaseUnavailable as error:
                outage = error  # the connections to the cache are in order
        if outage is not None:
            if this_round.has_changed:
                self._trust.invalidate("not followed")  # some server may lack the change
            self._trust.extend(start)
            raise outage.error
        self._trust.confirm(this_round.verified, start)
        if not this_round.verified:
            raise StoreUnavailable("redis", "no copies could be brought forward")

    async def _bring_forward(self, servers: Sequence[SealedServer], this_round: _Round) -> None:
        for _ in range(_MAX_PASSES):  # another instance may move a seal meanwhile
            groups: dict[Mark | None, dict[SealedServer, list[int]]] = {}
            for server in servers:
                for bucket, seal in server.seals.items():
                    if not this_round.is_verified(seal):
                        mark = None if seal is None else seal.mark
                        groups.setdefault(mark, {}).setdefault(server, []).append(bucket)
            for mark, buckets in groups.items():
                if mark is None:
                    this_round.add_verified(await self._begin(buckets))
                else:
                    await self._follow_group(_Group(mark, buckets), this_round)
            if not groups:
                return

    async def _follow_group(self, group: _Group, this_round: _Round) -> None:
        try:
            async with asyncio.timeout(self._pages_timeout):
                await self._apply_pages(group, this_round)
                return
        except PositionLost as lost:
            self._trust.invalidate("position lost")
            self._wakeup.set()
            self._on_position_lost(lost, group.namespaces())
        except (TooManyChanges, TimeoutError):
            _log.warning("redis too far behind")
        this_round.add_verified(await self._begin(group.buckets))

    async def _apply_pages(self, group: _Group, this_round: _Round) -> None:
        if not (await self._list(group.mark, limit=0)).has_changed:
            this_round.add_verified(group.namespaces())
            return
        this_round.has_changed = True
        # A mark is stored by the statement that takes its snapshot: while it is there, so are all
        # changes that it covers.
        page = await self._list(group.mark, store_mark=True)
        moved_to = page.position
        buckets = group.buckets
        while True:
            buckets = await self._apply(
                buckets, page, moved_to=moved_to if page.next is None else None
            )
            if page.next is None:
                break
            page = await self._list(group.mark, after=page.next)
        if any(buckets.values()):
            self._count_move("moved")
        this_round.add_verified(_Group(group.mark, buckets).namespaces())

    async def _apply(
        self, buckets: _Buckets, page: ChangePage, *, moved_to: Mark | None
    ) -> _Buckets:
        """Apply a page; return the buckets that took it. Another instance may move the others."""
        copies = list_copies(page.changes)
        return await _write(
            buckets,
            lambda server, own: server.apply(
                copies, deleted=page.unreadable, buckets=own, moved_to=moved_to
            ),
        )

    async def _begin(self, buckets: _Buckets) -> dict[str, Seal]:
        """Begin new namespaces at the present; return those that are in place."""
        mark = await self._question(self._change_log.add_mark())
        begun = await _write(buckets, lambda server, own: server.begin(mark, buckets=own))
        if any(begun.values()):
            self._count_move("begun")
        return _Group(mark, begun).namespaces()

    async def _list(
        self,
        since: Mark,
        *,
        limit: int = _PAGE_SIZE,
        after: ChangeCursor | None = None,
        store_mark: bool = False,
    ) -> ChangePage:
        return await self._question(
            self._change_log.list_changes(
                since, limit=limit, after=after, created=True, store_mark=store_mark
            )
        )

    async def _question(self, question: Awaitable[_Result]) -> _Result:
        try:
            return await with_timeout(question, QUESTION_TIMEOUT, store="durable")
        except StoreUnavailable as error:
            raise _DatabaseUnavailable(error) from error

    def _compute_pause(self) -> float:
        try:
            now = self._clock.now()
        except StoreUnavailable:  # not set yet: this instance's rounds begin at any time
            return INTERVAL
        return seconds_to_next_round(now, jitter=self._jitter())


async def _write(
    buckets: _Buckets, write: Callable[[SealedServer, Collection[int]], Awaitable[set[int]]]
) -> dict[SealedServer, set[int]]:
    """Write to all servers; return the buckets where that was done, without failed servers."""
    done: dict[SealedServer, set[int]] = {}
    for server, own in buckets.items():
        with suppress(StoreUnavailable):
            done[server] = await with_timeout(write(server, own), _PAGE_TIMEOUT, store="redis")
    return done


def seconds_to_next_round(now: datetime, *, jitter: float) -> float:
    """Return the seconds until the next multiple of INTERVAL, and a little more by `jitter`."""
    return INTERVAL - now.timestamp() % INTERVAL + MAX_JITTER * jitter


class _DatabaseUnavailable(Exception):
    """The database, not the cache, did not answer in a round."""

    def __init__(self, error: StoreUnavailable) -> None:
        super().__init__(str(error))
        self.error = error
