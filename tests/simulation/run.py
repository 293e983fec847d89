"""One run: a plan, what happened, and which promises were broken."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from tests.faults.checker import find_violations
from tests.faults.consistency import find_final_violations, find_wrong_lists
from tests.faults.history import ActiveCount, AuditEvent, Check, Entry, FaultPeriod, Result, Revoke
from tests.faults.load import LIMIT
from tests.faults.rules import Violation
from tests.simulation import event_loop
from tests.simulation.broken_builds import Build
from tests.simulation.event_loop import current_process
from tests.simulation.faults import BOUND, FAULTS, Faults
from tests.simulation.instance import Instance
from tests.simulation.workload import COMMAND_WITHOUT_REDIS, RATES, RATES_ABOUT_IDLENESS, Clients
from tests.simulation.world import Event, Profile, World

INSTANCES: Final = ("one", "two", "three")

# Seconds: until the instances serve, until nothing of the load is left, and for the final check.
_START_TIME: Final = 1.0
_SETTLE_TIME: Final = 20.0
_RESTART_TIME: Final = 4.0
_FINAL_TIMEOUT: Final = 15.0
_DURATIONS: Final = (15.0, 30.0, 45.0)
_NUMBERS_OF_FAULTS: Final = (0, 1, 2, 3, 4, 6, 8)
_TRUST_WITHOUT_DATABASE: Final = (2, 3600)
_SLACK: Final = 1.0
NOT_HELD: Final = frozenset({"database_failover"})
"""Faults that the product does not survive yet: only a seed that names one has it."""

# Drawn twice as often: what they break shows only if much comes together.
_FAULTS_ABOUT_TRUST: Final = (
    "redis_other_server",
    "redis_replica_of_old",
    "redis_restart",
    "redis_failover",
    "database_late_touches",
    "database_restore",
)
IDLENESS: Final = "idleness"
# Activity that is lost with an instance, or that one alone cannot write, is not known to others.
_SHARE_ABOUT_IDLENESS: Final = 0.15
_FAULTS_ABOUT_IDLENESS: Final = ("database_stop_long", "database_loses_replies")


@dataclass(frozen=True, slots=True)
class Step:
    """An operation of the clients, or a fault. `number` seeds what it chooses."""

    at: float
    name: str
    number: int

    @property
    def is_fault(self) -> bool:
        return self.name in FAULTS


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is done in a run. The seed decides everything else."""

    seed: str
    profile: Profile
    duration: float
    steps: tuple[Step, ...]

    @classmethod
    def draw(cls, seed: str) -> "Plan":
        """Return the plan of a seed. `THEME:NUMBER` is about one fault, or about idleness."""
        random = Random(f"{seed} plan")
        duration = random.choice(_DURATIONS)
        profile = Profile(
            reads_memory=random.random() < 0.5,
            trust_without_database=random.choice(_TRUST_WITHOUT_DATABASE),
        )
        # Some runs are about one kind of fault, which comes again and again.
        candidates = [each for each in FAULTS if each not in NOT_HELD] + [*_FAULTS_ABOUT_TRUST]
        names = random.sample(candidates, random.choice((1, 1, 2, len(candidates))))
        rates: Mapping[str, float] = RATES
        theme, _, _ = seed.rpartition(":")
        if theme:
            names = [theme]
        if theme == IDLENESS or (not theme and random.random() < _SHARE_ABOUT_IDLENESS):
            names, rates = list(_FAULTS_ABOUT_IDLENESS), RATES_ABOUT_IDLENESS
            profile = Profile(reads_memory=True, trust_without_database=3600)
        drawn = [
            (at, name) for name, rate in rates.items() for at in _draw_times(random, rate, duration)
        ]
        drawn += [
            (random.uniform(0.0, duration), random.choice(names))
            for _ in range(random.choice(_NUMBERS_OF_FAULTS))
        ]
        steps = (Step(at, name, number) for number, (at, name) in enumerate(sorted(drawn)))
        return cls(seed, profile, duration, tuple(steps))

    def only(self, numbers: Sequence[int]) -> "Plan":
        """Return the plan with only these steps."""
        kept = frozenset(numbers)
        return replace(self, steps=tuple(step for step in self.steps if step.number in kept))


def _draw_times(random: Random, rate: float, duration: float) -> Iterator[float]:
    at = random.expovariate(rate)
    while at < duration:
        yield at
        at += random.expovariate(rate)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has shown. `seconds`: of virtual time; `steps`: of the event loop."""

    violations: tuple[Violation, ...]
    history: tuple[Entry, ...]
    events: tuple[Event, ...]
    seconds: float
    steps: int

    @property
    def allowed_checks(self) -> int:
        """How many checks were allowed: a run without service shows nothing."""
        return sum(isinstance(each, Check) and each.result is Result.OK for each in self.history)


def simulate(plan: Plan, *, build: Build | None = None) -> Outcome:
    """Run a plan, with the product or with a broken build of it."""
    world = World(plan.seed, plan.profile)
    found: list[Violation] = []
    injected = nullcontext() if build is None else build.injected()
    with world.installed(), _recorded_logs(world, found), injected:
        try:
            event_loop.run(world.loop, _Run(world, plan, found).run())
        except (event_loop.Deadlock, event_loop.EndlessLoop) as error:
            found.append(Violation("I9", str(error), world.now))
    violations = sorted({*found, *_judge(world)}, key=lambda violation: violation.time)
    return Outcome(
        tuple(violations),
        tuple(world.history),
        tuple(world.events),
        world.now,
        world.loop.steps,
    )


def _judge(world: World) -> list[Violation]:
    entries = world.history
    return [
        *find_violations(entries),
        *find_wrong_lists(entries),
        *find_final_violations(entries),
    ]


class _Run:
    def __init__(self, world: World, plan: Plan, found: list[Violation]) -> None:
        self._world = world
        self._plan = plan
        self._found = found
        self._instances = [Instance(world, name) for name in INSTANCES]
        self._clients = Clients(world, self._instances)
        self._faults = Faults(world, self._instances, self._clients)
        self._notices = world.random("notices")
        world.database.on_commit = self._notify

    async def run(self) -> None:
        for each in self._instances:
            each.start()
        await asyncio.sleep(_START_TIME)
        await self._run_steps()
        self._faults.heal()
        await self._check_at_the_end()
        self._faults.record_losses()
        self._world.history += _widen(
            [*self._faults.periods, *_find_commands_without_redis(self._world.history)],
            self._plan.profile,
        )
        self._found += [Violation("locks", text, at) for at, text in self._clients.wrong_holds]

    def _notify(self) -> None:
        for each in self._instances:
            if self._notices.random() < 0.9:
                delay = self._notices.uniform(0.0005, 0.01)
                each.machine.process.call_later(delay, each.on_commit)

    async def _run_steps(self) -> None:
        running: list[asyncio.Task[None]] = []
        for step in self._plan.steps:
            await asyncio.sleep(max(0.0, _START_TIME + step.at - self._world.now))
            random = self._world.random(f"step {step.number}")
            runner = self._faults if step.is_fault else self._clients
            running.append(asyncio.ensure_future(runner.run(step.name, random)))
        remaining = _START_TIME + self._plan.duration + _SETTLE_TIME - self._world.now
        if running:
            await asyncio.wait(running, timeout=remaining)
        for task in running:
            if task.done():
                task.result()
            else:
                task.cancel()

    async def _check_at_the_end(self) -> None:
        """Kill everything, start again, and check every token once."""
        world = self._world
        for each in self._instances:
            each.machine.process.thaw()
            if each.is_serving:
                each.crash()
                each.start()
        deadline = world.now + _FINAL_TIMEOUT
        await asyncio.gather(*(each.wait_until_serving(_FINAL_TIMEOUT) for each in self._instances))
        await asyncio.sleep(_RESTART_TIME)
        self._clients.after_restart = True
        rest, random = self._clients.lasting, world.random("final")
        while rest and world.now < deadline + _FINAL_TIMEOUT:
            again = []
            for token in rest:
                at = random.choice(self._instances)
                if await self._clients.check(token, at, random) is Result.INFO:
                    again.append(token)
            rest = again
            await asyncio.sleep(0.5)
        self._record_tables()

    def _record_tables(self) -> None:
        world, now = self._world, self._world.database.now()
        at, active = world.now, dict[str, int]()
        for record in world.database.tables.sessions.values():
            session = record.session
            if session.type == "mobile" and not session.has_ended(now):
                active[session.user_id] = active.get(session.user_id, 0) + 1
        world.history += [
            ActiveCount(start=at, end=at, user=user, sessions=number, limit=LIMIT)
            for user, number in active.items()
        ]
        world.history += [
            AuditEvent(
                start=at,
                end=at,
                action=row.action,
                session=str(row.session),
                version=row.version,
                user=row.user,
                reason=row.reason,
            )
            for row in world.database.tables.audit
        ]


def _find_commands_without_redis(history: Sequence[Entry]) -> list[FaultPeriod]:
    """Return the commands that cannot tell Redis, as faults of it."""
    return [
        FaultPeriod(start=entry.start, end=entry.end, number=0, episode="redis_unused", bound=BOUND)
        for entry in history
        if isinstance(entry, Revoke) and entry.instance == COMMAND_WITHOUT_REDIS
    ]


def _widen(periods: Sequence[FaultPeriod], profile: Profile) -> Iterator[FaultPeriod]:
    """Yield the periods, with the bound of what is split from both stores.

    An instance cut off from the database may let in by its Redis what others ended, if none that
    knew could tell that Redis.
    """
    for period in periods:
        others = [
            other
            for other in periods
            if _store(other) != _store(period)
            and {_store(other), _store(period)} == {"redis", "database"}
            and other.start <= period.end + BOUND
            and period.start <= other.end + BOUND
        ]
        if not others:
            yield period
            continue
        both = (period, *others)
        lasted = max(each.end for each in both) - min(each.start for each in both)
        split = min(lasted, profile.trust_without_database)
        yield replace_bound(period, BOUND + split + _SLACK)


def replace_bound(period: FaultPeriod, bound: float) -> FaultPeriod:
    return FaultPeriod(
        start=period.start,
        end=period.end,
        number=period.number,
        episode=period.episode,
        bound=bound,
    )


def _store(period: FaultPeriod) -> str:
    name = period.episode.partition("_")[0]
    return "database" if name == "row" else name


@contextmanager
def _recorded_logs(world: World, found: list[Violation]) -> Iterator[None]:
    """Record what the product logs. An unexpected error of it is a violation."""
    root, sidegate = logging.getLogger(), logging.getLogger("sidegate")
    handlers, levels = root.handlers[:], (root.level, sidegate.level)
    root.handlers[:] = [_Recorder(world, found)]
    root.setLevel(logging.INFO)
    sidegate.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        sidegate.setLevel(levels[1])


_UNEXPECTED: Final = frozenset({"background task failed", "prefetch failed", "unhandled exception"})
_SHOWN: Final = ("reason", "task", "error", "store", "sessions", "restored_since")


class _Recorder(logging.Handler):
    def __init__(self, world: World, found: list[Violation]) -> None:
        super().__init__()
        self._world = world
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        shown = [f"{name}={value}" for name in _SHOWN if (value := vars(record).get(name))]
        text = " ".join([record.getMessage(), *shown])
        try:
            where = current_process().name
        except LookupError:
            where = "outside"
        self._world.tell(where, text)
        is_lost_error = record.name == "asyncio" and record.levelno >= logging.ERROR
        if is_lost_error or record.getMessage() in _UNEXPECTED:
            self._found.append(Violation("internal", f"{where}: {text}", self._world.now))
