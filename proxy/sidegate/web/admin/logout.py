"""The route of back-channel logout.

Its handler (web/oidc) is passed in, since it is imported only if a provider is configured.
"""

from typing import Final

from aiohttp import web

from sidegate.web.admin.route import Handler
from sidegate.web.schemas.problems import Problem

LOGOUT_PATH: Final = "/oidc/backchannel-logout/{provider}"


class BackchannelLogoutRoutes:
    """Passes requests of identity providers to `handler`; without one, responds with 404."""

    def __init__(self, handler: Handler | None) -> None:
        self._handler = handler

    async def receive(self, request: web.Request) -> web.StreamResponse:
        """Revoke the sessions that a logout token names.

        OpenID Connect Back-Channel Logout 1.0. Authenticated by the signature of the logout token,
        not by an API key. After a 503 some sessions may still be active: send the token again.
        """
        if self._handler is None:
            raise Problem(404, "not_found", detail="there is no such provider")
        return await self._handler(request)
