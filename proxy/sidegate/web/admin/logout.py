"""Where identity providers say that somebody has logged out; who listens to them is loaded only
where one is configured.
"""

from typing import Final

from aiohttp import web

from sidegate.web.admin.route import Handler
from sidegate.web.schemas.problems import Problem

LOGOUT: Final = "/oidc/backchannel-logout/{provider}"


class BackchannelLogoutRoute:
    """Hands a provider's request to whoever listens."""

    def __init__(self, listener: Handler | None) -> None:
        self._listener = listener

    async def receive(self, request: web.Request) -> web.StreamResponse:
        """End the sessions an identity provider says are over.

        OpenID Connect Back-Channel Logout 1.0. No API key opens this, the logout token's signature
        does. On 503 some of the sessions may live: send it again.
        """
        if self._listener is None:
            raise Problem(404, "not_found", "there is no such provider")
        return await self._listener(request)
