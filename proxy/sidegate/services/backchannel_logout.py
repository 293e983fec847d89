"""OIDC back-channel logout: revoke the sessions of a logout token, once per token."""

from typing import Final

from sidegate.core.actor import Actor
from sidegate.core.clock import Clock
from sidegate.core.errors import ReplayedLogout
from sidegate.core.logout import Logout
from sidegate.core.protocols import LogoutTokenStore
from sidegate.services.sessions import Sessions

_REASON: Final = "logout"


class BackchannelLogout:
    """Processes logout tokens that have been validated."""

    def __init__(self, tokens: LogoutTokenStore, sessions: Sessions, *, clock: Clock) -> None:
        self._tokens = tokens
        self._sessions = sessions
        self._clock = clock

    async def process(self, logout: Logout, *, by: Actor) -> int:
        """Revoke every active session that matches, and return how many.

        Raise ReplayedLogout if its token was processed before, on any instance. Raise
        StoreUnavailable if some sessions may still be active; the same token may be sent again. A
        token is recorded only after all its sessions have ended, so that the provider's retry of a
        failed request is not refused as a replay.
        """
        if await self._tokens.is_processed(logout.id):
            raise ReplayedLogout
        ended = 0
        for condition in logout.conditions():
            async for number in self._sessions.revoke_where(condition, by=by, reason=_REASON):
                ended += number
        at = self._clock.now()
        if not await self._tokens.mark_processed(logout.id, until=logout.until, at=at):
            raise ReplayedLogout  # a concurrent duplicate: one of the two requests succeeds
        return ended
