"""The audit trail, a page at a time."""

import json
from dataclasses import astuple
from datetime import datetime
from typing import Final

from aiohttp import web

from proxy.core.audit import Action, AuditFilter
from proxy.service.audit import Audit
from proxy.web.cursors import Cursors
from proxy.web.payloads import values
from proxy.web.payloads.documents import event_document
from proxy.web.queries import Query, one_of, page

AUDIT_QUERY: Final = frozenset(
    {"limit", "cursor", "session_id", "user_id", "action", "by", "since", "until"}
)
_PAGE: Final = 50


class AuditRoutes:
    """From requests to the trail, and back."""

    def __init__(self, audit: Audit, cursors: Cursors) -> None:
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
        return web.json_response(
            {"events": [event_document(event) for event in shown], "next_cursor": next_cursor}
        )
