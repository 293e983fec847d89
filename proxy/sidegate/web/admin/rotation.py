"""The routes that issue another token: refresh, another authentication, migration to SSO."""

from aiohttp import web

from sidegate.core.actor import Actor
from sidegate.core.clock import Clock
from sidegate.core.errors import IdentityTooLarge, MetadataTooLarge
from sidegate.core.session import SessionId
from sidegate.core.verdict import Deny
from sidegate.services.rotation import Rotation
from sidegate.services.sessions import Issued
from sidegate.web.admin.change_logging import log_change, request_actor
from sidegate.web.admin.sessions import path_session_id
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.base import parse_payload
from sidegate.web.schemas.documents import build_issued_document
from sidegate.web.schemas.problems import FieldError, Problem, validation_problem
from sidegate.web.schemas.sessions import MigratePayload, ReauthenticatedPayload, RefreshPayload


class RotationRoutes:
    """Handles requests that rotate tokens."""

    def __init__(self, rotation: Rotation, *, cookie: str | None, clock: Clock) -> None:
        self._rotation = rotation
        self._cookie = cookie
        self._clock = clock

    async def refresh(self, request: web.Request) -> web.Response:
        """Refresh a session by its token. Concurrent requests get the same new token."""
        document = await bodies.read_json_object(request)
        payload = parse_payload(RefreshPayload, document)
        try:
            refreshed = await self._rotation.refresh(
                payload.token, by=request_actor(request), extend_by=payload.extension()
            )
        except IdentityTooLarge:
            log_change(request, "session.refresh_refused", reason="identity_too_large")
            raise
        match refreshed:
            case Deny(reason):
                log_change(request, "session.refresh_refused", reason=reason.value)
                raise Problem(
                    400, "invalid_token", detail=f"the token cannot be refreshed: {reason}"
                )
            case issued:
                log_change(request, "session.refresh", session_id=issued.record.session.id)
                return self._respond(issued)

    async def reauthenticate(self, request: web.Request) -> web.Response:
        """Record that the user has authenticated again. The old token becomes invalid at once."""
        session_id = path_session_id(request)
        document = await bodies.read_json_object(request, optional=True)
        payload = parse_payload(ReauthenticatedPayload, document)
        issued = await self._rotation.reauthenticate(
            session_id, by=request_actor(request), scopes=payload.new_scopes()
        )
        if issued is None:
            raise Problem(404, "not_found", detail="there is no such session")
        log_change(request, "session.reauthenticate", session_id=session_id)
        return self._respond(issued)

    async def migrate(self, request: web.Request) -> web.Response:
        """Turn a session into an SSO session. Its old token becomes invalid at once."""
        session_id = path_session_id(request)
        document = await bodies.read_json_object(request)
        payload = parse_payload(MigratePayload, document)
        issued = await self._migrate(session_id, payload, by=request_actor(request))
        if issued is None:
            raise Problem(404, "not_found", detail="there is no such session")
        log_change(request, "session.migrate", session_id=session_id, provider=payload.provider)
        return self._respond(issued)

    async def _migrate(
        self, session_id: SessionId, payload: MigratePayload, *, by: Actor
    ) -> Issued | None:
        try:
            return await self._rotation.migrate(
                session_id,
                by=by,
                provider=payload.provider,
                provider_session_id=payload.provider_session_id,
                provider_subject=payload.provider_subject,
                attributes=payload.attributes,
            )
        except MetadataTooLarge as error:
            message = f"the session's metadata would be too large: {error}"
            errors = [FieldError("attributes", message)]
            raise validation_problem("invalid_request", errors) from None

    def _respond(self, issued: Issued) -> web.Response:
        return web.json_response(
            build_issued_document(issued, self._clock.now(), cookie=self._cookie)
        )
