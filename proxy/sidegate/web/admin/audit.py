"""The audit trail, a page at a time."""

import json
from dataclasses import astuple
from datetime import datetime
from typing import Final

from aiohttp import web

from sidegate.core.audit import Action, AuditFilter
from sidegate.services.audit_seal import AuditSealer
from sidegate.web.admin.route import Parameter
from sidegate.web.schemas import fields, values
from sidegate.web.schemas.documents import EventsDocument, event_document
from sidegate.web.schemas.pagination import Cursors
from sidegate.web.schemas.query_params import Query, one_of, page

_PAGE: Final = 50
AUDIT_QUERY: Final = (
    Parameter("limit", fields.PageLength, "How many at most.", default=_PAGE),
    Parameter("cursor", fields.PageCursor, "`next_cursor` of the page before, of the same list."),
    Parameter("session_id", fields.SessionId, "What was done to one session."),
    Parameter("user_id", fields.UserId, "What was done to a user's sessions."),
    Parameter("action", Action, "What was done."),
    Parameter("by", fields.Label, "Who did it: `key:` and the name of an API key, say."),
    Parameter("since", fields.Moment, "Not what was done before."),
    Parameter("until", fields.Moment, "Not what was done then or later."),
)


class AuditRoutes:
    """From requests to the trail, and back."""

    def __init__(self, audit: AuditSealer, cursors: Cursors) -> None:
        self._audit = audit
        self._cursors = cursors

    async def list_events(self, request: web.Request) -> web.Response:
        """List events, newest first: who did what to which session, when, from where and why."""
        query = Query(request)
        wanted = AuditFilter(
            session_id=query.read("session_id", values.session_id),
            user_id=query.read("user_id", values.user_id),
            action=query.read("action", one_of(Action, *Action)),
            actor=query.read("by", values.label),
            since=query.read("since", values.moment),
            until=query.read("until", values.moment),
        )
        of = json.dumps(astuple(wanted), default=datetime.isoformat)
        limit = query.read("limit", page) or _PAGE
        before = query.read("cursor", lambda text: self._cursors.event(text, of=of))
        query.must_be_right()
        events = await self._audit.events(wanted, limit=limit + 1, before=before)
        shown, next_cursor = events[:limit], None
        if len(events) > limit:
            next_cursor = self._cursors.at_event(shown[-1].number, of=of)
        documents = [event_document(event) for event in shown]
        return web.json_response(EventsDocument(events=documents, next_cursor=next_cursor))
