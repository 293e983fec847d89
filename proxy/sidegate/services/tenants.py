"""The tenants of sessions, for the access rules that need one: read once, from the database.

A session keeps its tenant from its creation to its end, so a tenant that is known stays right.
"""

from collections.abc import Awaitable, Callable

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.timeouts import with_timeout
from sidegate.core.verdict import Unavailable


class Tenants:
    """Remembers the tenants of the sessions that were asked for last."""

    def __init__(
        self,
        get: Callable[[SessionId], Awaitable[SessionRecord | None]],
        *,
        timeout: float,
        max_sessions: int = 100_000,
    ) -> None:
        """`timeout`: the seconds that a whole check may take."""
        self._get = get
        self._timeout = timeout
        self._max_sessions = max_sessions
        self._known: dict[SessionId, str | None] = {}

    def knows(self, session: Session) -> bool:
        """Return whether `get_known` has the tenant of a session."""
        return session.id in self._known

    def get_known(self, session: Session) -> str | None:
        """Return the tenant, or None: the session has none, or it is not known."""
        return self._known.get(session.id)

    async def load(self, session: Session, *, spent: float) -> Unavailable | None:
        """Make the tenant of a session known; Unavailable if the database does not tell it.

        `spent`: the seconds that the check has taken already. A session that the database does not
        have stays unknown.
        """
        if session.id in self._known:
            return None
        try:
            remaining = max(0.0, self._timeout - spent)
            record = await with_timeout(self._get(session.id), remaining, store="deadline")
        except StoreUnavailable as outage:
            return Unavailable(outage.store)
        except UnreadableRecord:
            return Unavailable("unreadable")
        if record is not None:
            if len(self._known) >= self._max_sessions:
                del self._known[next(iter(self._known))]
            self._known[session.id] = record.details.tenant
        return None
