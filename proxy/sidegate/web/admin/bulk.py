"""The routes of many sessions: a user's, a provider's, or all that match a condition."""

import json
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web

from sidegate.core.clock import Clock
from sidegate.core.condition import Condition
from sidegate.core.protocols import Cursor
from sidegate.core.session import SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.services.sessions import Sessions
from sidegate.web.admin.audit_lines import actor, log_change
from sidegate.web.admin.route import Parameter
from sidegate.web.admin.sessions import user_id_of
from sidegate.web.schemas import fields, values
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.base import read
from sidegate.web.schemas.conditions import RevokeWherePayload
from sidegate.web.schemas.documents import (
    RevokedDocument,
    SessionDocument,
    SessionsDocument,
    WouldRevokeDocument,
    session_document,
)
from sidegate.web.schemas.pagination import Cursors
from sidegate.web.schemas.query_params import Query, flag, one_of, page
from sidegate.web.schemas.sessions import RevokeUserPayload

_PAGE: Final = 50
PAGE_QUERY: Final = (
    Parameter("limit", fields.PageLength, "How many at most.", default=_PAGE),
    Parameter("cursor", fields.PageCursor, "`next_cursor` of the page before, of the same list."),
    Parameter("state", SessionState, "Only those in this state.", default=SessionState.ACTIVE),
    Parameter("include_ended", bool, "`true`: in whatever state. Give this or `state`, not both."),
    Parameter("current", fields.SessionId, "Adds to each session whether it is this one."),
)
PROVIDER_QUERY: Final = (
    Parameter("provider", fields.Label, "The identity provider.", required=True),
    Parameter("provider_session_id", fields.SomeText, "The provider's session, or …"),
    Parameter("provider_subject", fields.SomeText, "… the user as the provider calls them."),
    *PAGE_QUERY,
)
# Seconds after which a revocation of many answers that there are more, well within what a request
# may take.
_PATIENCE: Final = 8.0


class ManySessionsRoutes:
    """From requests to the verbs of `Sessions` that take a condition, and back."""

    def __init__(
        self,
        sessions: Sessions,
        cursors: Cursors,
        *,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._cursors = cursors
        self._clock = clock
        self._monotonic = monotonic

    async def list_for_user(self, request: web.Request) -> web.Response:
        """List a user's sessions, newest first, a page at a time."""
        user_id, query = user_id_of(request), Query(request)
        return await self._page(query, Condition(user_id))

    async def list_for_provider(self, request: web.Request) -> web.Response:
        """List the sessions that began with one of a provider's, or that belong to its subject."""
        query = Query(request)
        condition = Condition(
            provider=query.read("provider", values.label),
            provider_session_id=query.read("provider_session_id", values.some_text),
            provider_subject=query.read("provider_subject", values.some_text),
        )
        if condition.provider is None:
            query.mistaken("provider", "is required")
        if condition.provider_session_id is None and condition.provider_subject is None:
            query.mistaken("provider_session_id", "is required, or provider_subject")
        return await self._page(query, condition)

    async def revoke_for_user(self, request: web.Request) -> web.Response:
        """End a user's sessions: all, those of a type, or all but one."""
        user_id = user_id_of(request)
        document = await bodies.json_object(request, optional=True)
        wanted = read(RevokeUserPayload, document)
        answer = await self._revoked(request, wanted.condition(user_id), wanted.reason)
        log_change(request, "user.revoke", user_id=user_id, revoked=answer["revoked"])
        return web.json_response(answer)

    async def revoke_where(self, request: web.Request) -> web.Response:
        """End every session that matches a condition, or say how many that would be."""
        wanted = read(RevokeWherePayload, await bodies.json_object(request))
        condition = wanted.condition.condition()
        if wanted.dry_run:
            number = await self._sessions.count_where(condition)
            return web.json_response(WouldRevokeDocument(would_revoke=number))
        answer = await self._revoked(request, condition, wanted.reason)
        log_change(request, "sessions.revoke", revoked=answer["revoked"])
        return web.json_response(answer)

    async def _revoked(
        self, request: web.Request, condition: Condition, reason: str
    ) -> RevokedDocument:
        """Revoke batch by batch while there is time; `more` asks the caller to call again."""
        revoked, until = 0, self._monotonic() + _PATIENCE
        ended = self._sessions.revoke_where(condition, by=actor(request), reason=reason)
        async for number in ended:
            revoked += number
            if self._monotonic() >= until:
                return {"revoked": revoked, "more": True}
        return {"revoked": revoked, "more": False}

    async def _page(self, query: Query, condition: Condition) -> web.Response:
        limit = query.read("limit", page) or _PAGE
        state = _state(query)
        current = query.read("current", values.session_id)
        of = _list_name(condition, state)
        after = query.read("cursor", lambda text: self._cursors.session(text, of=of))
        query.must_be_right()
        # One more than asked for: it says whether there is a next page.
        records = await self._sessions.list_where(
            condition, limit=limit + 1, after=after, state=state
        )
        shown, next_cursor = records[:limit], None
        if len(records) > limit:
            last = shown[-1].session
            next_cursor = self._cursors.at_session(Cursor(last.created_at, last.id), of=of)
        documents = [self._document(record, current) for record in shown]
        return web.json_response(SessionsDocument(sessions=documents, next_cursor=next_cursor))

    def _document(self, record: SessionRecord, current: SessionId | None) -> SessionDocument:
        document = session_document(record, self._clock.now())
        if current is not None:
            document["is_current"] = record.session.id == current
        return document


def _state(query: Query) -> SessionState | None:
    """Return the state to list; None: any. Without a word about it, only what is active."""
    state = query.read("state", one_of(SessionState, *SessionState))
    include_ended = query.read("include_ended", flag)
    if state is not None and include_ended is not None:
        query.mistaken("include_ended", "give this or state, not both")
    if state is not None:
        return state
    return None if include_ended else SessionState.ACTIVE


def _list_name(condition: Condition, state: SessionState | None) -> str:
    named = (
        condition.user_id,
        condition.provider,
        condition.provider_session_id,
        condition.provider_subject,
        state,
    )
    return json.dumps(named)
