"""The route of the audit trail."""

import json
from dataclasses import astuple
from datetime import datetime
from typing import Final

from aiohttp import web

from sidegate.core.audit import Action, AuditFilter
from sidegate.services.audit_seal import AuditSealer
from sidegate.web.admin.route import Parameter
from sidegate.web.schemas import fields, values
from sidegate.web.schemas.documents import EventsDocument, build_event_document
from sidegate.web.schemas.pagination import CursorCodec
from sidegate.web.schemas.query_params import QueryReader, choice_parser, parse_page_size

_DEFAULT_PAGE_SIZE: Final = 50
AUDIT_QUERY: Final = (
    Parameter("limit", fields.PageSize, "The page size.", default=_DEFAULT_PAGE_SIZE),
    Parameter("cursor", fields.PageCursor, "`next_cursor` of the previous page of this list."),
    Parameter("session_id", fields.SessionId, "Events of this session."),
    Parameter("user_id", fields.UserId, "Events of this user's sessions."),
    Parameter("action", Action, "Events with this action."),
    Parameter("by", fields.Label, "Events by this actor, as in `key:` and an API key's name."),
    Parameter("since", fields.Timestamp, "Events at or after this time."),
    Parameter("until", fields.Timestamp, "Events before this time."),
)


class AuditRoutes:
    """Handles requests for audit events."""

    def __init__(self, audit: AuditSealer, cursors: CursorCodec) -> None:
        self._audit = audit
        self._cursors = cursors

    async def list_events(self, request: web.Request) -> web.Response:
        """List audit events, newest first."""
        query = QueryReader(request)
        filter_ = AuditFilter(
            session_id=query.read("session_id", values.parse_session_id),
            user_id=query.read("user_id", values.check_user_id),
            action=query.read("action", choice_parser(Action, *Action)),
            actor=query.read("by", values.check_label),
            since=query.read("since", values.parse_timestamp),
            until=query.read("until", values.parse_timestamp),
        )
        list_id = json.dumps(astuple(filter_), default=datetime.isoformat)
        limit = query.read("limit", parse_page_size) or _DEFAULT_PAGE_SIZE
        before = query.read(
            "cursor", lambda text: self._cursors.decode_event(text, list_id=list_id)
        )
        query.raise_errors()
        events = await self._audit.list_events(filter_, limit=limit + 1, before=before)
        page, next_cursor = events[:limit], None
        if len(events) > limit:
            next_cursor = self._cursors.encode_event(page[-1].number, list_id=list_id)
        documents = [build_event_document(event) for event in page]
        return web.json_response(EventsDocument(events=documents, next_cursor=next_cursor))
