"""The database of the model: one session, the numbers of transactions, and stored marks."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from tests.model.protocol import Protocol
from tests.model.redis import DEADLINE, ENDED, OPEN, TOMBSTONE, Copy, Mark, Snapshot

DIGESTS: Final = (0, 1, 2)
_NONE: Final = -1


class Session(NamedTuple):
    """The session's row. `rotated_at` has the transaction that rotated each digest out, or 0."""

    changed_xid: int
    current: int = 0
    previous: int = _NONE
    rotated_at: tuple[int, ...] = (0, 0, 0)
    version: int = 0
    is_revoked: bool = False

    def copy(self, digest: int) -> Copy | None:
        """Return the copy that a lookup of this digest returns; None: it never led here."""
        if digest not in (self.current, self.previous) and not self.rotated_at[digest]:
            return None
        if self.is_revoked:
            return Copy(TOMBSTONE, self.version)
        if digest == self.current:
            return Copy(OPEN, self.version)
        return Copy(DEADLINE if digest == self.previous else ENDED, self.version)

    def extended(self, xid: int) -> "Session":
        return self._replace(changed_xid=xid, version=self.version + 1)

    def rotated(self, xid: int, *, digest: int) -> "Session":
        rotated_at = list(self.rotated_at)
        rotated_at[self.current] = xid
        return Session(xid, digest, self.current, tuple(rotated_at), self.version + 1)

    def revoked(self, xid: int) -> "Session":
        return self._replace(changed_xid=xid, version=self.version + 1, is_revoked=True)


class Database(NamedTuple):
    """`in_progress` is a transaction that began before others which have ended, or 0.

    `others_xid` is the transaction that changed another session last, and `marks` has a bit for the
    id of each stored mark.
    """

    session: Session | None
    next_xid: int = 2
    in_progress: int = 0
    others_xid: int = 0
    marks: int = 0

    @property
    def position(self) -> Snapshot:
        return Snapshot(self.next_xid, self.in_progress)

    def is_lost(self, mark: Mark, *, protocol: Protocol) -> bool:
        """Return whether the changes since this mark cannot be listed."""
        if mark.snapshot.next_xid > self.next_xid:
            return True
        return protocol.mark_id and not self.marks >> mark.id & 1

    def has_changed(self, since: Snapshot) -> bool:
        return self.has_session_changed(since) or not since.sees(self.others_xid)

    def has_session_changed(self, since: Snapshot) -> bool:
        return self.session is not None and not since.sees(self.session.changed_xid)

    def copy(self, digest: int) -> Copy | None:
        return None if self.session is None else self.session.copy(digest)

    def list_copies(
        self, since: Snapshot, *, graces: int, protocol: Protocol
    ) -> Iterator[tuple[int, Copy]]:
        """Yield the copy for each digest that a cache may have an older, open copy for."""
        session = self.session
        if session is None:
            return
        for digest in DIGESTS:
            rotated_at = session.rotated_at[digest]
            if (
                digest in (session.current, session.previous)
                or (rotated_at and protocol.names_grace and graces >> digest & 1)
                or (rotated_at and protocol.names_rotated and not since.sees(rotated_at))
            ):
                copy = session.copy(digest)
                assert copy is not None
                yield digest, copy
