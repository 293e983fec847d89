"""What happens to the model from outside the protocol: time, faults, changes without Redis."""

from tests.model.redis import EMPTY, Message, Publication, Redis, put
from tests.model.requests import changes, committed
from tests.model.rounds import Steps
from tests.model.world import BOUND, LAPSE, TIME_TO_LIVE, Entry, Instance, Listed, World


def time_steps(world: World) -> Steps:
    """Yield the next tick, and the end of a grace."""
    if world.left.tick:
        busy = [n for n in range(len(world.instances)) if not _is_idle(world, n)]
        if not busy:
            yield "tick", _ticked(world.spent("tick"))
        elif len(busy) <= world.left.suspend and world.left.faults:
            spent = world.spent("tick", "suspend", "faults")
            names = " and ".join(f"instance {number + 1}" for number in busy)
            yield f"tick, {names} suspended", _ticked(spent)
    if world.left.end_grace and world.graces:
        oldest = world.graces & -world.graces
        over = world.spent("end_grace")._replace(graces=world.graces ^ oldest)
        yield f"the grace of T{oldest.bit_length() - 1} ends", over


def fault_steps(world: World) -> Steps:
    """Yield the faults that may happen now, and the end of those that end."""
    for number, instance in enumerate(world.instances):
        if not instance.has_database:
            back = world.with_instance(number, has_database=True)
            yield f"instance {number + 1} has the database again", back
        if not instance.has_redis:
            back = world.with_instance(number, has_redis=True, connections=(instance.address,) * 2)
            yield f"instance {number + 1} has Redis again", back
        if world.left.reconnect:
            for connection in (0, 1):
                connections = (
                    (instance.address, instance.connections[1]),
                    (instance.connections[0], instance.address),
                )[connection]
                if connections != instance.connections:
                    new = world.spent("reconnect").with_instance(number, connections=connections)
                    yield f"instance {number + 1}: connection {connection + 1} is replaced", new
    yield from _long_commit(world)
    if world.left.faults:
        yield from _database_faults(world)
        yield from _redis_faults(world)
        for number in range(len(world.instances)):
            yield from _instance_faults(world, number)
    if world.left.save:
        for number, redis in enumerate(world.servers):
            if redis not in (EMPTY, world.saved[number]):
                yield f"Redis {number + 1} saves", _saved(world.spent("save"), number, redis)


def _is_idle(world: World, number: int) -> bool:
    """Return whether a round has ended, and all changes are answered, that began in this tick."""
    instance = world.instances[number]
    is_waiting = any(not each.is_late and each.sender == number for each in world.messages)
    return instance.is_done and instance.round is None and not is_waiting


def _ticked(world: World) -> World:
    refused = tuple(
        min(BOUND, count + 1) if world.is_refused(digest) else 0
        for digest, count in enumerate(world.refused)
    )
    lapses = world.protocol.lapse
    instances = tuple(_aged(each, lapses=lapses) for each in world.instances)
    return world._replace(refused=refused, instances=instances)


def _aged(instance: Instance, *, lapses: bool) -> Instance:
    under_way, listed = instance.round, instance.listed
    if under_way is not None:
        under_way = under_way._replace(age=min(LAPSE, under_way.age + 1))
    if listed is not None:
        listed = Listed(listed.changed, min(TIME_TO_LIVE, listed.age + 1))
    trust_age = min(LAPSE, instance.trust_age + 1)
    has_ended = instance.reading is not None and instance.reading.is_allowed
    return instance._replace(
        is_done=False,
        round=under_way,
        listed=listed,
        verified=() if lapses and trust_age == LAPSE else instance.verified,
        trust_age=trust_age,
        age=min(TIME_TO_LIVE, instance.age + 1),
        memory=tuple(_older(entry) for entry in instance.memory),
        reading=None if has_ended else instance.reading,
    )


def _older(entry: Entry | None) -> Entry | None:
    if entry is None or entry.age + 1 >= TIME_TO_LIVE:
        return None
    return Entry(entry.copy, entry.age + 1)


def _database_faults(world: World) -> Steps:
    left, database = world.left, world.database
    if left.cli:
        for kind, session in changes(world, database.next_xid):
            after = committed(world.spent("cli", "faults", kind), session, xid=database.next_xid)
            yield f"a command line without Redis: {kind}", after
    if left.others:
        changed = database._replace(next_xid=database.next_xid + 1, others_xid=database.next_xid)
        yield "another session changes", world.spent("others", "faults")._replace(database=changed)
    if left.overlap and not database.in_progress:
        begun = database._replace(next_xid=database.next_xid + 1, in_progress=database.next_xid)
        yield "a long transaction begins", world.spent("overlap", "faults")._replace(database=begun)
    if left.backup:
        backup = database._replace(in_progress=0)
        if backup != world.backup:
            yield "the database is backed up", world.spent("backup")._replace(backup=backup)
    if left.restore and world.backup is not None:
        restored = world.spent("restore", "faults")._replace(database=world.backup)
        yield "the database is restored", restored.with_known(0)


def _long_commit(world: World) -> Steps:
    xid = world.database.in_progress
    if xid:
        for kind, session in changes(world, xid):
            after = committed(world.spent(kind), session, xid=xid)
            yield f"the long transaction commits: {kind}", after


def _redis_faults(world: World) -> Steps:
    left = world.left
    for number, redis in enumerate(world.servers):
        name = f"Redis {number + 1}"
        if left.flush and redis != EMPTY:
            yield f"{name} is emptied", world.spent("flush", "faults").with_server(number, EMPTY)
        if left.evict:
            for digest, copy in enumerate(redis.copies):
                if copy is not None:
                    copies = put(redis.copies, digest, None)
                    less = Redis(redis.seal, copies, redis.known & ~(1 << digest))
                    evicted = world.spent("evict", "faults").with_server(number, less)
                    yield f"{name} evicts T{digest}", evicted
        if left.rollback and world.saved[number] not in (EMPTY, redis):
            back = world.spent("rollback", "faults").with_server(number, world.saved[number])
            yield f"{name} rolls back to what it saved, connections stay", back
        other = world.servers[1 - number]
        if left.clone and other not in (EMPTY, redis):
            cloned = world.spent("clone", "faults").with_server(number, other)
            yield f"{name} becomes a copy of the other, connections stay", cloned


def _saved(world: World, number: int, redis: Redis) -> World:
    saved = (redis, world.saved[1]) if number == 0 else (world.saved[0], redis)
    return world._replace(saved=saved)


def _instance_faults(world: World, number: int) -> Steps:
    left, instance, name = world.left, world.instances[number], f"instance {number + 1}"
    if left.address:
        moved = world.spent("address", "faults").with_instance(number, address=1 - instance.address)
        yield f"{name}: the address leads to the other Redis", moved
    if left.crash:
        yield f"{name} is killed and starts", _restarted(world.spent("crash", "faults"), number)
    if left.database_link and instance.has_database:
        lost = world.spent("database_link", "faults")
        lost = lost.with_instance(number, has_database=False, is_cut_off=True)
        yield f"{name} loses the database", lost
    if left.redis_link and instance.has_redis:
        lost = world.spent("redis_link", "faults").with_instance(number, has_redis=False)
        yield f"{name} loses Redis", lost


def _restarted(world: World, number: int) -> World:
    before = world.instances[number]
    instance = Instance(
        address=before.address,
        connections=(before.address, before.address),
        has_database=before.has_database,
        has_redis=before.has_redis,
        is_cut_off=not before.has_database,
    )
    messages = tuple(_orphaned(each, number) for each in world.messages)
    instances = (*world.instances[:number], instance, *world.instances[number + 1 :])
    return world._replace(instances=instances, messages=messages)


def _orphaned(message: Message, number: int) -> Message:
    if message.sender != number or not isinstance(message.request, Publication):
        return message
    return message._replace(is_late=True)
