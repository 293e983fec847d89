"""The routes under /v1: sessions are created, shown, listed and revoked."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from aiohttp import hdrs, web

from proxy.core.clock import Clock
from proxy.core.lifetimes import Lifetimes
from proxy.core.protocols import Cursor
from proxy.core.session import SessionId, SessionRecord
from proxy.core.session_type import SessionType
from proxy.service.sessions import Sessions
from proxy.web import bodies, payloads
from proxy.web.admin_log import actor, log_change
from proxy.web.cursors import Cursors
from proxy.web.idempotency_key import idempotency_of
from proxy.web.problems import Mistake, Problem, invalid

_PAGE: Final = 50
_LONGEST_PAGE: Final = 200
_LIMIT: Final = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
_PERCENT_ENCODED: Final = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*", re.ASCII)
_VARIABLE: Final = 3  # the segment of every template here that varies: /v1/users/{user_id}/…


class SessionRoutes:
    """From requests to the verbs of `Sessions`, and back."""

    def __init__(
        self,
        sessions: Sessions,
        cursors: Cursors,
        *,
        lifetimes: Mapping[SessionType, Lifetimes],
        clock: Clock,
    ) -> None:
        self._sessions = sessions
        self._cursors = cursors
        self._lifetimes = lifetimes
        self._clock = clock

    async def create(self, request: web.Request) -> web.Response:
        """Begin a session; its token is in this answer and nowhere else, ever.

        Only who sends the same request again, with its Idempotency-Key, gets that answer again.
        """
        document = await bodies.json_object(request)
        wanted = payloads.read(payloads.NewSessionPayload, document, self._lifetimes)
        key = idempotency_of(request, document)
        issued = await self._sessions.create(wanted.new_session(), key=key)
        session_id = issued.record.session.id
        log_change(request, "session.create", session_id=session_id)
        return web.json_response(
            {"token": issued.token.text, "session": self._shown(issued.record)},
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
        wanted = payloads.read(payloads.RevokePayload, document)
        record = await self._sessions.revoke(session_id, by=actor(request), reason=wanted.reason)
        if record is not None:
            log_change(request, "session.revoke", session_id=session_id)
        return self._answer(record)

    async def list_for_user(self, request: web.Request) -> web.Response:
        """List a user's sessions, newest first, a page at a time."""
        user_id = _user_id(request)
        limit, include_ended, after = self._page(request, user_id)
        # One more than asked for: it says whether there is a next page.
        records = await self._sessions.list_for_user(
            user_id, limit=limit + 1, after=after, include_ended=include_ended
        )
        shown = records[:limit]
        next_cursor = None
        if len(records) > limit:
            last = shown[-1].session
            place = Cursor(last.created_at, last.id)
            next_cursor = self._cursors.write(place, of=_list_name(user_id, include_ended))
        return web.json_response(
            {"sessions": [self._shown(record) for record in shown], "next_cursor": next_cursor}
        )

    async def revoke_for_user(self, request: web.Request) -> web.Response:
        """End a user's sessions: all, those of a type, or all but one."""
        user_id = _user_id(request)
        document = await bodies.json_object(request, optional=True)
        wanted = payloads.read(payloads.RevokeUserPayload, document)
        revoked = await self._sessions.revoke_where(
            wanted.condition(user_id), by=actor(request), reason=wanted.reason
        )
        log_change(request, "user.revoke", user_id=user_id, revoked=revoked)
        return web.json_response({"revoked": revoked})

    def _answer(self, record: SessionRecord | None) -> web.Response:
        if record is None:
            raise Problem(404, "not_found", "there is no such session")
        return web.json_response(self._shown(record))

    def _shown(self, record: SessionRecord) -> dict[str, Any]:
        return payloads.session_document(record, self._clock.now())

    def _page(self, request: web.Request, user_id: str) -> tuple[int, bool, Cursor | None]:
        query, mistakes, after = request.rel_url.query, [], None
        limit = query.get("limit", str(_PAGE))
        if not _LIMIT.fullmatch(limit) or int(limit) > _LONGEST_PAGE:
            mistakes.append(Mistake("limit", f"a number from 1 to {_LONGEST_PAGE}"))
        include_ended = query.get("include_ended", "false")
        if include_ended not in ("true", "false"):
            mistakes.append(Mistake("include_ended", "true or false"))
        elif "cursor" in query:
            of = _list_name(user_id, include_ended == "true")
            after = self._cursors.read(query["cursor"], of=of)
            if after is None:
                mistakes.append(Mistake("cursor", "not a cursor of this list"))
        if mistakes:
            raise invalid("invalid_query", mistakes)
        return int(limit), include_ended == "true", after


def _list_name(user_id: str, include_ended: bool) -> str:
    return json.dumps([user_id, include_ended])


def session_id_of(request: web.Request) -> SessionId:
    """Return the session id in the path. Problem: it is none."""
    try:
        return payloads.session_id(_variable(request))
    except ValueError:
        raise Problem(404, "not_found", "there is no such session") from None


def _user_id(request: web.Request) -> str:
    try:
        return payloads.user_id(_variable(request))
    except ValueError as error:
        raise invalid("invalid_path", [Mistake("user_id", str(error))]) from None


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
