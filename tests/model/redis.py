"""A Redis server of the model: the seal, the copies stored under it, and the scripts."""

from typing import Final, NamedTuple

from tests.model.protocol import Protocol

# The kinds of a copy: without a deadline of its own, until the grace of its digest ends, rotated
# out, revoked. BLOCK is a header only, which is found as a miss.
OPEN, DEADLINE, ENDED, TOMBSTONE, BLOCK = range(5)


class Copy(NamedTuple):
    kind: int
    version: int

    @property
    def freshness(self) -> tuple[bool, int]:
        return self.kind == TOMBSTONE, self.version

    @property
    def can_open(self) -> bool:
        return self.kind in (OPEN, DEADLINE)

    def opens(self, digest: int, graces: int) -> bool:
        """Return whether it is valid now. `graces` has a bit for each grace that is not over."""
        return self.kind == OPEN or (self.kind == DEADLINE and bool(graces >> digest & 1))


class Snapshot(NamedTuple):
    """As core/snapshot.py has it, with at most one transaction in progress (0: none)."""

    next_xid: int
    in_progress: int = 0

    def sees(self, xid: int) -> bool:
        return xid < self.next_xid and (xid != self.in_progress or xid == 0)

    @property
    def order(self) -> tuple[int, int]:
        return self.next_xid, -bool(self.in_progress)


class Mark(NamedTuple):
    id: int
    snapshot: Snapshot


class Seal(NamedTuple):
    namespace: int
    mark: Mark
    revision: int


Copies = tuple[Copy | None, ...]
NO_COPIES: Final[Copies] = (None, None, None)


class Redis(NamedTuple):
    """The contents of a server. Copies of other namespaces than the seal's are never found.

    `known` has a bit for each digest of which a script has put that it is restricted. It is not
    stored in a real server, but says which of them an instance has reached that knew.
    """

    seal: Seal | None = None
    copies: Copies = NO_COPIES
    known: int = 0


EMPTY: Final = Redis()


def put(copies: Copies, digest: int, copy: Copy | None) -> Copies:
    return (*copies[:digest], copy, *copies[digest + 1 :])


def put_fresher(copies: Copies, digest: int, *, copy: Copy) -> Copies:
    kept = copies[digest]
    if kept is not None and kept.freshness > copy.freshness:
        return copies
    return put(copies, digest, copy)


def _delete_older(copies: Copies, digest: int, *, copy: Copy) -> Copies:
    kept = copies[digest]
    if kept is None or kept.freshness >= copy.freshness:
        return copies
    return put(copies, digest, None)


def _restrict(copies: Copies, digest: int, *, copy: Copy) -> Copies:
    """Put what a changed copy takes away, and nothing else."""
    if copy.can_open:
        copy = Copy(BLOCK, copy.version)
    return put_fresher(copies, digest, copy=copy)


Changed = tuple[tuple[int, Copy], ...]


class Fill(NamedTuple):
    """A copy read from the database, to be put under the seal that was seen before."""

    seal: Seal
    digest: int
    copy: Copy

    def run(self, redis: Redis, protocol: Protocol) -> Redis | None:
        """Return the contents after the script; None: it was not under this seal."""
        if redis.seal is None or redis.seal.namespace != self.seal.namespace:
            return None
        if protocol.exact_seal and redis.seal != self.seal:
            return None
        copies = put_fresher(redis.copies, self.digest, copy=self.copy)
        return redis._replace(copies=copies)


class Publication(NamedTuple):
    """What restricts, sent by the instance that has committed a change.

    `is_repeated`: it has been sent under another namespace before.
    """

    namespace: int
    changed: Changed
    known: int
    is_repeated: bool = False

    def run(self, redis: Redis, protocol: Protocol) -> Redis | None:
        """Return the contents after the script; None: it was not under this namespace."""
        if redis.seal is None or redis.seal.namespace != self.namespace:
            return None
        copies = redis.copies
        for digest, copy in self.changed:
            if copy.kind == DEADLINE and not protocol.no_deadlines:
                copies = put_fresher(copies, digest, copy=copy)
            elif copy.can_open and not protocol.blocks_older:
                copies = _delete_older(copies, digest, copy=copy)
            else:
                copies = _restrict(copies, digest, copy=copy)
        return Redis(redis.seal, copies, redis.known | self.known)


class Page(NamedTuple):
    """Changed copies of one round. `moved` is the seal after it.

    `moves_mark`: it is the last page, and has a new mark. `is_covered`: that covers the change.
    """

    seal: Seal | None
    moved: Seal
    changed: Changed
    moves_mark: bool
    is_covered: bool
    known: int

    def run(self, redis: Redis, protocol: Protocol) -> Redis | None:
        """Return the contents after the script; None: the seal is not the one that was read."""
        if not self._is_expected(redis.seal, protocol):
            return None
        if self.seal is None or self.moved.namespace != self.seal.namespace:
            return Redis(self.moved, known=self.known)
        copies = redis.copies
        for digest, copy in self.changed:
            if not self._may_open(protocol):
                copies = _restrict(copies, digest, copy=copy)
            elif protocol.keep_fresher:
                copies = put_fresher(copies, digest, copy=copy)
            else:
                copies = put(copies, digest, copy)
        return Redis(self.moved, copies, redis.known | self.known)

    def _may_open(self, protocol: Protocol) -> bool:
        if not self.moves_mark:
            return not protocol.restrict_only_pages
        return self.is_covered or not protocol.covered_pages

    def _is_expected(self, seal: Seal | None, protocol: Protocol) -> bool:
        if protocol.compare_and_set or seal is None or self.seal is None:
            return seal == self.seal
        return seal.namespace == self.seal.namespace


Request = Fill | Publication | Page


class Message(NamedTuple):
    """A request on its way to a server. `sender` waits for the reply, unless `is_late`."""

    sender: int
    server: int
    request: Request
    is_late: bool = False
