"""The parts of one simulated deployment, and the random streams of each."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, cast
from unittest.mock import patch

from sidegate.core.protocols import AnalyticsStore, AuditLog, LogoutTokenStore
from sidegate.core.token import TokenKey
from sidegate.runtime.database import Database
from sidegate.settings import Settings
from sidegate.stores.redis.connection import RedisClient
from tests.faults.history import Entry
from tests.faults.load import LIMIT
from tests.faults.rules import Rules
from tests.simulation.database import SimulatedDatabase
from tests.simulation.database_client import DatabaseLink, SimulatedLocks, SimulatedSessions
from tests.simulation.entropy import seeded_entropy
from tests.simulation.event_loop import Process, SimulatedLoop, current_process
from tests.simulation.network import Link, Network
from tests.simulation.redis_server import RedisServer

_START: Final = datetime(2026, 1, 5, 12, 0, 0, tzinfo=UTC)
_HISTORY_SIZE: Final = 64
_LOOKUP_BATCHES: Final = 3


@dataclass(frozen=True, slots=True)
class Profile:
    """Settings that differ between runs. `trust_without_database` is in seconds."""

    reads_memory: bool
    trust_without_database: int


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the time line."""

    at: float
    where: str
    text: str


@dataclass
class Machine:
    """What is around one process: its clock, and its ways to the stores."""

    process: Process
    database: DatabaseLink
    redis: Link
    clock_offset: float
    clock_rate: float


@dataclass
class World:
    """Everything but the instances and the clients."""

    seed: str
    profile: Profile
    history: list[Entry] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = SimulatedLoop(self.random("order"))
        self.network = Network(self.loop)
        self._machines: dict[Process, Machine] = {}
        self._database_process = Process(self.loop, "database")
        self._commits = self.random("commits")
        self.database = SimulatedDatabase(
            random=self.random("database"),
            now=self.database_time,
            draw_commit_delay=self._draw_commit_delay,
            history_size=_HISTORY_SIZE,
        )
        self.slow_commits = 0.0
        self.redis = self._build_redis("redis")
        self.other_redis = self._build_redis("other redis")
        self.settings = _build_settings(self.seed, self.profile)

    def random(self, stream: object) -> Random:
        """Return a stream of random numbers that no other one influences."""
        return Random(f"{self.seed} {stream}")

    @property
    def now(self) -> float:
        return self.loop.time()

    def database_time(self) -> datetime:
        return _START + timedelta(seconds=self.loop.time())

    def tell(self, where: str, text: str) -> None:
        self.events.append(Event(self.now, where, text))

    def _build_redis(self, name: str) -> RedisServer:
        process = Process(self.loop, name)
        return RedisServer(
            process, self.random(name), now=self.loop.time, time=_START.timestamp() + 3600
        )

    def _draw_commit_delay(self) -> float:
        if self._commits.random() < self.slow_commits:
            return self._commits.uniform(0.2, 3.0)
        return self._commits.uniform(0.0002, 0.004)

    def add_machine(self, name: str) -> Machine:
        """Return a new process with ways to the stores."""
        process, random = Process(self.loop, name), self.random(f"{name} {len(self._machines)}")
        machine = Machine(
            process,
            DatabaseLink(self.database, process=self._database_process, random=random),
            Link(self.loop, self.redis, random),
            clock_offset=random.uniform(10.0, 1e6),
            clock_rate=random.uniform(0.9999, 1.0001),
        )
        self._machines[process] = machine
        self.network.add(process, machine.redis)
        return machine

    # What the product gets instead of sockets, clocks and randomness

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Give the product this world, for what is opened in its processes."""
        defaults: Any = RedisClient.__init__.__kwdefaults__
        with ExitStack() as stack:
            stack.enter_context(seeded_entropy(self.seed, milliseconds=self._read_milliseconds))
            stack.enter_context(patch.dict(defaults, monotonic=self.loop.time))
            opened = "sidegate.runtime.resources"
            stack.enter_context(patch(f"{opened}.open_database", self._open_database))
            stack.enter_context(patch(f"{opened}.SystemClock", self._build_clock))
            yield

    def _read_milliseconds(self) -> int:
        return int(self.database_time().timestamp() * 1000)

    def _build_clock(self) -> "MachineClock":
        return MachineClock(self.loop, self._machines[current_process()])

    async def _open_database(self, _: Settings) -> Database:
        link = self._machines[current_process()].database
        sessions = SimulatedSessions(link)
        return Database(
            name="postgres",
            sessions=sessions,
            # No task that uses them is run.
            audit=cast("AuditLog", None),
            analytics=cast("AnalyticsStore", None),
            logout_tokens=cast("LogoutTokenStore", None),
            locks=SimulatedLocks(link),
            max_lookup_batches=_LOOKUP_BATCHES,
            check_schema=sessions.ping,
            now=sessions.now,
        )


class MachineClock:
    """The clock of a machine, which is set wrong and runs a little too fast or too slow."""

    def __init__(self, loop: SimulatedLoop, machine: Machine) -> None:
        self._loop = loop
        self._offset = machine.clock_offset
        self._rate = machine.clock_rate

    def now(self) -> datetime:
        return _START + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return self._offset + self._rate * self._loop.time()


def _build_settings(seed: str, profile: Profile) -> Settings:
    rules = Rules()
    key = TokenKey(1, Random(f"{seed} key").randbytes(32))
    # A small memory keeps no tombstone either, which older copies would lose against.
    short = {} if profile.reads_memory else {"max_age": "1ms"}
    small = {} if profile.reads_memory else {**short, "max_sessions": 1}
    return Settings.model_validate(
        {
            "database_url": "postgresql://simulated/sidegate",
            "redis_url": "redis://simulated:6379/0",
            "jobs": False,
            "token": {"keys": key.format()},
            "sessions": {
                "web": {"grace": f"{rules.grace:g}s"},
                "sso": {"grace": f"{rules.grace:g}s"},
                "mobile": {
                    "grace": f"{rules.long_grace:g}s",
                    "limit": LIMIT,
                    "touch_threshold": "1s",
                },
                "api": {
                    "grace": f"{rules.grace:g}s",
                    "idle_timeout": "12s",
                    "touch_threshold": "4s",
                },
            },
            "memory": small,
            "negative_cache": short,
            "postgres": {"listen": False},
            "redis": {"trust_without_database": f"{profile.trust_without_database}s"},
            "touch": {"interval": f"{rules.touch_interval:g}s"},
        }
    )
