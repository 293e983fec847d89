"""Open loop: what is due is sent when it is due, whether or not the last answer has come."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Final, NoReturn, Self

from tests.faults.forgetting import Forgetting
from tests.faults.gateway import Gateway
from tests.faults.history import Result, Road, now
from tests.faults.population import Held, Population
from tests.faults.verbs import Verbs

LIMIT: Final = 3
"""So many sessions of type mobile may a user have; some users have more than that begun."""

# Seconds after a session's end at which everybody is asked for it: at once, on both sides of a
# second (the bound while all is well) and of five (while it is not).
_PROBES: Final = (0.0, 0.05, 0.25, 1.05, 2.5, 5.1, 8.0)
_AFTER_GRACE: Final = (1.1, 5.2)

# Whatever was sent has this long to come back when the load ends.
_DRAINING: Final = 20.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, over both instances. `expired` and the other worthless ones come at `each`."""

    hot: float
    warm: float
    cold: float
    each: float
    over: float
    crowd: float = 2.0
    creates: float = 4.0  # and a pair for a user at the limit, every two seconds
    pairs: float = 0.5
    revokes: float = 5.0
    refreshes: float = 2.0
    lists: float = 1.0

    @classmethod
    def scaled(cls, factor: float) -> Self:
        """Return a thousand checks a second times `factor`; changes are not scaled.

        A copy in memory lasts five seconds, so hot sessions go to Redis too, now and then: half of
        the 70 that do.
        """
        return cls(
            hot=935 * factor, warm=35 * factor, cold=20 * factor, each=10 * factor, over=10 * factor
        )

    @staticmethod
    def hot_sessions(factor: float) -> int:
        """Return how many sessions are asked for all the time: each goes to Redis every 4.75 s."""
        return max(5, round(35 * factor * 4.75 / 2))

    @property
    def checks(self) -> float:
        return self.hot + self.warm + self.cold + 4 * self.each + self.over + self.crowd


class Load:
    """Streams of checks and changes. Each has its own rate, and its moments are random."""

    def __init__(
        self,
        gateway: Gateway,
        verbs: Verbs,
        population: Population,
        forgetting: Forgetting,
        random: Random,
        rates: Rates,
        *,
        grace: float,
    ) -> None:
        self.rates = rates
        self.gateway = gateway
        self.verbs = verbs
        self.population = population
        self._forgetting = forgetting
        self._random = random
        self._grace = grace
        self._running: set[asyncio.Task[Any]] = set()
        self._mistakes: list[BaseException] = []
        self._ending = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the load up for as long as the block lasts; then wait for what is under way."""
        self._ending.clear()
        rates = self.rates
        streams = (
            (rates.hot, self._hot),
            (rates.warm, self._warm),
            (rates.cold, self._cold),
            (rates.over, self._over),
            (rates.crowd, self._crowd),
            *((rates.each, self._worthless(road)) for road in self.population.worthless),
            (rates.creates, self._create),
            (rates.pairs, self._pair),
            (rates.revokes, self._revoke),
            (rates.refreshes, self._refresh),
            (rates.lists, self._list),
        )
        tasks = [asyncio.create_task(self._stream(*stream)) for stream in streams]
        try:
            yield
        finally:
            await _cancelled(tasks)
            await self._drained()
        if self._mistakes:  # of the rig, not of what it looks at
            raise self._mistakes[0]

    @asynccontextmanager
    async def also(
        self, rate: float, act: Callable[[], Coroutine[Any, Any, object]]
    ) -> AsyncIterator[None]:
        """Add a stream for as long as the block lasts."""
        task = asyncio.create_task(self._stream(rate, act))
        try:
            yield
        finally:
            await _cancelled([task])

    def begin(self, work: Coroutine[Any, Any, object]) -> None:
        """Let something run beside; the end of the load waits for it."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def all_of(self, group: Sequence[Held], road: Road, *, at_once: int = 16) -> None:
        """Check everybody of a group once, some at a time."""
        rest = iter(tuple(group))

        async def some() -> None:
            for held in rest:
                self.population.seen(held)
                await self.gateway.check(held, road)

        await asyncio.gather(*(some() for _ in range(at_once)))

    async def _stream(
        self, rate: float, act: Callable[[], Coroutine[Any, Any, object]]
    ) -> NoReturn:
        due = now()
        while True:
            due += self._random.expovariate(rate)
            await asyncio.sleep(max(0.0, due - now()))
            self.begin(act())

    async def _hot(self) -> None:
        await self._checked(self.population.hot, Road.HOT)

    async def _warm(self) -> None:
        await self._checked(self.population.warm, Road.WARM)

    async def _over(self) -> None:
        held = self.population.any_of(self.population.past)
        if held is not None:
            await self.gateway.check(held, Road.OVER)

    async def _crowd(self) -> None:
        held = self.population.any_of(self.population.crowd)
        if held is not None:
            await self.gateway.check(held, Road.CROWD)

    def _worthless(self, road: Road) -> Callable[[], Coroutine[Any, Any, object]]:
        async def one() -> None:
            held = self.population.any_of(self.population.worthless[road])
            assert held is not None
            await self.gateway.check(held, road)

        return one

    async def _cold(self) -> None:
        held = self.population.take_unseen()
        if held is None:
            return
        await self._forgetting.forget(held)
        came = await self.gateway.check(held, Road.COLD)
        # While Postgres cannot be asked, Redis is not told anew, and it stays cold.
        group = self.population.warm if came is Result.OK else self.population.cold
        group.append(held)

    async def _checked(self, group: list[Held], road: Road) -> None:
        held = self.population.any_of(group)
        if held is not None:
            self.population.seen(held)
            await self.gateway.check(held, road)

    async def _create(self) -> None:
        held = await self.verbs.create(self.population.a_user())
        if held is not None:
            self.population.join(held)

    async def _pair(self) -> None:
        """Let one user log in twice at once, where that is more than the limit allows."""
        user = self._random.choice(self.population.crowded)
        logins = (self.verbs.create(user, type_="mobile", limit=LIMIT) for _ in range(2))
        self.population.crowd.extend(
            held for held in await asyncio.gather(*logins) if held is not None
        )

    async def _revoke(self) -> None:
        held = self.population.take()
        if held is None:
            return
        if await self.verbs.revoke(held) is Result.INFO:
            self.begin(self._probed(held, _PROBES))
            await self.verbs.revoke_after_all(held)
        await self._laid_to_rest(held)

    async def _refresh(self) -> None:
        held = self.population.take()
        if held is None:
            return
        begun = now()
        successor = await self.verbs.refresh(held, racing=self._random.random() < 0.5)
        if successor is None:
            return
        thief = self._random.random() < 0.25
        if not thief:
            self.population.join(successor)
        await self._probed(held, (self._grace / 2,))
        await self._wait(begun + self._grace + 1.0 - now())
        if thief:
            await self.verbs.use_again(held)
            await self._laid_to_rest(successor)
        await self._probed(held, _AFTER_GRACE)

    async def _list(self) -> None:
        await self.verbs.list(self.population.a_user())

    async def _laid_to_rest(self, held: Held) -> None:
        self.population.past.append(held)
        await self._probed(held, _PROBES)

    async def _probed(self, held: Held, moments: Sequence[float]) -> None:
        """Ask every instance at these moments from now, or once at the end of the load."""
        begun = now()
        for moment in moments:
            if await self._wait(begun + moment - now()):
                break
            self.begin(self.gateway.probe(held, Road.OVER))

    async def _wait(self, seconds: float) -> bool:
        """Return after so many seconds, or with True when the load ends before."""
        if self._ending.is_set():
            return True
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                return await self._ending.wait()
        except TimeoutError:
            return False

    async def _drained(self) -> None:
        self._ending.set()
        if self._running:
            await asyncio.wait(self._running, timeout=_DRAINING)
        await _cancelled(list(self._running))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        mistake = None if task.cancelled() else task.exception()
        if mistake is not None:
            self._mistakes.append(mistake)


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
