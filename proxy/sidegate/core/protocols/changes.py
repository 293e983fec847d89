"""What instances learn from each other: changed sessions and pending revocations."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from sidegate.core.pending_revocation import PendingRevocation
from sidegate.core.session import Session


class ChangeLog(Protocol):
    """The changed sessions of the database, and the generation of the cached copies of sessions.

    Creations and touches are not changes.
    """

    async def list_changed_since(self, position: int) -> tuple[int, list[Session]]:
        """Return the next position, and the sessions changed since `position`.

        A position is opaque; 0 returns the present position
        and no sessions. A change may be returned twice, but is never left out, in whatever order
        concurrent writers commit. Unreadable sessions are omitted. Raise PositionLost if the
        position is not valid any more, for example after a failover; then continue with 0.
        """
        ...

    async def list_last_changed(self, limit: int) -> list[Session]:
        """Return at most `limit` sessions, those changed last, the latest first.

        Unreadable sessions are omitted.
        """
        ...

    async def read_generation(self) -> int:
        """Return the generation of cached copies that may be trusted.

        It only grows. A number that was lost in a failover is not used again.
        """
        ...

    async def advance_generation(self, after: int) -> int:
        """Begin the generation after `after`, and return the present generation.

        For a cache that missed a change: its copies are not trusted in the new generation. If
        another instance has begun it already, only return the present one.
        """
        ...


class Feed(Protocol):
    """Notifies the other instances of changed sessions."""

    async def publish(self, sessions: Iterable[Session]) -> None:
        """Publish the changed sessions. Best effort: the change poller finds what was lost."""
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
