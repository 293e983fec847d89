"""Introspection (RFC 7662) and revocation (RFC 7009), for clients that speak OAuth."""

from typing import assert_never

from aiohttp import web

from sidegate.core.session import Session
from sidegate.core.verdict import Allow, Deny, Unavailable
from sidegate.services.sessions import Sessions
from sidegate.services.validator import Validator
from sidegate.web.admin.audit_lines import actor, log_change
from sidegate.web.admin.middleware import unavailable
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.base import read
from sidegate.web.schemas.documents import InactiveDocument, introspection_document
from sidegate.web.schemas.sessions import TokenPayload


class OAuth2Routes:
    """The two routes that take a token. It is read, and forgotten before they answer."""

    def __init__(self, sessions: Sessions, validator: Validator) -> None:
        self._sessions = sessions
        self._validator = validator

    async def introspect(self, request: web.Request) -> web.Response:
        """Say whether a token is valid now, and whose; of others nothing but that they are not."""
        match await self._validator.inspect(await _token(request)):
            case Allow(session):
                return web.json_response(introspection_document(session))
            case Deny():
                return web.json_response(InactiveDocument(active=False))
            case Unavailable(store):
                raise unavailable(store)
            case never:
                assert_never(never)

    async def revoke(self, request: web.Request) -> web.Response:
        """End the session a token leads to, or led to before a rotation; none is as good (200)."""
        match await self._validator.find(await _token(request)):
            case Session(id=session_id):
                await self._sessions.revoke(session_id, by=actor(request), reason="token_revoked")
                log_change(request, "token.revoke", session_id=session_id)
            case Deny():
                pass
            case Unavailable(store):
                raise unavailable(store)
            case never:
                assert_never(never)
        return web.Response()


async def _token(request: web.Request) -> str:
    return read(TokenPayload, await bodies.form(request)).token
