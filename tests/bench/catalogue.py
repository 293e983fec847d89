"""What can be measured, by name, and what is wanted of it."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.bench import peers, references, revocation, roads, upkeep
from tests.bench.effort import Effort
from tests.bench.goals import AtLeast, AtMost, Goal, wanted_by
from tests.bench.series import Series
from tests.bench.stage import Stage
from tests.bench.target import Target


class Unit(StrEnum):
    """What the value of a thing counts."""

    RATE = "/s"
    MEGABYTES = "MB"
    SECONDS = "s"
    MILLISECONDS = "ms"


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that has a value in each round. `theirs`: it is not our doing."""

    name: str
    title: str
    unit: Unit = Unit.RATE
    theirs: bool = False


@dataclass(frozen=True, slots=True)
class Road:
    """A thing that wrk measures, in turn with the other roads.

    One that is `optional` is left out, too, if it does not start or answers strangely.
    """

    thing: Thing
    open: Callable[[Stage], Target]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """Things that are measured together, once, before all roads."""

    things: tuple[Thing, ...]
    measure: Callable[[Stage, Effort], Mapping[str, Series]]


PROBES: Final = (
    Probe((Thing("ready", "start until ready", Unit.SECONDS),), upkeep.start_up),
    Probe(
        (
            Thing("memory-idle", "resident memory, idle", Unit.MEGABYTES),
            Thing("memory-100k", "100,000 sessions in memory add", Unit.MEGABYTES),
            Thing("slowest-100k", "slowest answer until they are there", Unit.MILLISECONDS),
        ),
        upkeep.memory,
    ),
    Probe(
        (
            Thing(
                "revoked-p50", "revoked here until refused there, half of all", Unit.MILLISECONDS
            ),
            Thing("revoked-p99", "revoked here until refused there, p99", Unit.MILLISECONDS),
        ),
        revocation.delay,
    ),
)

ROADS: Final = (
    Road(Thing("local", "hit in memory, all features on"), roads.local),
    Road(Thing("local-million", "hit in memory, 1,000,000 stored"), roads.local_of_a_million),
    Road(Thing("redis", "hit in Redis"), roads.redis),
    Road(Thing("postgres", "hit in Postgres"), roads.postgres),
    Road(
        Thing("postgres-million", "hit in Postgres, 1,000,000 stored"), roads.postgres_of_a_million
    ),
    Road(Thing("nginx", "nginx, return 200", theirs=True), references.nginx_alone),
    Road(Thing("nginx-lua", "nginx + Lua + Redis GET", theirs=True), references.nginx_with_lua),
    Road(Thing("aiohttp", "plain aiohttp + redis-py GET", theirs=True), references.plain_aiohttp),
    Road(Thing("nginx-file", "nginx, a small file", theirs=True), references.nginx_with_a_file),
    Road(Thing("auth-request", "nginx, that file, auth_request to us"), roads.behind_nginx),
    Road(Thing("create", "admin API: create"), roads.create),
    Road(Thing("refresh", "admin API: refresh"), roads.refresh),
    Road(
        Thing("oauth2-proxy", "oauth2-proxy, Redis", theirs=True), peers.oauth2_proxy, optional=True
    ),
    Road(
        Thing("oathkeeper", "Oathkeeper, introspection", theirs=True),
        peers.oathkeeper,
        optional=True,
    ),
)

GOALS: Final[tuple[Goal, ...]] = (
    AtLeast("local", 0.50, "nginx"),
    AtLeast("redis", 0.90, "nginx-lua"),
    AtLeast("postgres", 0.30, "redis"),
    AtLeast("local", 6.0, "aiohttp"),
    AtLeast("auth-request", 0.30, "nginx-file"),
    AtLeast("local-million", 0.90, "local"),
    AtMost("memory-idle", 60.0),
    AtMost("memory-100k", 120.0),
    AtMost("ready", 1.0),
    AtMost("revoked-p99", 50.0),
)


def things() -> Iterator[Thing]:
    """Yield all there is, in the order of the report."""
    for road in ROADS:
        yield road.thing
    for probe in PROBES:
        yield from probe.things


def with_partners(names: Collection[str]) -> set[str]:
    """Return the names and those of what they are compared with. ValueError: unknown names."""
    known = [thing.name for thing in things()]
    strange = sorted(set(names) - set(known))
    if strange:
        raise ValueError(f"nothing is called {', '.join(strange)}; there is {', '.join(known)}")
    concerned = (wanted_by(goal) for goal in GOALS if goal.of in names)
    return set(names).union(*concerned)


def concerned_goals(names: Collection[str]) -> list[Goal]:
    """Return the goals that concern only what is named."""
    return [goal for goal in GOALS if wanted_by(goal) <= set(names)]
