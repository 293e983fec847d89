"""Open-loop load: requests are sent when they are due, without waiting for earlier responses."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Final, NoReturn, Self

from tests.faults.admin_client import AdminClient
from tests.faults.gateway import SimulatedGateway
from tests.faults.history import Result, TokenCategory, now
from tests.faults.population import ClientToken, Population
from tests.faults.redis_eviction import RedisEviction
from tests.faults.rules import Rules

LIMIT: Final = 3
"""Limit of sessions of type mobile for a user; some users log in more often than that."""

# Seconds after the end of a session at which all instances are checked: at once, and on both sides
# of one second (the bound without faults) and of five (the bound with faults).
_PROBE_DELAYS: Final = (0.0, 0.05, 0.25, 1.05, 2.5, 5.1, 8.0)
_PROBE_DELAYS_AFTER_GRACE: Final = (1.1, 5.2)

# Seconds after the grace period at which rotated-out tokens are reused: by then the first use of
# their successors is in the database.
_REUSE_DELAY: Final = Rules().touch_interval + Rules().normal_bound

# Seconds after which a change is published everywhere, if nothing fails.
_PUBLISH_TIME: Final = 2.0

# Seconds to wait for requests in progress when the load ends.
_DRAIN_TIMEOUT: Final = 20.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates per second over both instances. `never_valid` is the rate of each of its categories."""

    hot: float
    warm: float
    cold: float
    never_valid: float
    ended: float
    at_limit: float = 2.0
    creates: float = 4.0  # and a pair for a user at the limit every two seconds
    login_pairs: float = 0.5
    revokes: float = 5.0
    refreshes: float = 2.0
    lists: float = 1.0

    @classmethod
    def scaled(cls, load_factor: float) -> Self:
        """Return the rates for a thousand checks a second, scaled; changes are not scaled.

        A cache entry in memory lives five seconds, so hot sessions are looked up in Redis, too:
        half of the 70 Redis lookups a second.
        """
        return cls(
            hot=935 * load_factor,
            warm=35 * load_factor,
            cold=20 * load_factor,
            never_valid=10 * load_factor,
            ended=10 * load_factor,
        )

    @staticmethod
    def hot_session_count(load_factor: float) -> int:
        """Return the number of hot sessions: each is looked up in Redis every 4.75 s."""
        return max(5, round(35 * load_factor * 4.75 / 2))

    @property
    def checks(self) -> float:
        return self.hot + self.warm + self.cold + 4 * self.never_valid + self.ended + self.at_limit


class Load:
    """Streams of checks and changes, each a Poisson process with its own rate."""

    def __init__(
        self,
        gateway: SimulatedGateway,
        admin_client: AdminClient,
        population: Population,
        eviction: RedisEviction,
        random: Random,
        rates: Rates,
        *,
        grace: float,
    ) -> None:
        self.rates = rates
        self.gateway = gateway
        self.admin_client = admin_client
        self.population = population
        self._eviction = eviction
        self._random = random
        self._grace = grace
        self._running: set[asyncio.Task[Any]] = set()
        self._errors: list[BaseException] = []
        self._stopping = asyncio.Event()
        self._is_quiet = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the load during the block, then wait for the requests in progress."""
        self._stopping.clear()
        rates = self.rates
        checks = (
            (rates.hot, self._check_hot),
            (rates.warm, self._check_warm),
            (rates.cold, self._check_cold),
            (rates.ended, self._check_ended),
            (rates.at_limit, self._check_at_limit),
            *(
                (rates.never_valid, self._check_never_valid(category))
                for category in self.population.never_valid
            ),
        )
        changes = (
            (rates.creates, self.create),
            (rates.login_pairs, self.create_pair),
            (rates.revokes, self._revoke),
            (rates.refreshes, self._refresh),
            (rates.lists, self._list),
        )
        streams = (*checks, *((rate, self._unless_quiet(change)) for rate, change in changes))
        tasks = [asyncio.create_task(self._stream(*stream)) for stream in streams]
        try:
            yield
        finally:
            await _cancel(tasks)
            await self._drain()
        if self._errors:  # of the rig itself
            raise self._errors[0]

    @asynccontextmanager
    async def without_changes(self) -> AsyncIterator[None]:
        """Only check tokens around the block: no change fails because of it, and tells of it.

        Earlier changes are published before; after it, checks find the connections that broke.
        """
        self._is_quiet = True
        try:
            await asyncio.sleep(_PUBLISH_TIME)
            yield
            await asyncio.sleep(_PUBLISH_TIME)
        finally:
            self._is_quiet = False

    @asynccontextmanager
    async def extra_stream(
        self, rate: float, operation: Callable[[], Coroutine[Any, Any, object]]
    ) -> AsyncIterator[None]:
        """Add a stream during the block."""
        task = asyncio.create_task(self._stream(rate, operation))
        try:
            yield
        finally:
            await _cancel([task])

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Run a task in the background; the end of the load waits for it."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._on_task_done)

    async def check_all(
        self, group: Sequence[ClientToken], category: TokenCategory, *, concurrency: int = 16
    ) -> None:
        """Check every token of a group once, `concurrency` at a time."""
        rest = iter(tuple(group))

        async def some() -> None:
            for token in rest:
                self.population.mark_checked(token)
                await self.gateway.check(token, category)

        await asyncio.gather(*(some() for _ in range(concurrency)))

    async def _stream(
        self, rate: float, operation: Callable[[], Coroutine[Any, Any, object]]
    ) -> NoReturn:
        due = now()
        while True:
            due += self._random.expovariate(rate)
            await asyncio.sleep(max(0.0, due - now()))
            self.spawn(operation())

    def _unless_quiet(
        self, operation: Callable[[], Coroutine[Any, Any, object]]
    ) -> Callable[[], Coroutine[Any, Any, object]]:
        async def run() -> None:
            if not self._is_quiet:
                await operation()

        return run

    async def _check_hot(self) -> None:
        await self._check_one(self.population.hot, TokenCategory.HOT)

    async def _check_warm(self) -> None:
        await self._check_one(self.population.warm, TokenCategory.WARM)

    async def _check_ended(self) -> None:
        token = self.population.pick(self.population.recently_ended)
        if token is not None:
            await self.gateway.check(token, TokenCategory.ENDED)

    async def _check_at_limit(self) -> None:
        token = self.population.pick(self.population.at_limit)
        if token is not None:
            await self.gateway.check(token, TokenCategory.AT_LIMIT)

    def _check_never_valid(
        self, category: TokenCategory
    ) -> Callable[[], Coroutine[Any, Any, object]]:
        async def one() -> None:
            token = self.population.pick(self.population.never_valid[category])
            assert token is not None
            await self.gateway.check(token, category)

        return one

    async def _check_cold(self) -> None:
        token = self.population.take_uncached()
        if token is None:
            return
        await self._eviction.evict(token)
        result = await self.gateway.check(token, TokenCategory.COLD)
        # While Postgres is unavailable, Redis is not filled again, and the session stays cold.
        group = self.population.warm if result is Result.OK else self.population.cold
        group.append(token)

    async def _check_one(self, group: list[ClientToken], category: TokenCategory) -> None:
        token = self.population.pick(group)
        if token is not None:
            self.population.mark_checked(token)
            await self.gateway.check(token, category)

    async def create(self) -> None:
        """Log a user in."""
        token = await self.admin_client.create(self.population.pick_user())
        if token is not None:
            self.population.add(token)

    async def create_pair(self) -> None:
        """Log a user at the limit in twice concurrently."""
        user = self._random.choice(self.population.limited_users)
        logins = (self.admin_client.create(user, type_="mobile", limit=LIMIT) for _ in range(2))
        self.population.at_limit.extend(
            token for token in await asyncio.gather(*logins) if token is not None
        )

    async def _revoke(self) -> None:
        token = self.population.take()
        if token is None:
            return
        if await self.admin_client.revoke(token) is Result.INFO:
            self.spawn(self._probe_after(token, _PROBE_DELAYS))
            await self.admin_client.revoke_until_confirmed(token)
        await self.retire(token)

    async def _refresh(self) -> None:
        token = self.population.take()
        if token is None:
            return
        successor = await self.admin_client.refresh(token, concurrent=self._random.random() < 0.5)
        if successor is None:
            return
        refreshed_at = now()
        reuse = self._random.random() < 0.25
        if reuse:  # an attacker is noticed once the successor was used
            await self.gateway.check(successor, TokenCategory.WARM)
        else:
            self.population.add(successor)
        await self._probe_after(token, (self._grace / 2,))
        await self._wait(refreshed_at + self._grace + _REUSE_DELAY - now())
        if reuse:
            await self.admin_client.reuse(token)
            await self.retire(successor)
        await self._probe_after(token, _PROBE_DELAYS_AFTER_GRACE)

    async def _list(self) -> None:
        await self.admin_client.list(self.population.pick_user())

    async def retire(self, token: ClientToken) -> None:
        """Check a token of an ended session at every instance, until no cache may allow it."""
        self.population.recently_ended.append(token)
        await self._probe_after(token, _PROBE_DELAYS)

    async def _probe_after(self, token: ClientToken, delays: Sequence[float]) -> None:
        """Check a token at every instance after these delays, or once at the end of the load."""
        started_at = now()
        for delay in delays:
            if await self._wait(started_at + delay - now()):
                break
            self.spawn(self.gateway.probe(token, TokenCategory.ENDED))

    async def _wait(self, seconds: float) -> bool:
        """Return False after so many seconds, or True when the load ends before."""
        if self._stopping.is_set():
            return True
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                return await self._stopping.wait()
        except TimeoutError:
            return False

    async def _drain(self) -> None:
        self._stopping.set()
        if self._running:
            await asyncio.wait(self._running, timeout=_DRAIN_TIMEOUT)
        await _cancel(list(self._running))

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._errors.append(error)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
