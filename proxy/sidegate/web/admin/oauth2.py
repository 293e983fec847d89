"""The routes for OAuth clients: token introspection (RFC 7662) and revocation (RFC 7009)."""

from typing import assert_never

from aiohttp import web

from sidegate.core.session import Session
from sidegate.core.verdict import Allow, Deny, Unavailable
from sidegate.services.sessions import Sessions
from sidegate.services.validator import Validator
from sidegate.web.admin.change_logging import log_change, request_actor
from sidegate.web.admin.middleware import store_unavailable
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.base import parse_payload
from sidegate.web.schemas.documents import InactiveDocument, build_introspection_document
from sidegate.web.schemas.sessions import TokenPayload


class OAuth2Routes:
    """Handles OAuth requests. The token is neither logged nor stored."""

    def __init__(self, sessions: Sessions, validator: Validator) -> None:
        self._sessions = sessions
        self._validator = validator

    async def introspect(self, request: web.Request) -> web.Response:
        """Introspect a token. Of an invalid one, nothing but its invalidity is disclosed."""
        match await self._validator.validate(await _read_token(request)):
            case Allow(session):
                return web.json_response(build_introspection_document(session))
            case Deny():
                return web.json_response(InactiveDocument(active=False))
            case Unavailable(store):
                raise store_unavailable(store)
            case never:
                assert_never(never)

    async def revoke(self, request: web.Request) -> web.Response:
        """Revoke the session of a token. An unknown token is not an error.

        A token that was rotated out revokes its session too.
        """
        match await self._validator.find(await _read_token(request)):
            case Session(id=session_id):
                await self._sessions.revoke(
                    session_id, by=request_actor(request), reason="token_revoked"
                )
                log_change(request, "token.revoke", session_id=session_id)
            case Deny():
                pass
            case Unavailable(store):
                raise store_unavailable(store)
            case never:
                assert_never(never)
        return web.Response()


async def _read_token(request: web.Request) -> str:
    return parse_payload(TokenPayload, await bodies.read_form(request)).token
