"""Random walks through the model, longer than a breadth-first search can look ahead."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from tests.model.protocol import Protocol
from tests.model.rounds import is_trusted, round_steps
from tests.model.rows import warmed
from tests.model.search import breach, steps
from tests.model.world import Left, World, first_world

_LENGTH: Final = 90
# Rounds, after all faults, in which every instance trusts its Redis again.
_RECOVERY_ROUNDS: Final = 3
# What may happen in every walk.
_ALWAYS_LEFT: Final = Left(create=1, revoke=1, reconnect=2, end_grace=2)
_DRAWN: Final = tuple(
    name
    for name in Left._fields
    if name not in ("tick", "fill", "faults") and not getattr(_ALWAYS_LEFT, name)
)


class Walk(NamedTuple):
    """The steps of a walk, and what it has found: a breach, no recovery, or None."""

    labels: Sequence[str]
    found: str | None


def find_breach(
    protocol: Protocol,
    *,
    instances: int,
    chance: random.Random,
    may_go_on: Callable[[int], bool],
) -> Walk | None:
    """Walk until something is found; return that, with as few steps as it takes.

    `may_go_on` is called with the number of walks before each one.
    """
    first_worlds = list_first_worlds(protocol, instances)
    walks = 0
    while may_go_on(walks):
        walks += 1
        first = chance.choice(first_worlds)._replace(left=draw(chance))
        labels: list[str] = []
        world, found = first, None
        for label, world in walk(first, chance=chance):
            labels.append(label)
            found = breach(world)
            if found is not None:
                return Walk(_shortened(first, labels), found)
        found = find_failed_recovery(world)
        if found is not None:
            return Walk(labels, found)
    return None


def list_first_worlds(protocol: Protocol, instances: int) -> list[World]:
    """Return the states in which walks begin."""
    cold = [
        first_world(
            Left(),
            protocol=protocol,
            instances=instances,
            has_session=has_session,
            has_early_backup=has_early_backup,
        )
        for has_session, has_early_backup in ((True, False), (True, True), (False, True))
    ]
    warm = [warmed(world) for world in cold]
    # A second Redis that was a replica of the first, and connections to both.
    two = warm[0].with_server(1, warm[0].servers[0]).with_instance(0, connections=(1, 0))
    return [*cold, *warm, two, two._replace(saved=two.servers)]


def draw(chance: random.Random) -> Left:
    """Return few kinds of events at random, so that they meet each other."""
    left = _ALWAYS_LEFT._replace(
        tick=chance.randrange(2, 6), fill=chance.randrange(0, 3), faults=chance.randrange(1, 5)
    )
    names = chance.sample(_DRAWN, chance.randrange(2, 6))
    left = left._replace(**{name: chance.randrange(1, 3) for name in names})
    if left.rollback:
        left = left._replace(save=1)
    return left._replace(backup=1) if left.restore else left


def walk(first: World, *, chance: random.Random) -> Iterator[tuple[str, World]]:
    """Yield a random walk, faults seldom."""
    world = first
    for _ in range(_LENGTH):
        choices = list(steps(world))
        if not choices:
            return
        faults = world.left.faults
        weights = [1.0 if after.left.faults == faults else 0.5 for _, after in choices]
        label, world = chance.choices(choices, weights)[0]
        world = world.settled()
        yield label, world


def find_failed_recovery(world: World) -> str | None:
    """Return what fails if all faults end now, and all connections are new; None: nothing."""
    world = world._replace(left=Left(), messages=())
    for number, instance in enumerate(world.instances):
        world = world.with_instance(
            number, has_database=True, has_redis=True, connections=(instance.address,) * 2
        )
    for _ in range(_RECOVERY_ROUNDS):
        world = _with_rounds(world)
    for number, instance in enumerate(world.instances):
        if not is_trusted(world, number, seal=world.servers[instance.address].seal):
            return f"after all faults, instance {number + 1} does not trust its Redis again"
    if _with_rounds(world).namespaces != world.namespaces:
        return "after all faults, new namespaces begin again and again"
    return None


def _with_rounds(world: World) -> World:
    """Return it after one round of each instance, and the one that was under way."""
    for number in range(len(world.instances)):
        for _ in range(1 + (world.instances[number].round is not None)):
            world = world.with_instance(number, is_done=False)
            while not world.instances[number].is_done:
                _, world = next(iter(round_steps(world, number)))
    return world


def _shortened(first: World, labels: Sequence[str]) -> list[str]:
    """Return the steps without those that the breach does not need."""
    shortest = list(labels)
    if not _leads_to_breach(first, shortest):
        return shortest  # two steps have the same label
    size = len(shortest) // 2
    while size:
        for start in range(len(shortest) - size, -1, -1):
            shorter = shortest[:start] + shortest[start + size :]
            if _leads_to_breach(first, shorter):
                shortest = shorter
        size //= 2
    return shortest


def _leads_to_breach(first: World, labels: Sequence[str]) -> bool:
    world = first
    for label in labels:
        for each, after in steps(world):
            if each == label:
                world = after.settled()
                break
        else:
            return False
    return breach(world) is not None
