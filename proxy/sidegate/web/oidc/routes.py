"""The request handler of back-channel logout, authenticated by the logout token's signature."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import hdrs, web

from sidegate.core.actor import Actor
from sidegate.core.errors import BadLogoutToken, ReplayedLogout
from sidegate.services.backchannel_logout import BackchannelLogout
from sidegate.web.admin.change_logging import log_change, read_source
from sidegate.web.admin.middleware import REQUEST_ID
from sidegate.web.oidc.keys import KeysUnavailable
from sidegate.web.oidc.token import LogoutTokenReader
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.problems import Problem

OnOutcome = Callable[[str, str], None]
"""Called with the provider's name and the outcome of a request: one of the constants below."""

ENDED: Final = "ended"
NO_SESSION: Final = "no_session"
INVALID: Final = "invalid"
REPLAYED: Final = "replayed"
RATE_LIMITED: Final = "rate_limited"
UNAVAILABLE: Final = "unavailable"

_log: Final = logging.getLogger("sidegate.logout")


class LogoutRoutes:
    """Handles back-channel logout requests of identity providers."""

    def __init__(
        self,
        readers: Mapping[str, LogoutTokenReader],
        backchannel_logout: BackchannelLogout,
        *,
        on_outcome: OnOutcome,
    ) -> None:
        """`readers` are keyed by the provider's name."""
        self._readers = readers
        self._backchannel_logout = backchannel_logout
        self._on_outcome = on_outcome

    async def receive(self, request: web.Request) -> web.Response:
        """Revoke the sessions that the request's logout token names.

        200: none of them is active; 400: the token is not valid; 503: some may still be active.
        """
        name = request.match_info["provider"]
        reader = self._readers.get(name)
        if reader is None:
            raise Problem(404, "not_found", detail="there is no such provider")
        outcome = UNAVAILABLE  # also of a cancelled request
        try:
            ended = await self._process(request, name, reader=reader)
            outcome = ENDED if ended else NO_SESSION
        except BadLogoutToken as error:
            outcome = REPLAYED if isinstance(error, ReplayedLogout) else INVALID
            return _refuse(request, name, error=error)
        except Problem:
            outcome = INVALID
            raise
        except KeysUnavailable as error:
            outcome = RATE_LIMITED if error.rate_limited else UNAVAILABLE
            raise _keys_unavailable(error) from None
        finally:
            self._on_outcome(name, outcome)
        return web.Response()

    async def _process(self, request: web.Request, name: str, *, reader: LogoutTokenReader) -> int:
        actor = Actor(f"provider:{name}", read_source(request))
        logout = await reader.read(await _read_logout_token(request))
        ended = await self._backchannel_logout.process(logout, by=actor)
        log_change(request, "provider.logout", actor=actor, revoked=ended)
        return ended


async def _read_logout_token(request: web.Request) -> str:
    """Return the form's `logout_token`. Other fields are ignored (Back-Channel Logout, 2.5)."""
    try:
        text = (await bodies.read_form(request)).get("logout_token")
    except Problem as problem:
        if problem.status != 400:
            raise
        raise BadLogoutToken(problem.detail or problem.code) from None
    if not text:
        raise BadLogoutToken("the form has no logout_token")
    return text


def _refuse(request: web.Request, provider: str, *, error: BadLogoutToken) -> web.Response:
    """Return the error response of Back-Channel Logout, section 2.8, and log it."""
    _log.info(
        "logout refused",
        extra={"provider": provider, "reason": str(error), "request_id": request[REQUEST_ID]},
    )
    document = {"error": "invalid_request", "error_description": str(error)}
    return web.json_response(document, status=400)


def _keys_unavailable(error: KeysUnavailable) -> Problem:
    return Problem(
        503,
        "keys_unavailable",
        detail="the provider's keys could not be fetched; no session was revoked",
        headers={hdrs.RETRY_AFTER: str(math.ceil(error.retry_after))},
    )
