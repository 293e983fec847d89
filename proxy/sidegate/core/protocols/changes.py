"""What instances learn from each other: changed sessions and pending revocations."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from sidegate.core.change_log import ChangeCursor, ChangedSession, ChangePage, Mark
from sidegate.core.pending_revocation import PendingRevocation
from sidegate.core.session import Session


class ChangeLog(Protocol):
    """The changed sessions of the database, in pages.

    A creation is a change: it is listed where `created` is asked for. A touch is none.
    """

    async def read_position(self) -> Mark:
        """Return the present position, without an id."""
        ...

    async def list_changes(
        self,
        since: Mark,
        *,
        limit: int,
        after: ChangeCursor | None = None,
        created: bool = False,
        store_mark: bool = False,
    ) -> ChangePage:
        """Return at most `limit` sessions changed since a mark, in their latest state.

        Continue with `after=page.next`: every session that had changed when the first page was read
        is listed once, in whatever order concurrent writers commit. What changes later may be
        missing, and the first page's position does not cover it. `created`: list sessions that were
        only created, too; `has_changed` tells of them in any case, and a limit of 0 asks for that
        alone. `store_mark`: store the position of the first page as a mark, in the statement that
        reads the page.

        Each change names the current digest, the previous one, those within their grace, and those
        rotated out since the mark. Raise PositionLost if the mark's id is not stored here, or its
        system is another one, or the transaction numbers have gone back; raise TooManyChanges if
        there are more than 20,000.
        """
        ...

    async def add_mark(self) -> Mark:
        """Store the present position as a mark, and return it. The last 10,000 are kept."""
        ...

    async def revoke_again(self, tombstones: Sequence[Session]) -> list[ChangedSession]:
        """Revoke what a restored database shows as not revoked; return what has changed.

        Sessions that are revoked or absent stay as they are.
        """
        ...


class Feed(Protocol):
    """Notifies the other instances of changed sessions."""

    async def publish(self, copies: Iterable[Session]) -> None:
        """Publish copies of changed sessions. Best effort: the change poller finds what is lost."""
        ...


class PendingRevocationStore(Protocol):
    """Shares pending revocations between instances. It may lose all of them at once."""

    async def put(self, revocations: Sequence[PendingRevocation]) -> None:
        """Store the revocations and notify all instances."""
        ...

    async def compare(self, known: set[str]) -> tuple[list[PendingRevocation], set[str]]:
        """Return the stored revocations with ids not in `known`, and the known ids not stored.

        Unreadable revocations are omitted.
        """
        ...

    async def remove(self, revocation: PendingRevocation) -> None:
        """Delete a revocation, which is persisted in the database. Absence is not an error."""
        ...
