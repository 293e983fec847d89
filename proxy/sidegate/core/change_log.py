"""The values of the change log: marks, changed sessions, and pages of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sidegate.core.digest import Digest
from sidegate.core.session import Session, SessionId
from sidegate.core.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in the change log: every change that its snapshot sees is known.

    A mark with an `id` has been stored in the database after its snapshot was taken. So while the
    id is there, no restore and no failover has lost a change that the mark covers. `system` names
    the database cluster, whose transaction numbers mean nothing in another.
    """

    snapshot: Snapshot
    system: str
    id: UUID | None = None

    def covers(self, session: Session) -> bool:
        """Return whether the last change of a session that the database returned is known."""
        return session.changed_xid > 0 and self.snapshot.sees(session.changed_xid)


@dataclass(frozen=True, slots=True)
class ChangedSession:
    """A session after a change, with every digest that a cache may still have an open copy for.

    `rotated_digests` are those older than the previous one. They do not lead to the session any
    more, but may have done so when a cache stored its copy.
    """

    session: Session
    rotated_digests: tuple[Digest, ...] = field(default=(), repr=False)

    def copies(self) -> tuple[Session, ...]:
        """Return the copy for each digest, the one for the current digest first."""
        rotated_out = map(self.session.rotated_out, self.rotated_digests)
        return (*self.session.copies(), *rotated_out)


def list_copies(changes: Iterable[ChangedSession]) -> list[Session]:
    """Return the copies of all changed sessions."""
    return [copy for change in changes for copy in change.copies()]


@dataclass(frozen=True, slots=True)
class ChangeCursor:
    """The changed sessions that are not listed yet."""

    ids: tuple[SessionId, ...]


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Some of the changes since a mark.

    `position` is the present one, as of the moment the page was read; with an id if it was stored
    as a mark. `has_changed`: there are changes since the mark, whether or not this page contains
    them. `unreadable` are the digests of changed sessions whose records cannot be read. `next`
    continues the list; None: this is the last page.
    """

    position: Mark
    has_changed: bool
    changes: Sequence[ChangedSession] = ()
    unreadable: Sequence[Digest] = field(default=(), repr=False)
    next: ChangeCursor | None = None
