"""End the sessions of which a provider says that they are over, once for each logout token."""

from typing import Final

from sidegate.core.actor import Actor
from sidegate.core.clock import Clock
from sidegate.core.errors import ReplayedLogout
from sidegate.core.logout import Logout
from sidegate.core.protocols import LogoutTokenStore
from sidegate.services.sessions import Sessions

_REASON: Final = "logout"


class BackchannelLogout:
    """Obeys logout tokens that have been read and found right."""

    def __init__(self, memory: LogoutTokenStore, sessions: Sessions, *, clock: Clock) -> None:
        self._memory = memory
        self._sessions = sessions
        self._clock = clock

    async def process(self, logout: Logout, *, by: Actor) -> int:
        """End every living session that is meant, and return how many.

        ReplayedLogout: its token was obeyed before, on whichever instance. StoreUnavailable: some
        may live on, and the same token may be sent again, for it is remembered only when all have
        ended: a provider that is told to come back must not be turned away then.
        """
        if await self._memory.was_processed(logout.id):
            raise ReplayedLogout
        ended = 0
        for condition in logout.conditions():
            async for number in self._sessions.revoke_where(condition, by=by, reason=_REASON):
                ended += number
        at = self._clock.now()
        if not await self._memory.remember(logout.id, until=logout.until, at=at):
            raise ReplayedLogout  # sent twice at once: both have ended the same, one is told so
        return ended
