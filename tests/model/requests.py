"""What requests to the instances of the model do: changes, fills and lookups."""

from collections.abc import Iterator

from tests.model.database import DIGESTS, Session
from tests.model.redis import Changed, Copies, Fill, Message, Publication, Seal, put_fresher
from tests.model.rounds import MAX_MESSAGES, Steps, invalidated, is_trusted
from tests.model.world import TIME_TO_LIVE, Entry, Listed, Reading, World


def committed(world: World, session: Session, *, xid: int) -> World:
    """Return it after the commit of a change by the transaction `xid`."""
    database, before = world.database, world.database.session
    if xid == database.in_progress:
        database = database._replace(session=session, in_progress=0)
    else:
        database = database._replace(session=session, next_xid=database.next_xid + 1)
    graces, issued = world.graces, world.issued
    if before is None or before.current != session.current:
        issued += 1
        if before is not None:
            graces |= 1 << before.current
    world = world._replace(database=database, graces=graces, issued=issued)
    # No instance has seen that a digest is restricted which opens only now.
    return world.with_known(world.restricted())


def changes(world: World, xid: int) -> Iterator[tuple[str, Session]]:
    """Yield the kind of each change that is possible, and the session after it."""
    session, left = world.database.session, world.left
    if session is None:
        if left.create and world.issued == 0:
            yield "create", Session(xid if world.protocol.creations_counted else 0)
    elif not session.is_revoked:
        if left.revoke:
            yield "revoke", session.revoked(xid)
        if left.rotate and world.issued < len(DIGESTS):
            yield "rotate", session.rotated(xid, digest=world.issued)
        if left.extend:
            yield "extend", session.extended(xid)


def request_steps(world: World, number: int) -> Steps:
    """Yield the steps that a request to this instance may take, and those of its change poller."""
    instance = world.instances[number]
    for connection in (0, 1):
        if connection and instance.connections[0] == instance.connections[1]:
            break
        if instance.has_database:
            yield from _change(world, number, connection=connection)
        if world.left.fill and instance.has_database and instance.has_redis:
            yield from _fill(world, number, connection=connection)
        if world.left.look_up:
            yield from _look_up(world, number, connection=connection)
    if not world.protocol.in_one_step and instance.has_redis:
        yield from _read(world, number)
    yield from _poll(world, number)


def message_steps(world: World) -> Steps:
    """Yield the arrival of each message, and the timeout of what a sender waits for."""
    for index, message in enumerate(world.messages):
        sender, request = message.sender, message.request
        rest = (*world.messages[:index], *world.messages[index + 1 :])
        label = f"the {type(request).__name__.lower()} of instance {sender + 1}"
        server = world.servers[message.server]
        redis = request.run(server, world.protocol)
        arrived = world._replace(messages=rest)
        if redis is not None:
            arrived = arrived.with_server(message.server, redis)
        elif isinstance(request, Publication) and not message.is_late:
            if request.is_repeated or server.seal is None:
                arrived = invalidated(arrived, sender)
            else:
                again = request._replace(namespace=server.seal.namespace, is_repeated=True)
                arrived = arrived.with_message(message._replace(request=again))
        refused = "" if redis is not None else ", which has another seal"
        yield f"{label} reaches Redis {message.server + 1}{refused}", arrived
        if not message.is_late and world.left.lose and world.left.faults:
            late = message._replace(is_late=True)
            timed_out = world._replace(
                messages=(*world.messages[:index], late, *world.messages[index + 1 :])
            )
            timed_out = invalidated(timed_out.spent("lose", "faults"), sender)
            yield f"{label} times out", timed_out


def _change(world: World, number: int, *, connection: int) -> Steps:
    instance, xid = world.instances[number], world.database.next_xid
    server = instance.connections[connection]
    for kind, session in changes(world, xid):
        after = committed(world.spent(kind), session, xid=xid)
        label = f"instance {number + 1}: {kind}"
        if kind == "create":
            yield label, after
            continue
        database = after.database
        changed = tuple(
            database.list_copies(database.position, graces=after.graces, protocol=world.protocol)
        )
        known = after.restricted()
        after = _with_own(after, number, changed=changed)
        namespaces = _known_namespaces(after, number, seal=world.servers[server].seal)
        is_sent = instance.has_redis and len(world.messages) < MAX_MESSAGES
        if not world.protocol.publishes or not namespaces or not is_sent:
            yield f"{label}, not published", invalidated(after, number)
            continue
        for namespace in namespaces:
            message = Message(number, server, Publication(namespace, changed, known))
            label_ = f"{label}, published to Redis {server + 1} under namespace {namespace}"
            yield label_, after.with_message(message)


def _with_own(world: World, number: int, *, changed: Changed) -> World:
    """Return it with a change that was committed by the instance."""
    instance = world.instances[number]
    restricted = instance.restricted | world.restricted()
    if not world.protocol.keeps_own:
        return world.with_instance(number, restricted=restricted)
    under_way = instance.round
    if under_way is not None:
        under_way = under_way._replace(own=_with_changes(under_way.own, changed))
    own = _with_changes(instance.own, changed)
    return world.with_instance(number, restricted=restricted, own=own, round=under_way)


def _with_changes(copies: Copies, changed: Changed) -> Copies:
    for digest, copy in changed:
        copies = put_fresher(copies, digest, copy=copy)
    return copies


def _known_namespaces(world: World, number: int, *, seal: Seal | None) -> list[int]:
    """Return the namespaces that the instance may have seen last at a server."""
    known = {namespace for namespace, _ in world.instances[number].verified}
    return sorted(known if seal is None else known | {seal.namespace})


def _fill(world: World, number: int, *, connection: int) -> Steps:
    """Yield the lookups in the database under each seal that may have been seen before them."""
    server = world.instances[number].connections[connection]
    session = world.database.session
    if session is None or len(world.messages) == MAX_MESSAGES:
        return
    places = {"": world.servers[server], " under the seal that was saved": world.saved[server]}
    for where, redis in places.items():
        seal = redis.seal
        if seal is None or (where and seal == world.servers[server].seal):
            continue
        if world.protocol.covered_fills and not seal.mark.snapshot.sees(session.changed_xid):
            continue
        for digest in DIGESTS:
            copy = session.copy(digest)
            if copy is not None and copy.can_open:
                message = Message(number, server, Fill(seal, digest, copy), is_late=True)
                label = f"instance {number + 1} reads T{digest} from the database"
                label = f"{label}, to fill Redis {server + 1}{where}"
                yield label, world.spent("fill").with_message(message)


def _look_up(world: World, number: int, *, connection: int) -> Steps:
    """Yield the lookups whose copy memory keeps."""
    instance, name = world.instances[number], f"instance {number + 1}"
    redis = world.servers[instance.connections[connection]]
    for digest in DIGESTS:
        if instance.memory[digest] is not None:
            continue
        found = redis.copies[digest]
        if found is not None and instance.has_redis and is_trusted(world, number, seal=redis.seal):
            age = instance.age if world.protocol.ages_from_round else 0
            if found.opens(digest, world.graces) and age < TIME_TO_LIVE:
                entry = Entry(found, age)
                label = f"{name} finds T{digest} in Redis {instance.connections[connection] + 1}"
                yield label, _remembered(world, number, digest=digest, entry=entry)
        copy = world.database.copy(digest)
        if instance.has_database and copy is not None and copy.can_open:
            label = f"{name} finds T{digest} in the database"
            yield label, _remembered(world, number, digest=digest, entry=Entry(copy, 0))


def _remembered(world: World, number: int, *, digest: int, entry: Entry) -> World:
    memory = world.instances[number].memory
    memory = (*memory[:digest], entry, *memory[digest + 1 :])
    return world.spent("look_up").with_instance(number, memory=memory)


def _poll(world: World, number: int) -> Steps:
    """Yield the next step of the change poller, which tells memory of changes."""
    instance, name, database = world.instances[number], f"instance {number + 1}", world.database
    if instance.listed is not None:
        applied = world.with_instance(number, listed=None, memory=_applied(world, number))
        yield f"{name} applies the changes to memory", applied
    elif world.left.poll and instance.has_database:
        since, position = instance.position, database.position
        polled = world.spent("poll").with_instance(number, position=position)
        if since is None:
            yield f"{name} polls for the first time", polled
        elif since.next_xid > database.next_xid:
            cleared = polled.with_instance(number, memory=(None, None, None))
            yield f"{name} polls, and finds that changes were lost", cleared
        elif database.has_session_changed(since):
            changed = database.list_copies(since, graces=world.graces, protocol=world.protocol)
            listed = polled.with_instance(number, listed=Listed(tuple(changed)))
            yield f"{name} polls, and lists changes for memory", listed


def _applied(world: World, number: int) -> tuple[Entry | None, ...]:
    instance = world.instances[number]
    assert instance.listed is not None
    memory = list(instance.memory)
    age = instance.listed.age if world.protocol.ages_from_list else 0
    for digest, copy in instance.listed.changed:
        kept = memory[digest]
        if kept is None or kept.copy.freshness <= copy.freshness:
            memory[digest] = Entry(copy, age) if age < TIME_TO_LIVE else None
    return tuple(memory)


def _read(world: World, number: int) -> Steps:
    """Yield the next step of a lookup of T0: the seal, the copy, the seal again."""
    instance, name = world.instances[number], f"instance {number + 1}"
    reading, redis = instance.reading, world.servers[instance.connections[0]]
    if redis.seal is None:
        return
    if reading is None or reading.is_allowed:
        if not world.is_refused(0) or world.refused[0]:
            reading = Reading(redis.seal)
            yield f"{name} reads the seal", world.with_instance(number, reading=reading)
    elif reading.namespace is None:
        copy = redis.copies[0]
        if copy is None or not copy.opens(0, world.graces):
            yield f"{name} reads no copy", world.with_instance(number, reading=None)
        else:
            reading = reading._replace(namespace=redis.seal.namespace)
            yield f"{name} reads the copy", world.with_instance(number, reading=reading)
    else:
        seals = [reading.before] if world.protocol.first_read else []
        seals += [redis.seal] if world.protocol.second_read else []
        is_allowed = (
            len(set(seals)) == 1
            and is_trusted(world, number, seal=seals[0])
            and seals[0].namespace == reading.namespace
        )
        reading = reading._replace(is_allowed=True) if is_allowed else None
        yield f"{name} ends the lookup", world.with_instance(number, reading=reading)
