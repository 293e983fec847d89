"""The cache follower of the model: rounds, which bring each Redis forward and verify it."""

from collections.abc import Iterator

from tests.model.redis import NO_COPIES, Mark, Message, Page, Seal
from tests.model.world import (
    ASK,
    BEGIN,
    LAPSE,
    LIST,
    NO_ENTRIES,
    SEND,
    STORE_MARK,
    Instance,
    Round,
    Verified,
    Work,
    World,
)

Steps = Iterator[tuple[str, World]]

MAX_MESSAGES = 2


def invalidated(world: World, number: int) -> World:
    """Return it after an invalidation of the instance."""
    if not world.protocol.invalidations:
        return world
    under_way = world.instances[number].round
    if under_way is not None and world.protocol.void_rounds:
        under_way = under_way._replace(is_void=True)
    return world.with_instance(number, verified=(), round=under_way)


def is_trusted(world: World, number: int, *, seal: Seal | None) -> bool:
    """Return whether the instance uses copies that were read together with this seal."""
    if seal is None:
        return False
    protocol = world.protocol
    for namespace, mark in world.instances[number].verified:
        if namespace == seal.namespace:
            return not protocol.compares_order or seal.mark.snapshot.order >= mark.snapshot.order
    return not protocol.verified_only


def round_steps(world: World, number: int) -> Steps:
    """Yield the next steps of the instance's round."""
    instance, name = world.instances[number], f"instance {number + 1}"
    under_way = instance.round
    if under_way is None:
        if not instance.is_done:
            yield from _begin_steps(world, number)
        return
    if not under_way.todo:
        yield f"{name} ends its round", _ended(world, number)
        return
    step = under_way.todo[0].step
    if step == ASK:
        yield from _ask(world, number)
    elif step == BEGIN:
        yield from _begin(world, number)
    elif step == STORE_MARK:
        yield from _store_mark(world, number)
    elif step == LIST:
        yield from _list_last_page(world, number)
    else:
        yield from _send_page(world, number)


def _begin_steps(world: World, number: int) -> Steps:
    """Yield the beginnings of a round, by either connection or by both."""
    instance, name = world.instances[number], f"instance {number + 1}"
    if not instance.has_redis:
        failed = world.with_instance(number, is_done=True)
        yield f"{name}: a round fails for lack of Redis", failed
        return
    one, two = instance.connections
    for servers in ((one,),) if one == two else ((one,), (two,), (one, two), (two, one)):
        todo = tuple(_unasked(server, world.servers[server].seal) for server in servers)
        where = " and ".join(str(server + 1) for server in servers)
        label = f"{name} reads the seal of Redis {where}"
        yield label, world.with_instance(number, round=Round(todo, restricted=world.restricted()))


def _unasked(server: int, seal: Seal | None) -> Work:
    return Work(server, seal, step=BEGIN if seal is None else ASK)


def _begin(world: World, number: int) -> Steps:
    name = f"instance {number + 1}"
    if world.instances[number].has_database:
        yield f"{name} stores a mark for a new namespace", _begun(world, number)
    else:
        yield f"{name} cannot store a mark: its round fails", _failed(world, number)


def _ask(world: World, number: int) -> Steps:
    """Yield the answers to the question what has changed since the mark of a seal."""
    instance, name, work = world.instances[number], f"instance {number + 1}", _work(world, number)
    database, seal = world.database, work.seal
    assert seal is not None
    if not instance.has_database:
        yield f"{name} does not reach the database: its round fails", _failed(world, number)
        return
    begin = work._replace(step=BEGIN)
    if world.left.flood:
        flooded = _with_work(world.spent("flood"), number, work=begin)
        yield f"{name} finds more changes than it can list", flooded
    if database.is_lost(seal.mark, protocol=world.protocol):
        lost = _with_lost_mark(world, number)
        yield f"{name} finds that the mark is lost", _with_work(lost, number, work=begin)
    elif not database.has_changed(seal.mark.snapshot):
        yield f"{name} finds no change", _verified(world, number, seal=seal)
    else:
        yield f"{name} lists the changes, and stores a mark", _listed(world, number)
        if world.left.read_only and world.left.faults:
            listed = _listed(world.spent("read_only", "faults"), number, is_read_only=True)
            if world.protocol.needs_mark:
                listed = _failed(listed, number)
            yield f"{name} finds changes, and can store no mark", listed
        if world.left.pages:
            for cursor, what in _cursors(world):
                listed = _listed(world.spent("pages"), number, cursor=cursor)
                yield f"{name} lists the first page, {what}, and stores a mark", listed


def _with_lost_mark(world: World, number: int) -> World:
    """Return it with an invalidation: the database has lost changes."""
    world = _knowing(world.with_instance(number, memory=NO_ENTRIES), number)
    return invalidated(world, number) if world.protocol.invalidates_lost else world


def _cursors(world: World) -> Iterator[tuple[int, str]]:
    """Yield where the session may be in a list of two pages."""
    database = world.database
    if world.protocol.fixed_ids:
        yield 1, "which has the session if it has changed"
        yield 0, "without the session"
    elif database.session is not None:
        changed_xid = database.session.changed_xid
        yield changed_xid, "up to the session's last change"
        if changed_xid - 1 > database.in_progress:
            yield changed_xid - 1, "up to a change just before the session's last one"
        if changed_xid < database.next_xid - 1:
            yield database.next_xid - 1, "up to the last change of all"


def _is_on_last_page(world: World, work: Work) -> bool:
    """Return whether the session is on the page after the cursor, or else on the first one."""
    session = world.database.session
    if session is None or work.cursor is None:
        return False
    if world.protocol.fixed_ids:
        return work.cursor == 0
    return session.changed_xid > work.cursor


def _work(world: World, number: int) -> Work:
    under_way = world.instances[number].round
    assert under_way is not None
    return under_way.todo[0]


def _with_work(world: World, number: int, *, work: Work | None, last: bool = False) -> World:
    """Return it with another first piece of work, with that as the last one, or without it."""
    under_way = world.instances[number].round
    assert under_way is not None
    rest = under_way.todo[1:]
    todo = rest if work is None else (*rest, work) if last else (work, *rest)
    return world.with_instance(number, round=under_way._replace(todo=todo))


def _knowing(world: World, number: int) -> World:
    """Return it so that the instance, after its round, knows the changes that it has listed."""
    under_way = world.instances[number].round
    assert under_way is not None
    under_way = under_way._replace(listed=under_way.listed | world.restricted())
    return world.with_instance(number, round=under_way)


def _begun(world: World, number: int) -> World:
    """Return it with a mark stored for a new namespace."""
    database = world.database
    work = _work(world, number)._replace(
        step=SEND,
        namespace=world.namespaces + 1,
        position=database.position,
        mark=Mark(world.numbers, database.position),
        number=world.numbers,
        changed=(),
        changed_xid=0,
        known=world.restricted(),
        cursor=None,
    )
    world = _marked(world, world.numbers)._replace(
        namespaces=world.namespaces + 1, numbers=world.numbers + 1
    )
    return _with_work(world, number, work=work)


def _listed(
    world: World, number: int, *, cursor: int | None = None, is_read_only: bool = False
) -> World:
    """Return it with the first page listed, and its mark stored if nothing prevents that."""
    work, position, protocol = _work(world, number), world.database.position, world.protocol
    seal = work.seal
    assert seal is not None
    work = work._replace(
        step=SEND,
        namespace=seal.namespace,
        position=position,
        number=world.numbers,
        cursor=cursor,
    )
    world = world._replace(numbers=world.numbers + 1)
    if is_read_only:
        work = work._replace(mark=seal.mark)
    elif protocol.mark_with_list:
        world = _marked(world, work.number)
        work = work._replace(mark=Mark(work.number, position))
    else:
        work = work._replace(step=STORE_MARK)
    if not _is_on_last_page(world, work):
        world, work = _with_changes(world, number, work=work)
    under_way = world.instances[number].round
    assert under_way is not None
    behind = under_way.behind | 1 << work.namespace
    under_way = under_way._replace(behind=behind, has_changed=True)
    world = world.with_instance(number, round=under_way)
    return _with_work(world, number, work=work)


def _with_changes(world: World, number: int, *, work: Work) -> tuple[World, Work]:
    database, seal = world.database, work.seal
    assert seal is not None
    if not database.has_session_changed(seal.mark.snapshot):
        return world, work
    assert database.session is not None
    changed = database.list_copies(seal.mark.snapshot, graces=world.graces, protocol=world.protocol)
    work = work._replace(
        changed=tuple(changed), changed_xid=database.session.changed_xid, known=world.restricted()
    )
    return _knowing(world, number), work


def _marked(world: World, id_: int) -> World:
    return world._replace(database=world.database._replace(marks=world.database.marks | 1 << id_))


def _store_mark(world: World, number: int) -> Steps:
    name, work = f"instance {number + 1}", _work(world, number)
    if not world.instances[number].has_database:
        yield f"{name} cannot store the mark: its round fails", _failed(world, number)
        return
    marked = _marked(world, work.number)
    work = work._replace(step=SEND, mark=Mark(work.number, work.position))
    yield f"{name} stores the mark only now", _with_work(marked, number, work=work)


def _list_last_page(world: World, number: int) -> Steps:
    name, work = f"instance {number + 1}", _work(world, number)
    assert work.seal is not None
    if not world.instances[number].has_database:
        yield f"{name} cannot list the last page: its round fails", _failed(world, number)
        return
    if world.database.is_lost(work.seal.mark, protocol=world.protocol):
        lost = _with_work(_with_lost_mark(world, number), number, work=work._replace(step=BEGIN))
        yield f"{name} finds that the mark is lost", lost
        return
    is_listed = _is_on_last_page(world, work)
    work = work._replace(step=SEND, changed=(), known=0, cursor=None)
    if is_listed:
        world, work = _with_changes(world, number, work=work)
    label = f"{name} lists the last page, with{'' if work.changed else 'out'} the session"
    yield label, _with_work(world, number, work=work)


def _send_page(world: World, number: int) -> Steps:
    name, work = f"instance {number + 1}", _work(world, number)
    if not world.instances[number].has_redis:
        yield f"{name} cannot reach Redis", _with_work(world, number, work=None)
        return
    page = _page(world, work)
    redis = page.run(world.servers[work.server], world.protocol)
    what = "the last page" if work.cursor is None else "the first page"
    label = f"{name} sends {what} to Redis {work.server + 1}"
    if redis is None:
        again = _repeated(world, number, seal=world.servers[work.server].seal)
        yield f"{label}: not as read", again
    else:
        sent = world.with_server(work.server, redis)
        if work.cursor is None:
            yield label, _verified(sent, number, seal=page.moved)
        else:
            yield label, _with_work(sent, number, work=work._replace(step=LIST, seal=page.moved))
    if world.left.lose and world.left.faults:
        late = _repeated(world.spent("lose", "faults"), number, seal=work.seal)
        if len(world.messages) < MAX_MESSAGES:
            late = late.with_message(Message(number, work.server, page, is_late=True))
        yield f"{label}: times out", late


def _page(world: World, work: Work) -> Page:
    assert work.mark is not None
    is_moved = work.mark.id == work.number
    revision = 2 * work.number + work.server + 1
    moved = Seal(work.namespace, work.mark, revision)
    if work.cursor is not None:
        assert work.seal is not None
        moved = work.seal
        if world.protocol.revisions:
            moved = work.seal._replace(revision=revision)
    return Page(
        work.seal,
        moved,
        work.changed,
        moves_mark=work.cursor is None and is_moved,
        is_covered=work.mark.snapshot.sees(work.changed_xid),
        known=work.known,
    )


def _repeated(world: World, number: int, *, seal: Seal | None) -> World:
    """Return it with the present server to be asked for again, once, at the end of the round."""
    work = _work(world, number)
    again = None if work.is_repeated else _unasked(work.server, seal)._replace(is_repeated=True)
    return _with_work(world, number, work=again, last=True)


def _verified(world: World, number: int, *, seal: Seal) -> World:
    """Return it with the first piece of work done: the server has this seal."""
    under_way = world.instances[number].round
    assert under_way is not None
    verified = dict(under_way.verified)
    earlier = verified.setdefault(seal.namespace, seal.mark)
    if seal.mark.snapshot.order < earlier.snapshot.order:
        verified[seal.namespace] = seal.mark
    under_way = under_way._replace(
        todo=under_way.todo[1:],
        verified=tuple(sorted(verified.items())),
        behind=under_way.behind & ~(1 << seal.namespace),
    )
    return world.with_instance(number, round=under_way)


def _failed(world: World, number: int) -> World:
    """Return it after a round that has failed for lack of the database: trust lasts longer."""
    instance = world.instances[number]
    under_way = instance.round
    assert under_way is not None
    verified = instance.verified
    if world.protocol.forgets_all and under_way.has_changed:
        verified = ()
    elif world.protocol.forgets_behind:
        verified = tuple(each for each in verified if not under_way.behind >> each[0] & 1)
    age = under_way.age if world.protocol.lapse_from_start else 0
    return world.with_instance(
        number,
        round=None,
        is_done=True,
        restricted=instance.restricted | under_way.listed,
        verified=verified,
        trust_age=min(instance.trust_age, age),
    )


def _ended(world: World, number: int) -> World:
    """Return it after a complete round, which is void after an invalidation."""
    instance = world.instances[number]
    under_way = instance.round
    assert under_way is not None
    if under_way.is_void:
        return world.with_instance(number, round=None, is_done=True)
    age = under_way.age if world.protocol.lapse_from_start else 0
    has_lapsed = world.protocol.lapse and age >= LAPSE
    return world.with_instance(
        number,
        round=None,
        is_done=True,
        is_cut_off=not instance.has_database,
        restricted=instance.restricted | under_way.restricted,
        own=under_way.own if world.protocol.keeps_own else NO_COPIES,
        verified=() if has_lapsed else _confirmed(world, instance),
        trust_age=age,
        age=under_way.age,
    )


def _confirmed(world: World, instance: Instance) -> Verified:
    assert instance.round is not None
    if world.protocol.drops_unfollowed:
        return instance.round.verified
    return tuple(sorted({**dict(instance.verified), **dict(instance.round.verified)}.items()))
