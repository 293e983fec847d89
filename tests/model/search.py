"""What may happen next in the model, what must not, and a breadth-first search for it."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from tests.model.database import DIGESTS
from tests.model.faults import fault_steps, time_steps
from tests.model.redis import BLOCK
from tests.model.requests import message_steps, request_steps
from tests.model.rounds import is_trusted, round_steps
from tests.model.world import BOUND, World


class Found(NamedTuple):
    """The result of a search. `breach` are the steps to a breach, if there was one."""

    breach: list[str] | None
    states: int
    is_complete: bool


def steps(world: World) -> Iterator[tuple[str, World]]:
    """Yield what may happen next, and the state after it."""
    yield from message_steps(world)
    for number in range(len(world.instances)):
        yield from round_steps(world, number)
    yield from time_steps(world)
    for number in range(len(world.instances)):
        yield from request_steps(world, number)
    yield from fault_steps(world)


def breach(world: World) -> str | None:
    """Return which instance allows what the database has refused for too long, or None."""
    for digest in DIGESTS:
        if world.refused[digest] < BOUND:
            continue
        for number in range(len(world.instances)):
            where = _find_allowed(world, number, digest=digest)
            if where is not None:
                return f"instance {number + 1} allows T{digest} from {where}"
    return None


def _find_allowed(world: World, number: int, *, digest: int) -> str | None:
    """Return where the instance finds a copy that it allows, or None."""
    instance = world.instances[number]
    is_exempt = (
        world.protocol.exempts_split
        and instance.is_cut_off
        and not instance.restricted >> digest & 1
    )
    entry = instance.memory[digest]
    if entry is not None and entry.copy.opens(digest, world.graces) and not is_exempt:
        return "memory"
    if not instance.has_redis:
        return None
    if not world.protocol.in_one_step:
        reading = instance.reading
        return "Redis" if digest == 0 and reading is not None and reading.is_allowed else None
    for connection, server in enumerate(instance.connections):
        redis = world.servers[server]
        if is_exempt and not redis.known >> digest & 1:
            continue
        copy, own = redis.copies[digest], instance.own[digest]
        if copy is None or copy.kind == BLOCK:
            continue
        if own is not None and own.freshness > copy.freshness:
            copy = own
        if copy.opens(digest, world.graces) and is_trusted(world, number, seal=redis.seal):
            return f"Redis {server + 1}, connection {connection + 1}"
    return None


def search(first: World, *, max_states: int) -> Found:
    """Search breadth first until a breach, the end, or `max_states`."""
    origins: dict[World, tuple[World, str] | None] = {first: None}
    queue = deque([first])
    while queue:
        world = queue.popleft()
        for label, after in steps(world):
            after = after.settled()
            if after in origins:
                continue
            origins[after] = world, label
            found = breach(after)
            if found is not None:
                return Found([*_labels(origins, after), found], len(origins), is_complete=False)
            queue.append(after)
        if len(origins) >= max_states:
            return Found(None, len(origins), is_complete=False)
    return Found(None, len(origins), is_complete=True)


def _labels(origins: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    labels = []
    while (origin := origins[world]) is not None:
        world, label = origin
        labels.append(label)
    return labels[::-1]
