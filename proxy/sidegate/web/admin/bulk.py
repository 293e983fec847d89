"""The routes of many sessions: all, those of a user, or those that match a condition."""

import json
from typing import Final

from aiohttp import web

from sidegate.core.clock import Clock
from sidegate.core.condition import Condition
from sidegate.core.protocols import Cursor
from sidegate.core.session import SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.session_type import SessionType
from sidegate.services.sessions import Sessions
from sidegate.web.admin.change_logging import log_change, request_actor
from sidegate.web.admin.route import Parameter
from sidegate.web.admin.sessions import path_user_id
from sidegate.web.schemas import fields, values
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.base import parse_payload
from sidegate.web.schemas.conditions import RevokeWherePayload
from sidegate.web.schemas.documents import (
    RevokedDocument,
    SessionDocument,
    SessionsDocument,
    WouldRevokeDocument,
    build_session_document,
)
from sidegate.web.schemas.pagination import CursorCodec
from sidegate.web.schemas.query_params import (
    QueryReader,
    choice_parser,
    parse_bool,
    parse_page_size,
)
from sidegate.web.schemas.sessions import RevokeUserPayload

_DEFAULT_PAGE_SIZE: Final = 50
PAGE_QUERY: Final = (
    Parameter("limit", fields.PageSize, "The page size.", default=_DEFAULT_PAGE_SIZE),
    Parameter("cursor", fields.PageCursor, "`next_cursor` of the previous page of this list."),
    Parameter("state", SessionState, "Sessions in this state.", default=SessionState.ACTIVE),
    Parameter("include_ended", bool, "`true`: sessions in any state. Not together with `state`."),
    Parameter("current", fields.SessionId, "Adds `is_current`, true for this session."),
)
LIST_QUERY: Final = (
    Parameter("type", SessionType, "Only sessions of this type."),
    Parameter("tenant", fields.Label, "Only sessions with this label."),
    Parameter("provider", fields.Label, "Only SSO sessions of this identity provider."),
    Parameter("provider_session_id", fields.NonEmptyText, "The provider's session id (`sid`)."),
    Parameter("provider_subject", fields.NonEmptyText, "The provider's id of the user (`sub`)."),
    *PAGE_QUERY,
)
# Seconds after which no further batch is started, well within the timeout of a request.
_REVOKE_TIME_LIMIT: Final = 8.0


class BulkRoutes:
    """Handles requests for many sessions."""

    def __init__(
        self,
        sessions: Sessions,
        cursors: CursorCodec,
        *,
        clock: Clock,
    ) -> None:
        self._sessions = sessions
        self._cursors = cursors
        self._clock = clock

    async def list_for_user(self, request: web.Request) -> web.Response:
        """List the sessions of a user, newest first."""
        user_id, query = path_user_id(request), QueryReader(request)
        return await self._respond_page(query, Condition(user_id))

    async def list_all(self, request: web.Request) -> web.Response:
        """List the sessions of all users, newest first.

        `provider_session_id` and `provider_subject` require `provider`.
        """
        query = QueryReader(request)
        condition = Condition(
            type=query.read("type", choice_parser(SessionType, *SessionType)),
            tenant=query.read("tenant", values.check_label),
            provider=query.read("provider", values.check_label),
            provider_session_id=query.read("provider_session_id", values.check_nonempty_text),
            provider_subject=query.read("provider_subject", values.check_nonempty_text),
        )
        if "provider" not in request.rel_url.query:
            for name in ("provider_session_id", "provider_subject"):
                if name in request.rel_url.query:
                    query.add_error(name, "requires provider")
        return await self._respond_page(query, condition)

    async def revoke_for_user(self, request: web.Request) -> web.Response:
        """Revoke sessions of a user: all, those of a type, or all but one."""
        user_id = path_user_id(request)
        document = await bodies.read_json_object(request, optional=True)
        payload = parse_payload(RevokeUserPayload, document)
        result = await self._revoke(
            request, payload.build_condition(user_id), reason=payload.reason
        )
        log_change(request, "user.revoke", user_id=user_id, revoked=result["revoked"])
        return web.json_response(result)

    async def revoke_where(self, request: web.Request) -> web.Response:
        """Revoke the sessions that match a condition, or count them (`dry_run`)."""
        payload = parse_payload(RevokeWherePayload, await bodies.read_json_object(request))
        condition = payload.condition.build_condition()
        if payload.dry_run:
            number = await self._sessions.count_where(condition)
            return web.json_response(WouldRevokeDocument(would_revoke=number))
        result = await self._revoke(request, condition, reason=payload.reason)
        log_change(request, "sessions.revoke", revoked=result["revoked"])
        return web.json_response(result)

    async def _revoke(
        self, request: web.Request, condition: Condition, *, reason: str
    ) -> RevokedDocument:
        """Revoke in batches until all are done, or the time limit is reached (`more`)."""
        revoked, deadline = 0, self._clock.monotonic() + _REVOKE_TIME_LIMIT
        batches = self._sessions.revoke_where(condition, by=request_actor(request), reason=reason)
        async for number in batches:
            revoked += number
            if self._clock.monotonic() >= deadline:
                return {"revoked": revoked, "more": True}
        return {"revoked": revoked, "more": False}

    async def _respond_page(self, query: QueryReader, condition: Condition) -> web.Response:
        limit = query.read("limit", parse_page_size) or _DEFAULT_PAGE_SIZE
        state = _read_state(query)
        current = query.read("current", values.parse_session_id)
        list_id = _list_id(condition, state)
        after = query.read(
            "cursor", lambda text: self._cursors.decode_session(text, list_id=list_id)
        )
        query.raise_errors()
        # One more than the page size, to learn whether there is a next page.
        records = await self._sessions.list_where(
            condition, limit=limit + 1, after=after, state=state
        )
        page, next_cursor = records[:limit], None
        if len(records) > limit:
            last = page[-1].session
            position = Cursor(last.created_at, last.id)
            next_cursor = self._cursors.encode_session(position, list_id=list_id)
        documents = [self._build_document(record, current) for record in page]
        return web.json_response(SessionsDocument(sessions=documents, next_cursor=next_cursor))

    def _build_document(self, record: SessionRecord, current: SessionId | None) -> SessionDocument:
        document = build_session_document(record, self._clock.now())
        if current is not None:
            document["is_current"] = record.session.id == current
        return document


def _read_state(query: QueryReader) -> SessionState | None:
    """Return the state to list, by default ACTIVE; None means any state."""
    state = query.read("state", choice_parser(SessionState, *SessionState))
    include_ended = query.read("include_ended", parse_bool)
    if state is not None and include_ended is not None:
        query.add_error("include_ended", "cannot be combined with state")
    if state is not None:
        return state
    return None if include_ended else SessionState.ACTIVE


def _list_id(condition: Condition, state: SessionState | None) -> str:
    filters = (
        condition.user_id,
        condition.provider,
        condition.provider_session_id,
        condition.provider_subject,
        state,
    )
    return json.dumps(filters)
