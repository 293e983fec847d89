"""The state of everything: database, Redis servers, instances, messages, and what may happen."""

from typing import Final, NamedTuple

from tests.model.database import DIGESTS, Database, Session
from tests.model.protocol import Protocol
from tests.model.redis import (
    EMPTY,
    NO_COPIES,
    Changed,
    Copies,
    Copy,
    Mark,
    Message,
    Redis,
    Seal,
    Snapshot,
)

# Ticks for which the database has refused a digest when no instance may allow it any more.
BOUND: Final = 2
# Ticks after the start of the last round in which trust lapses.
LAPSE: Final = 2
# Ticks for which memory keeps a copy.
TIME_TO_LIVE: Final = 2

NO_ENTRIES: Final = (None, None, None)

Verified = tuple[tuple[int, Mark], ...]


class Left(NamedTuple):
    """How often each kind of event may still happen. `faults` limits the faults in all."""

    tick: int = 0
    create: int = 0
    extend: int = 0
    rotate: int = 0
    revoke: int = 0
    fill: int = 0
    look_up: int = 0
    poll: int = 0
    end_grace: int = 0
    reconnect: int = 0
    pages: int = 0
    faults: int = 0
    cli: int = 0
    others: int = 0
    overlap: int = 0
    backup: int = 0
    restore: int = 0
    read_only: int = 0
    flush: int = 0
    evict: int = 0
    save: int = 0
    rollback: int = 0
    clone: int = 0
    address: int = 0
    crash: int = 0
    suspend: int = 0
    database_link: int = 0
    redis_link: int = 0
    lose: int = 0
    flood: int = 0


# What a round does next at a server.
ASK, BEGIN, STORE_MARK, LIST, SEND = range(5)


class Work(NamedTuple):
    """What a round has left to do at one server, whose seal it has read.

    `cursor` says where the session is in a list of two pages: 1 on the first one or not at all, 0
    behind the first one; it is a transaction if ids are not fixed. None: this is the last page.
    `number` is part of the revisions of the seals that this work writes. `known` are the digests
    that its changes restrict, as bits. `is_repeated`: it did not succeed before in this round.
    """

    server: int
    seal: Seal | None
    step: int = ASK
    namespace: int = 0
    position: Snapshot = Snapshot(0)
    mark: Mark | None = None
    number: int = 0
    changed: Changed = ()
    changed_xid: int = 0
    known: int = 0
    cursor: int | None = None
    is_repeated: bool = False


class Round(NamedTuple):
    """A round under way. `behind` are namespaces that lack known changes, as bits.

    `has_changed`: it has found changes. `restricted` are the digests that were restricted when it
    began, `listed` those that it has listed as restricted, as bits. `own` are the changes that the
    instance has committed since it began.
    """

    todo: tuple[Work, ...]
    verified: Verified = ()
    behind: int = 0
    has_changed: bool = False
    restricted: int = 0
    listed: int = 0
    own: Copies = NO_COPIES
    is_void: bool = False
    age: int = 0


class Entry(NamedTuple):
    """A copy in memory, and its age in ticks."""

    copy: Copy
    age: int


class Listed(NamedTuple):
    """A page of the change poller that is not applied yet, and its age in ticks."""

    changed: Changed
    age: int = 0


class Reading(NamedTuple):
    """A lookup of the first token in steps: the seal before, and the namespace of the copy."""

    before: Seal
    namespace: int | None = None
    is_allowed: bool = False


class Instance(NamedTuple):
    """`restricted`: the digests of which it knows that they are restricted, as bits.

    `own` are the changes committed here that no round which began later has covered.
    `is_cut_off`: it has lost the database, and completed no round since. `age` is that of its last
    complete round, `trust_age` that of the last one that prolonged trust, in ticks.
    """

    address: int = 0
    connections: tuple[int, int] = (0, 0)
    has_database: bool = True
    has_redis: bool = True
    is_done: bool = False
    is_cut_off: bool = False
    restricted: int = 0
    own: Copies = NO_COPIES
    verified: Verified = ()
    round: Round | None = None
    trust_age: int = LAPSE
    age: int = TIME_TO_LIVE
    position: Snapshot | None = None
    listed: Listed | None = None
    memory: tuple[Entry | None, ...] = NO_ENTRIES
    reading: Reading | None = None


class World(NamedTuple):
    """`graces` has a bit for each grace that is not over, `refused` the ticks of each refusal.

    `issued`, `namespaces` and `numbers` count what was ever made: none of them is made again.
    """

    protocol: Protocol
    database: Database
    backup: Database | None
    servers: tuple[Redis, Redis]
    saved: tuple[Redis, Redis]
    instances: tuple[Instance, ...]
    left: Left
    messages: tuple[Message, ...] = ()
    issued: int = 0
    graces: int = 0
    refused: tuple[int, ...] = (0, 0, 0)
    namespaces: int = 0
    numbers: int = 0

    def with_instance(self, number: int, **new: object) -> "World":
        instance = self.instances[number]._replace(**new)  # type: ignore[arg-type]
        before, after = self.instances[:number], self.instances[number + 1 :]
        return self._replace(instances=(*before, instance, *after))

    def with_server(self, number: int, redis: Redis) -> "World":
        servers = (redis, self.servers[1]) if number == 0 else (self.servers[0], redis)
        return self._replace(servers=servers)

    def with_message(self, message: Message) -> "World":
        return self._replace(messages=(*self.messages, message))

    def spent(self, *names: str) -> "World":
        left = {name: getattr(self.left, name) - 1 for name in names}
        return self._replace(left=self.left._replace(**left))

    def is_refused(self, digest: int) -> bool:
        copy = self.database.copy(digest)
        return copy is None or not copy.opens(digest, self.graces)

    def restricted(self) -> int:
        """Return the digests that do not open without a deadline now, as bits."""
        bits = 0
        for digest in DIGESTS:
            copy = self.database.copy(digest)
            bits |= (copy is None or copy.kind != 0) << digest
        return bits

    def with_known(self, bits: int) -> "World":
        """Return it so that these digests, at most, are known to be restricted."""
        return self._replace(
            instances=tuple(_mask_instance(each, bits) for each in self.instances),
            servers=_masked(self.servers, bits),
            saved=_masked(self.saved, bits),
            messages=tuple(_mask_message(each, bits) for each in self.messages),
        )

    def settled(self) -> "World":
        """Return it with the refusals that are over counted from 0 again."""
        if not any(self.refused):
            return self
        refused = tuple(
            count if count and self.is_refused(digest) else 0
            for digest, count in enumerate(self.refused)
        )
        return self if refused == self.refused else self._replace(refused=refused)


def _mask_instance(instance: Instance, bits: int) -> Instance:
    under_way = instance.round
    if under_way is not None:
        todo = tuple(work._replace(known=work.known & bits) for work in under_way.todo)
        under_way = under_way._replace(
            todo=todo, restricted=under_way.restricted & bits, listed=under_way.listed & bits
        )
    return instance._replace(restricted=instance.restricted & bits, round=under_way)


def _masked(servers: tuple[Redis, Redis], bits: int) -> tuple[Redis, Redis]:
    first, second = servers
    return first._replace(known=first.known & bits), second._replace(known=second.known & bits)


def _mask_message(message: Message, bits: int) -> Message:
    known = getattr(message.request, "known", 0) & bits
    if known == getattr(message.request, "known", 0):
        return message
    return message._replace(request=message.request._replace(known=known))  # type: ignore[call-arg]


def first_world(
    left: Left,
    *,
    protocol: Protocol,
    instances: int = 1,
    has_early_backup: bool = False,
    has_session: bool = True,
) -> World:
    """Return the state in which no round has been run.

    `has_early_backup`: there is a backup from before the session was created.
    """
    database = Database(Session(1) if has_session else None)
    return World(
        protocol=protocol,
        database=database,
        backup=Database(None, next_xid=1) if has_early_backup else None,
        servers=(EMPTY, EMPTY),
        saved=(EMPTY, EMPTY),
        instances=(Instance(position=database.position),) * instances,
        left=left,
        issued=int(has_session),
    )
