"""The situations to search breadth first: one for each element that needs it, and others."""

from typing import NamedTuple

from tests.model.protocol import Protocol
from tests.model.search import steps
from tests.model.world import Left, World, first_world


class Row(NamedTuple):
    """A situation: what has happened, as the beginnings of labels, and what may happen then.

    `is_warm`: each instance has made a round, and Redis has the copy of T0. `without`: elements of
    the protocol that are left out.
    """

    name: str
    left: Left
    happened: tuple[str, ...] = ()
    instances: int = 1
    has_session: bool = True
    has_early_backup: bool = False
    is_warm: bool = True
    without: tuple[str, ...] = ()

    def first_world(self) -> World:
        """Return the state to search from."""
        protocol = Protocol()
        for name in self.without:
            protocol = protocol.without(name)
        world = first_world(
            self.left,
            protocol=protocol,
            instances=self.instances,
            has_early_backup=self.has_early_backup,
            has_session=self.has_session,
        )
        if self.is_warm:
            world = warmed(world)
        for label in self.happened:
            world = _taken(world, label)
        return world


def warmed(world: World) -> World:
    """Return it after a round of each instance, and with a copy of T0 in the first Redis."""
    left, world = world.left, world._replace(left=Left(tick=1, fill=1))
    for number in range(len(world.instances)):
        world = _taken(world, f"instance {number + 1} reads the seal")
        while world.instances[number].round is not None:
            world = _taken(world, f"instance {number + 1} ")
    if world.database.session is not None:
        world = _taken(world, "instance 1 reads T0 from the database")
        world = _taken(world, "the fill of instance 1 reaches")
    return _taken(world, "tick")._replace(left=left)


def _taken(world: World, label: str) -> World:
    """Return the state after the first step whose label begins so. Raise LookupError: none does."""
    for each, after in steps(world):
        if each.startswith(label):
            return after.settled()
    raise LookupError(label)


_ROUND = (
    "instance 1 reads the seal",
    "instance 1 ",
    "instance 1 sends the last page",
    "instance 1 ends its round",
)

_ROLLBACK_IN_LOOKUP = Left(tick=2, cli=1, revoke=1, save=1, rollback=1, faults=3)

# In each situation there is a breach without the element that the row is named after.
WITHOUT = (
    Row(
        "compare_and_set",
        Left(tick=2, cli=1, revoke=1, others=1, save=1, rollback=1, faults=3),
        ("Redis 1 saves", "a command line without Redis: revoke", *_ROUND, "tick", "another"),
    ),
    Row("revisions", Left(tick=2, cli=1, revoke=1, pages=1, save=1, rollback=1, faults=2)),
    Row("mark_id", Left(tick=2, restore=1, others=2, faults=3), has_early_backup=True),
    Row(
        "mark_with_list",
        Left(tick=2, rotate=1, others=1, backup=1, restore=1, faults=2),
        ("the database is backed up", "instance 1: rotate", "the publication"),
    ),
    Row(
        "needs_mark",
        Left(tick=2, cli=1, revoke=1, read_only=1, save=1, rollback=1, faults=3),
    ),
    Row(
        "creations_counted",
        Left(tick=2, create=1, fill=1, backup=1, restore=1, faults=1),
        has_session=False,
    ),
    Row("exact_seal", Left(tick=2, cli=1, revoke=1, fill=1, evict=1, faults=2)),
    Row(
        "covered_fills",
        Left(tick=2, rotate=1, fill=1, backup=1, restore=1, faults=1),
        ("the database is backed up", "instance 1: rotate", "the publication"),
    ),
    Row(
        "keep_fresher",
        Left(tick=2, cli=1, revoke=1, rotate=1, database_link=2, faults=3),
        (
            "a command line without Redis: rotate",
            *_ROUND[:2],
            "instance 2: revoke, published",
            "the publication of instance 2 reaches",
        ),
        instances=2,
    ),
    Row("names_grace", Left(tick=3, cli=2, rotate=2, faults=2)),
    Row("names_rotated", Left(tick=2, cli=2, rotate=2, end_grace=1, faults=2)),
    Row(
        "restrict_only_pages",
        Left(tick=2, rotate=1, pages=1, backup=1, restore=1, lose=1, faults=2),
        ("the database is backed up", "instance 1: rotate", "the publication"),
    ),
    Row(
        "covered_pages",
        Left(tick=2, rotate=1, pages=1, others=1, backup=1, restore=1, faults=2),
        (
            "instance 1 reads the seal",
            "another session changes",
            "instance 1 lists the first page, without",
            "instance 1 sends the first page",
            "the database is backed up",
        ),
    ),
    Row(
        "fixed_ids",
        Left(tick=2, revoke=1, rotate=1, pages=1, overlap=1, others=1, end_grace=1, faults=2),
        (
            *_ROUND[:2],
            _ROUND[3],
            "a long transaction",
            "another",
            "instance 1: rotate",
            "the grace",
            "tick",
            *_ROUND[:1],
        ),
        without=("publishes",),
    ),
    Row(
        "blocks_older",
        Left(tick=2, rotate=1, fill=1, end_grace=1, database_link=2, faults=2),
        ("instance 2 reads T0", "instance 1: rotate", "the publication", "the fill"),
        instances=2,
    ),
    Row(
        "no_deadlines",
        Left(tick=2, rotate=2, backup=1, restore=1, end_grace=1, faults=1),
        ("the database is backed up", "instance 1: rotate", "the publication"),
    ),
    Row("keeps_own", Left(tick=2, revoke=1, save=1, rollback=1, database_link=1, faults=2)),
    Row("verified_only", Left(tick=2, cli=1, revoke=1, save=1, flush=1, rollback=1, faults=3)),
    Row("compares_order", Left(tick=2, cli=1, revoke=1, save=1, rollback=1, faults=2)),
    Row("drops_unfollowed", Left(tick=2, cli=1, revoke=1, lose=3, faults=4)),
    Row(
        "forgets_all",
        Left(tick=2, cli=1, revoke=1, database_link=1, address=1, reconnect=1, faults=3),
        (
            "instance 1: the address",
            "instance 1: connection 1",
            "instance 1 reads the seal of Redis 2 and 1",
            "instance 1 stores a mark",
            "instance 1 sends the last page",
            "instance 1 finds no change",
            "instance 1 ends its round",
        ),
    ),
    Row(
        "invalidates_lost",
        Left(tick=2, restore=1, database_link=1, faults=2),
        has_early_backup=True,
    ),
    Row("lapse", Left(tick=2, cli=1, revoke=1, suspend=2, faults=3)),
    Row("lapse_from_start", Left(tick=2, cli=1, revoke=1, suspend=2, faults=3)),
    Row("first_read", _ROLLBACK_IN_LOOKUP, without=("in_one_step",)),
    Row("second_read", _ROLLBACK_IN_LOOKUP, without=("in_one_step",)),
    Row("ages_from_round", Left(tick=2, cli=1, revoke=1, look_up=1, faults=1)),
    Row("ages_from_list", Left(tick=3, cli=1, rotate=1, revoke=1, poll=1, faults=2)),
    Row("exempts_split", Left(tick=2, cli=1, revoke=1, database_link=1, faults=2)),
)

# Elements that no breach needs, given the others. Publication makes a change known at once, and an
# instance whose publication has failed makes its next round at once.
UNNEEDED = ("publishes", "invalidations", "void_rounds", "forgets_behind")

# In none of these there is a breach.
SOUND = (
    Row(
        "Redis rolls back while a change is published",
        Left(tick=2, rotate=1, revoke=1, fill=1, save=1, rollback=1, faults=1),
    ),
    Row(
        "Redis rolls back, and the database is lost",
        Left(tick=2, revoke=1, save=1, rollback=1, database_link=1, faults=2),
        instances=2,
    ),
    Row(
        "the address leads to another Redis and back",
        Left(tick=2, cli=1, revoke=1, fill=1, address=2, reconnect=4, faults=3),
    ),
    Row(
        "a replica is promoted and the primary stays",
        Left(tick=2, revoke=1, fill=1, clone=1, address=1, reconnect=1, faults=2),
    ),
    Row(
        "Redis is emptied",
        Left(tick=2, rotate=1, fill=1, flush=1, end_grace=1, faults=1),
        instances=2,
    ),
    Row(
        "the database is restored",
        Left(tick=3, rotate=2, fill=1, backup=1, restore=1, end_grace=1, faults=1),
    ),
    Row(
        "the database is restored to a time before the session",
        Left(tick=2, rotate=1, fill=1, others=2, restore=1, end_grace=1, faults=3),
        has_early_backup=True,
    ),
    Row(
        "a long transaction commits between two pages",
        Left(tick=2, rotate=1, revoke=1, pages=1, overlap=1, others=1, end_grace=1, faults=2),
    ),
    Row(
        "instances die between commit and publication",
        Left(tick=2, rotate=1, revoke=1, fill=1, crash=2, end_grace=1, faults=2),
        instances=2,
    ),
    Row(
        "replies of Redis are lost",
        Left(tick=2, rotate=1, revoke=1, fill=1, lose=2, faults=2),
    ),
    Row(
        "an instance is suspended",
        Left(tick=3, cli=1, rotate=1, revoke=1, fill=1, suspend=2, faults=3),
        instances=2,
    ),
    Row(
        "an instance loses Redis for a while",
        Left(tick=3, rotate=1, revoke=1, fill=1, redis_link=1, faults=1),
        instances=2,
    ),
    Row(
        "an instance loses the database for a while",
        Left(tick=3, rotate=1, revoke=1, fill=1, database_link=1, end_grace=1, faults=1),
        instances=2,
    ),
    Row(
        "there are more changes than can be listed",
        Left(tick=2, rotate=1, revoke=1, fill=1, flood=1, others=1, save=1, rollback=1, faults=2),
    ),
    Row(
        "memory keeps copies",
        Left(tick=3, rotate=1, revoke=1, look_up=1, poll=2, end_grace=1, faults=1),
    ),
    Row(
        "Redis changes between the commands of a lookup",
        Left(tick=2, revoke=1, fill=1, save=1, rollback=1, clone=1, faults=2),
        without=("in_one_step",),
    ),
    Row(
        "changes are not published",
        Left(tick=2, rotate=1, revoke=1, fill=1, end_grace=1, crash=1, faults=1),
        instances=2,
        without=("publishes",),
    ),
    Row(
        "there are no invalidations but for a lost mark",
        Left(tick=2, revoke=1, lose=2, database_link=1, save=1, rollback=1, faults=3),
        without=("invalidations", "void_rounds"),
    ),
)
