"""The routes of single sessions: begun, shown, seen, ended."""

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
from sidegate.web.admin.audit_lines import actor, log_change
from sidegate.web.admin.idempotency_key import idempotency_of
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas import values
from sidegate.web.schemas.base import read
from sidegate.web.schemas.documents import issued_document, session_document
from sidegate.web.schemas.problems import FieldError, Problem, invalid
from sidegate.web.schemas.sessions import NewSessionPayload, RevokePayload

_PERCENT_ENCODED: Final = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*", re.ASCII)
_VARIABLE: Final = 3  # the segment of every template here that varies: /v1/users/{user_id}/…


class SessionRoutes:
    """From requests to the verbs of `Sessions`, and back."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        lifetimes: Mapping[SessionType, Lifetimes],
        clock: Clock,
    ) -> None:
        self._sessions = sessions
        self._lifetimes = lifetimes
        self._clock = clock

    async def create(self, request: web.Request) -> web.Response:
        """Begin a session; its token is in this answer and nowhere else, ever.

        Only who sends the same request again, with its Idempotency-Key, gets that answer again.
        """
        document = await bodies.json_object(request)
        wanted = read(NewSessionPayload, document, self._lifetimes)
        key = idempotency_of(request, document)
        issued = await self._sessions.create(wanted.new_session(actor(request)), key=key)
        session_id = issued.record.session.id
        log_change(request, "session.create", session_id=session_id)
        return web.json_response(
            issued_document(issued, self._clock.now()),
            status=201,
            headers={hdrs.LOCATION: f"/v1/sessions/{session_id}"},
        )

    async def show(self, request: web.Request) -> web.Response:
        """Show a session, ended or not."""
        return self._answer(await self._sessions.get(session_id_of(request)))

    async def touch(self, request: web.Request) -> web.Response:
        """Note that an application saw the session, where the gate did not."""
        return self._answer(await self._sessions.touch(session_id_of(request)))

    async def revoke(self, request: web.Request) -> web.Response:
        """End a session; one that has ended stays as it is, and that is no error."""
        session_id = session_id_of(request)
        document = await bodies.json_object(request, optional=True)
        wanted = read(RevokePayload, document)
        record = await self._sessions.revoke(session_id, by=actor(request), reason=wanted.reason)
        if record is not None:
            log_change(request, "session.revoke", session_id=session_id)
        return self._answer(record)

    def _answer(self, record: SessionRecord | None) -> web.Response:
        if record is None:
            raise Problem(404, "not_found", "there is no such session")
        return web.json_response(session_document(record, self._clock.now()))


def session_id_of(request: web.Request) -> SessionId:
    """Return the session id in the path. Problem: it is none."""
    try:
        return values.session_id(_variable(request))
    except ValueError:
        raise Problem(404, "not_found", "there is no such session") from None


def user_id_of(request: web.Request) -> str:
    """Return the user id in the path. Problem: it cannot be one."""
    try:
        return values.user_id(_variable(request))
    except ValueError as error:
        raise invalid("invalid_path", [FieldError("user_id", str(error))]) from None


def _variable(request: web.Request) -> str:
    """Return the path's variable segment, decoded once. ValueError: it cannot be.

    Not from `match_info`: what is no escape or no UTF-8 would pass there as it is written, and one
    user id would have several spellings.
    """
    segment = request.rel_url.raw_path.split("/")[_VARIABLE]
    if not _PERCENT_ENCODED.fullmatch(segment):
        raise ValueError("broken percent-encoding")
    try:
        return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
