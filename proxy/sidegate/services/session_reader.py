"""Read sessions as they will be once the pending revocations are persisted."""

from collections.abc import Callable
from datetime import datetime

from sidegate.core.condition import Condition
from sidegate.core.digest import Digest
from sidegate.core.judge import get_state
from sidegate.core.protocols import Cursor, SessionRepository
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.services.pending_revocations import PendingRevocations


class SessionReader:
    """Reads sessions from the repository, and applies the pending revocations to them."""

    def __init__(
        self,
        repository: SessionRepository,
        *,
        pending: PendingRevocations | None = None,
        require_idle_known: Callable[[Session, datetime], None],
    ) -> None:
        """`pending` None: no revocation can be pending.

        `require_idle_known` raises StoreUnavailable if the session that it gets may only look idle.
        To be called before a session is treated as ended, as `has_ended` does.
        """
        self._repository = repository
        self._pending = pending
        self.require_idle_known = require_idle_known

    def has_ended(self, session: Session, at: datetime) -> bool:
        """Return whether a session has ended. Raise StoreUnavailable if it may only look idle."""
        self.require_idle_known(session, at)
        return session.has_ended(at)

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        """Return the session, ended or not, or None."""
        record = await self._repository.get(session_id)
        return None if record is None else self._with_pending(record)

    async def find_by_any_digest(self, digest: Digest) -> SessionRecord | None:
        """Return the session to which `digest` leads or ever led, ended or not, or None."""
        record = await self._repository.find_by_any_digest(digest)
        return None if record is None else self._with_pending(record)

    async def list_where(
        self,
        condition: Condition,
        *,
        limit: int,
        after: Cursor | None = None,
        state: tuple[SessionState, datetime] | None = None,
    ) -> list[SessionRecord]:
        """Return a page of matching sessions, as the repository does.

        With a pending revocation a session is not listed as active, and listed as revoked once the
        revocation is persisted.
        """
        page: list[SessionRecord] = []
        while len(page) < limit:
            found = await self._repository.list_where(
                condition, limit=limit, after=after, state=state
            )
            records = map(self._with_pending, found)
            page += (
                r for r in records if state is None or get_state(r.session, state[1]) is state[0]
            )
            if len(found) < limit:
                break
            after = Cursor(found[-1].session.created_at, found[-1].session.id)
        return page[:limit]

    def _with_pending(self, record: SessionRecord) -> SessionRecord:
        return record if self._pending is None else self._pending.apply_to_record(record)
