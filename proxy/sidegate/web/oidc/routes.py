"""The door of back-channel logout: no API key opens it, the signature of a logout token does."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import hdrs, web

from sidegate.core.actor import Actor
from sidegate.core.errors import BadLogoutToken, ReplayedLogout
from sidegate.services.backchannel_logout import BackchannelLogout
from sidegate.web.admin.audit_lines import log_change
from sidegate.web.admin.middleware import REQUEST_ID
from sidegate.web.oidc.keys import KeysUnavailable
from sidegate.web.oidc.token import LogoutTokens
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.problems import Problem

Counted = Callable[[str, str], None]
"""Takes a provider's name, and how its request ended: one of the words below."""

ENDED: Final = "ended"
NOBODY: Final = "nobody"
INVALID: Final = "invalid"
REPLAYED: Final = "replayed"
UNASKED: Final = "unasked"
UNAVAILABLE: Final = "unavailable"

_log: Final = logging.getLogger("sidegate.logout")


class LogoutRoutes:
    """From a provider's request to the verb of `Logouts`, and back in the words of the standard."""

    def __init__(
        self, providers: Mapping[str, LogoutTokens], logouts: BackchannelLogout, *, counted: Counted
    ) -> None:
        """`providers`, by name, each with what reads its tokens."""
        self._providers = providers
        self._logouts = logouts
        self._counted = counted

    async def receive(self, request: web.Request) -> web.Response:
        """End the sessions a provider says are over. 200: none of them lives; 400: it was not the
        provider, or not for now; 503: some may live, send it again."""
        name = request.match_info["provider"]
        tokens = self._providers.get(name)
        if tokens is None:
            raise Problem(404, "not_found", "there is no such provider")
        outcome = UNAVAILABLE  # unless something better happens, and also if nobody waits for it
        try:
            ended = await self._obey(request, name, tokens)
            outcome = ENDED if ended else NOBODY
        except BadLogoutToken as bad:
            outcome = REPLAYED if isinstance(bad, ReplayedLogout) else INVALID
            return _refusal(request, name, bad)
        except Problem:
            outcome = INVALID
            raise
        except KeysUnavailable as unavailable:
            outcome = UNASKED if unavailable.unasked else UNAVAILABLE
            raise _come_again(unavailable) from None
        finally:
            self._counted(name, outcome)
        return web.Response()

    async def _obey(self, request: web.Request, name: str, tokens: LogoutTokens) -> int:
        by = Actor(f"provider:{name}", request.remote or None)
        logout = await tokens.read(await _logout_token(request))
        ended = await self._logouts.process(logout, by=by)
        log_change(request, "provider.logout", by=by, revoked=ended)
        return ended


async def _logout_token(request: web.Request) -> str:
    """Return the form's `logout_token`; fields that are not known are let go, as 2.5 wants."""
    try:
        text = (await bodies.form(request)).get("logout_token")
    except Problem as problem:
        if problem.status != 400:
            raise
        raise BadLogoutToken(problem.detail or problem.code) from None
    if not text:
        raise BadLogoutToken("the form has no logout_token")
    return text


def _refusal(request: web.Request, provider: str, bad: BadLogoutToken) -> web.Response:
    """Answer as Back-Channel Logout 2.8 says."""
    about = {"provider": provider, "why": str(bad), "request_id": request[REQUEST_ID]}
    _log.info("logout refused", extra=about)
    described = {"error": "invalid_request", "error_description": str(bad)}
    return web.json_response(described, status=400)


def _come_again(unavailable: KeysUnavailable) -> Problem:
    return Problem(
        503,
        "keys_unavailable",
        "it is not known whether the provider has such a key; nothing was ended",
        headers={hdrs.RETRY_AFTER: str(math.ceil(unavailable.retry_after))},
    )
