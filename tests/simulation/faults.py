"""What is done to the processes, the network and the stores, each for some seconds.

Each fault is planned, and chooses by a random stream of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from sidegate.core.errors import UnreadableRecord
from sidegate.stores.codec import decode
from tests.faults.database_loss import RestoredState, find_losses
from tests.faults.history import (
    Create,
    Entry,
    FaultPeriod,
    InstanceFault,
    Migrate,
    RedisDataLoss,
    Refresh,
    Revoke,
)
from tests.simulation.database import ServerLost
from tests.simulation.database_state import Tables
from tests.simulation.instance import Instance
from tests.simulation.redis_server import RedisData, RedisServer
from tests.simulation.workload import Clients
from tests.simulation.world import World
from tests.support.replace import replace

BOUND: Final = 5.0
"""Seconds that a revocation may take while something is unavailable."""

# Seconds that instances may take to find a restore and to write tombstones back.
_RESTORE_TIME: Final = 5.0
_MARGIN: Final = 1.0
_RESTART_TIME: Final = 30.0


class _Link(Protocol):
    """The way of an instance to a store."""

    is_cut: bool
    extra_delay: float

    def reset(self) -> None: ...


_GetLink = Callable[[Instance], _Link]


def _get_redis(instance: Instance) -> _Link:
    return instance.machine.redis


def _get_database(instance: Instance) -> _Link:
    return instance.machine.database


class Faults:
    """Injects faults, and records when each was active."""

    def __init__(self, world: World, instances: Sequence[Instance], clients: Clients) -> None:
        self._world = world
        self._instances = instances
        self._clients = clients
        self._number = 0
        self.periods: list[FaultPeriod] = []
        self._restores: list[_Restore] = []

    async def run(self, name: str, random: Random) -> None:
        """Run a fault until it is healed."""
        self._number += 1
        number, start = self._number, self._world.now
        self._world.tell("fault", f"{name} begins")
        await FAULTS[name](self, random)
        self._world.tell("fault", f"{name} ends")
        await self._clients.probe_changed(random)  # what has come back may have old copies
        self.periods.append(
            FaultPeriod(start=start, end=self._world.now, number=number, episode=name, bound=BOUND)
        )

    def heal(self) -> None:
        """Heal what no fault heals by itself."""
        for each in self._instances:
            each.machine.redis.server = self._world.redis
            each.machine.redis.is_cut = each.machine.database.is_cut = False

    # Instances

    async def _crash(self, random: Random) -> None:
        victim = random.choice(self._instances)
        if victim.container is None:
            return
        start = self._world.now
        victim.crash()
        await asyncio.sleep(random.uniform(0.1, 3.0))
        victim.start()
        await victim.wait_until_serving(_RESTART_TIME)
        self._world.history.append(
            InstanceFault(start=start, end=self._world.now, instance=victim.name)
        )

    async def _freeze(self, random: Random) -> None:
        victim = random.choice(self._instances)
        if victim.container is None or victim.machine.process.is_frozen:
            return
        start, process = self._world.now, victim.machine.process
        process.freeze()
        await asyncio.sleep(random.choice([0.5, 2.0, 4.0, 8.0]) * random.uniform(0.5, 1.2))
        process.thaw()
        self._world.history.append(
            InstanceFault(start=start, end=self._world.now + 0.5, instance=victim.name)
        )

    # Redis

    def _some(self, random: Random) -> list[Instance]:
        """Return all instances, or one."""
        everything = list(self._instances)
        return everything if random.random() < 0.5 else [random.choice(everything)]

    async def _cut(self, random: Random, get_link: _GetLink) -> None:
        for each in self._some(random):
            get_link(each).is_cut = True
            get_link(each).reset()
        await asyncio.sleep(random.uniform(0.3, 9.0))
        for each in self._instances:
            get_link(each).is_cut = False

    async def _slow(self, random: Random, get_link: _GetLink, *, delays: Sequence[float]) -> None:
        links = [get_link(each) for each in self._some(random)]
        for link in links:
            link.extra_delay = random.choice(delays)
        await asyncio.sleep(random.uniform(1.0, 6.0))
        for link in links:
            link.extra_delay = 0.0

    async def _redis_cut(self, random: Random) -> None:
        await self._cut(random, _get_redis)

    async def _redis_silent(self, random: Random) -> None:
        seconds = random.uniform(0.3, 9.0)
        for each in self._some(random):
            each.machine.redis.silence(seconds)
        await asyncio.sleep(seconds)

    async def _redis_slow(self, random: Random) -> None:
        await self._slow(random, _get_redis, delays=[0.005, 0.02, 0.1, 0.5])

    async def _redis_resets(self, random: Random) -> None:
        for _ in range(random.randrange(3, 20)):
            random.choice(self._instances).machine.redis.reset()
            await asyncio.sleep(random.uniform(0.02, 0.6))

    async def _redis_restart(self, random: Random) -> None:
        """Restart empty, or with a snapshot from before, and stay away for a while."""
        redis = self._world.redis
        saved = redis.data.copy()
        await asyncio.sleep(random.choice([0.0, 0.5, 2.0, 14.0]) * random.random())
        redis.is_up = False
        self._reset_redis_links()
        self._lose_redis()
        await asyncio.sleep(random.choice([0.0, 0.2, 2.0]) * random.random())
        redis.restart(None if random.random() < 0.3 else saved)
        redis.is_up = True

    async def _redis_failover(self, random: Random) -> None:
        """Promote a replica that lacks the last writes."""
        redis = self._world.redis
        self._lose_redis()
        redis.restart(_pick_older(redis.history, random))
        self._reset_redis_links()

    async def _redis_replica_of_old(self, random: Random) -> None:
        """Replace the data below the open connections, as REPLICAOF and NO ONE do."""
        redis = self._world.redis
        saved = redis.data.copy()
        await asyncio.sleep(random.uniform(0.3, 14.0))
        redis.is_read_only = random.random() < 0.5
        self._lose_redis()
        redis.replace_data(saved)
        if redis.is_read_only:
            await self._clients.probe_changed(random)
            redis.is_read_only = False

    async def _redis_other_server(self, random: Random) -> None:
        """Lead to another server, often with old data, and back: all connections, or new ones."""
        redis, other = self._world.redis, self._world.other_redis
        if random.random() < 0.6:
            other.data = redis.data.copy()
        elif random.random() < 0.5:
            other.restart()
        await asyncio.sleep(random.uniform(0.0, 4.0))
        self._lose_redis()
        chosen = self._some(random)
        await self._lead_to(other, chosen, random)
        await self._clients.probe_changed(random)
        await asyncio.sleep(random.uniform(0.5, 14.0))
        await self._lead_to(redis, self._instances, random)

    async def _lead_to(
        self, server: RedisServer, instances: Iterable[Instance], random: Random
    ) -> None:
        share = random.choice([0.0, 0.6, 1.0, 1.0])  # of connections that break
        for each in instances:
            each.machine.redis.server = server
            for connection in each.machine.redis.connections[:]:
                if random.random() < share:
                    connection.break_off()
            if random.random() < 0.3:
                await asyncio.sleep(random.uniform(0.0, 0.6))

    async def _redis_flush(self, random: Random) -> None:
        self._lose_redis()
        self._world.redis.data = RedisData()
        await asyncio.sleep(random.uniform(0.0, 0.5))

    async def _redis_evicts(self, random: Random) -> None:
        for _ in range(random.randrange(1, 12)):
            self._lose_redis()
            self._world.redis.evict(random.choice([0.05, 0.3, 0.9]))
            await asyncio.sleep(random.uniform(0.0, 1.0))

    async def _redis_pubsub_lost(self, random: Random) -> None:
        for _ in range(random.randrange(1, 8)):
            for each in self._instances:
                for connection in each.machine.redis.connections[:]:
                    if connection.is_subscribed:
                        connection.break_off()
            await asyncio.sleep(random.uniform(0.1, 1.2))

    def _reset_redis_links(self) -> None:
        for each in self._instances:
            each.machine.redis.reset()

    def _lose_redis(self) -> None:
        now = self._world.now
        self._world.history.append(RedisDataLoss(start=now, end=now))

    # Database

    async def _database_stop(self, random: Random) -> None:
        await self._stop_database_for(random.uniform(0.1, 9.0))

    async def _database_stop_long(self, random: Random) -> None:
        """Stop for longer than sessions take to become idle."""
        await self._stop_database_for(random.uniform(9.0, 18.0))

    async def _stop_database_for(self, seconds: float) -> None:
        if not self._world.database.is_up:
            return
        restores = len(self._restores)
        self._stop_database()
        await asyncio.sleep(seconds)
        if len(self._restores) == restores:  # else a restore starts it
            self._world.database.start()

    def _stop_database(self) -> None:
        self._world.database.stop()
        for each in self._instances:
            each.machine.database.reset()

    async def _database_cut(self, random: Random) -> None:
        await self._cut(random, _get_database)

    async def _database_silent(self, random: Random) -> None:
        seconds = random.uniform(0.3, 9.0)
        for each in self._some(random):
            each.machine.database.silence(self._world.now + seconds)
        await asyncio.sleep(seconds)

    async def _database_slow(self, random: Random) -> None:
        await self._slow(random, _get_database, delays=[0.005, 0.03, 0.15])

    async def _database_loses_replies(self, random: Random) -> None:
        links = [each.machine.database for each in self._instances]
        for link in links:
            link.lose_replies = random.choice([0.2, 0.5, 1.0])
        await asyncio.sleep(random.uniform(1.0, 6.0))
        for link in links:
            link.lose_replies = 0.0

    async def _database_slow_commits(self, random: Random) -> None:
        self._world.slow_commits = random.choice([0.05, 0.2, 0.5])
        await asyncio.sleep(random.uniform(1.0, 8.0))
        self._world.slow_commits = 0.0

    async def _database_late_touches(self, random: Random) -> None:
        links = [each.machine.database for each in self._instances]
        for link in links:
            link.slow_touches = random.uniform(1.0, 4.5)
        for _ in range(random.randrange(1, 6)):
            await asyncio.sleep(random.uniform(0.5, 3.0))
            if random.random() < 0.5:
                self._lose_redis()
                self._world.redis.evict(0.9)
        for link in links:
            link.slow_touches = 0.0

    async def _row_lock(self, random: Random) -> None:
        """Lock the rows of some sessions, as a foreign transaction does."""
        tokens = random.sample(self._clients.active, min(4, len(self._clients.active)))
        seconds = random.uniform(0.5, 6.0)
        await asyncio.gather(
            *(self._hold_row(session, seconds) for session in {t.session: None for t in tokens})
        )

    async def _hold_row(self, session: str | None, seconds: float) -> None:
        try:
            async with self._world.database.hold(session):
                await asyncio.sleep(seconds)
        except ServerLost:
            return

    async def _database_restore(self, random: Random) -> None:
        """Stop, and come back as a backup that is some seconds old."""
        if not self._world.database.is_up:
            return
        backup, restores = self._world.database.tables.copy(), len(self._restores)
        await asyncio.sleep(random.uniform(0.5, 6.0))
        if len(self._restores) > restores:
            return  # the backup is of a history that was given up
        await self._restore(backup, random.choice([0.0, 0.5, 3.0]) * random.random())

    async def _database_failover(self, random: Random) -> None:
        """Promote a replica that lacks the last commits."""
        history = self._world.database.history
        if not history or not self._world.database.is_up:
            return
        number = random.choice([1, 1, 2, 3, 8])
        await self._restore(history[max(0, len(history) - number)].copy(), random.random() * 0.5)

    async def _restore(self, tables: Tables, seconds: float) -> None:
        world, stopped_at = self._world, self._world.now
        self._restores.append(_Restore(stopped_at, None))
        number = len(self._restores)
        self._stop_database()
        await asyncio.sleep(seconds)
        if len(self._restores) > number:
            return  # by another one meanwhile
        self._restores[-1] = _Restore(stopped_at, self._read_state(tables))
        self._clients.forget_holds()
        world.database.start(tables)

    def record_losses(self) -> None:
        """Add to the history what each restore has lost, when everything is acknowledged."""
        history = self._world.history
        for restore in self._restores:
            state = restore.state
            if state is None:
                continue
            history[:] = [_shorten(entry, restore.stopped_at, state.read_at) for entry in history]
            history.append(
                find_losses(
                    history,
                    state,
                    issued=self._clients.issued,
                    stopped_at=restore.stopped_at,
                    settled_at=state.read_at + _RESTORE_TIME + BOUND,
                    bound=BOUND + _MARGIN,
                )
            )

    def _read_state(self, tables: Tables) -> RestoredState:
        copies = [
            copy
            for key, value in self._world.redis.data.values.items()
            if isinstance(value, bytes) and not key.endswith(b":seal")
            for copy in _read_copy(value)
        ]
        digests = {*tables.digests, *tables.previous, *tables.rotated}
        revoked = {i for i, each in tables.sessions.items() if each.session.revoked_at is not None}
        return RestoredState(
            read_at=self._world.now,
            sessions=frozenset(map(str, tables.sessions)),
            revoked=frozenset(map(str, revoked)),
            digests=frozenset(map(bytes, digests)),
            tombstones=frozenset(),
            cached=frozenset(copy for copy in copies),
        )


@dataclass(frozen=True, slots=True)
class _Restore:
    """When the database stopped, and what it knew when it came back; None: it did not."""

    stopped_at: float
    state: RestoredState | None


def _shorten(entry: Entry, stopped_at: float, read_at: float) -> Entry:
    """Let a change that was committed before a restore be acknowledged before it, too.

    Its acknowledgement may have taken until after it, as publishing does.
    """
    is_change = isinstance(entry, Create | Refresh | Migrate | Revoke)
    if not is_change or not entry.start < stopped_at <= read_at <= entry.end:
        return entry
    return replace(entry, end=stopped_at)


def _read_copy(value: bytes) -> Iterator[bytes]:
    try:
        copy = decode(value)
    except UnreadableRecord:
        return
    if copy.revoked_at is None:
        yield copy.digest


def _pick_older(history: Sequence[RedisData], random: Random) -> RedisData | None:
    if not history:
        return None
    number = random.choice([1, 2, 3, 5, 10, 30])
    return history[max(0, len(history) - number)]


FAULTS: Final[Mapping[str, Callable[[Faults, Random], Awaitable[None]]]] = {
    name[1:]: fault
    for name, fault in vars(Faults).items()
    if name.startswith(("_redis_", "_database_", "_row_", "_crash", "_freeze"))
}
"""Every fault, by name."""
