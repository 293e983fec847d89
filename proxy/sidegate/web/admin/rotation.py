"""The routes that give a session another token: refresh, and migration to SSO."""

from aiohttp import web

from sidegate.core.clock import Clock
from sidegate.core.verdict import Deny
from sidegate.services.rotation import Rotation
from sidegate.services.sessions import Issued
from sidegate.web.admin.audit_lines import actor, log_change
from sidegate.web.admin.sessions import session_id_of
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.base import read
from sidegate.web.schemas.documents import issued_document
from sidegate.web.schemas.problems import Problem
from sidegate.web.schemas.sessions import MigratePayload, RefreshPayload


class RotationRoutes:
    """From requests to the verbs of `Rotation`, and back."""

    def __init__(self, rotation: Rotation, *, clock: Clock) -> None:
        self._rotation = rotation
        self._clock = clock

    async def refresh(self, request: web.Request) -> web.Response:
        """Rotate a session by its token; whoever races gets the same successor."""
        document = await bodies.json_object(request)
        wanted = read(RefreshPayload, document)
        refreshed = await self._rotation.refresh(
            wanted.token, by=actor(request), extend_by=wanted.extend_by()
        )
        match refreshed:
            case Deny(reason):
                log_change(request, "session.refresh_refused", reason=reason.value)
                raise Problem(400, "invalid_token", f"the token cannot be refreshed: {reason}")
            case issued:
                log_change(request, "session.refresh", session_id=issued.record.session.id)
                return self._answer(issued)

    async def migrate(self, request: web.Request) -> web.Response:
        """Make a session an SSO session; its old token ends at once."""
        session_id = session_id_of(request)
        document = await bodies.json_object(request)
        wanted = read(MigratePayload, document)
        issued = await self._rotation.migrate(
            session_id,
            by=actor(request),
            provider=wanted.provider,
            provider_session_id=wanted.provider_session_id,
            provider_subject=wanted.provider_subject,
            attributes=wanted.attributes,
        )
        if issued is None:
            raise Problem(404, "not_found", "there is no such session")
        log_change(request, "session.migrate", session_id=session_id, provider=wanted.provider)
        return self._answer(issued)

    def _answer(self, issued: Issued) -> web.Response:
        return web.json_response(issued_document(issued, self._clock.now()))
