"""The routes of single sessions: create, show, touch, update, revoke."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from aiohttp import hdrs, web

from sidegate.core.clock import Clock
from sidegate.core.lifetimes import Lifetimes
from sidegate.core.session import SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.services.sessions import Sessions
from sidegate.web.admin.change_logging import log_change, request_actor
from sidegate.web.admin.idempotency_key import read_idempotency
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas import values
from sidegate.web.schemas.base import parse_payload
from sidegate.web.schemas.documents import build_issued_document, build_session_document
from sidegate.web.schemas.problems import FieldError, Problem, validation_problem
from sidegate.web.schemas.sessions import NewSessionPayload, RevokePayload, UpdatePayload

_PERCENT_ENCODED: Final = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*", re.ASCII)
_PARAMETER_SEGMENT: Final = 3  # of every path template with a parameter: /v1/users/{user_id}/…


class SessionRoutes:
    """Handles requests for single sessions."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        lifetimes: Mapping[SessionType, Lifetimes],
        cookie: str | None,
        clock: Clock,
    ) -> None:
        self._sessions = sessions
        self._cookie = cookie
        self._lifetimes = lifetimes
        self._clock = clock

    async def create(self, request: web.Request) -> web.Response:
        """Create a session. No other response contains its token.

        A retry with the same Idempotency-Key gets the same response.
        """
        document = await bodies.read_json_object(request)
        payload = parse_payload(NewSessionPayload, document, lifetimes=self._lifetimes)
        key = read_idempotency(request, document)
        issued = await self._sessions.create(
            payload.build_new_session(request_actor(request)), key=key
        )
        session_id = issued.record.session.id
        log_change(request, "session.create", session_id=session_id)
        return web.json_response(
            build_issued_document(issued, self._clock.now(), cookie=self._cookie),
            status=201,
            headers={hdrs.LOCATION: f"/v1/sessions/{session_id}"},
        )

    async def show(self, request: web.Request) -> web.Response:
        """Return a session, whether active or ended."""
        return self._respond(await self._sessions.get(path_session_id(request)))

    async def touch(self, request: web.Request) -> web.Response:
        """Record activity of a session that the gate did not see."""
        return self._respond(await self._sessions.touch(path_session_id(request)))

    async def update(self, request: web.Request) -> web.Response:
        """Replace the scopes or the metadata of a session. Its token stays valid."""
        session_id = path_session_id(request)
        payload = parse_payload(UpdatePayload, await bodies.read_json_object(request))
        record = await self._sessions.update(
            session_id,
            by=request_actor(request),
            scopes=payload.new_scopes(),
            metadata=payload.metadata,
        )
        if record is not None:
            log_change(request, "session.update", session_id=session_id)
        return self._respond(record)

    async def revoke(self, request: web.Request) -> web.Response:
        """Revoke a session. Idempotent: a session that has ended stays unchanged."""
        session_id = path_session_id(request)
        document = await bodies.read_json_object(request, optional=True)
        payload = parse_payload(RevokePayload, document)
        record = await self._sessions.revoke(
            session_id, by=request_actor(request), reason=payload.reason
        )
        if record is not None:
            log_change(request, "session.revoke", session_id=session_id)
        return self._respond(record)

    def _respond(self, record: SessionRecord | None) -> web.Response:
        if record is None:
            raise Problem(404, "not_found", detail="there is no such session")
        return web.json_response(build_session_document(record, self._clock.now()))


def path_session_id(request: web.Request) -> SessionId:
    """Return the session id in the path. Raise Problem (404) if it is not valid."""
    try:
        return values.parse_session_id(_path_parameter(request))
    except ValueError:
        raise Problem(404, "not_found", detail="there is no such session") from None


def path_user_id(request: web.Request) -> str:
    """Return the user id in the path. Raise Problem (400) if it is not valid."""
    try:
        return values.check_user_id(_path_parameter(request))
    except ValueError as error:
        raise validation_problem("invalid_path", [FieldError("user_id", str(error))]) from None


def _path_parameter(request: web.Request) -> str:
    """Return the path parameter, decoded once. Raise ValueError if it cannot be decoded.

    Not from `match_info`, which keeps invalid escapes and invalid UTF-8 undecoded: several texts
    would then name one user id.
    """
    segment = request.rel_url.raw_path.split("/")[_PARAMETER_SEGMENT]
    if not _PERCENT_ENCODED.fullmatch(segment):
        raise ValueError("invalid percent-encoding")
    try:
        return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
