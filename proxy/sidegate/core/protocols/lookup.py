"""Finders and caches of sessions."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from sidegate.core.digest import Digest
from sidegate.core.session import Session


class SessionFinder(Protocol):
    """Finds sessions by digest: a store, or a wrapper around another finder."""

    async def find(self, digest: Digest) -> Session | None:
        """Return the copy of a session for `digest`, or None if there is none.

        The copy has `copy.digest == digest`. Ended sessions and tombstones are returned, too.
        """
        ...


class BatchFinder(Protocol):
    """A backend that finds many sessions in one round trip."""

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        """Return what `find` would for each digest; the mapping lacks those with None."""
        ...


class SessionCache(SessionFinder, Protocol):
    """A cache of sessions. It may drop entries, and never replaces one by an older copy."""

    async def put(self, session: Session) -> Session:
        """Store the copy under `session.digest`, unless the cached one is fresher.

        Return the copy that is cached now. `Session.freshness` decides.
        """
        ...


class BatchCache(BatchFinder, Protocol):
    """A cache backend that finds and puts many sessions in one round trip."""

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        """Put each session under its digest, and return what `put` would for each digest."""
        ...
