"""`GET /session` on the gate: a front end asks how long its own session still lasts.

Nothing else is told, and asking is not being active: a page that watches the clock must not keep
the session alive.
"""

import json
from collections.abc import Callable
from datetime import datetime

from sidegate.core.session import Session
from sidegate.core.verdict import Allow, Deny, Verdict
from sidegate.services.validator import Validator
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.handler import Prefetched
from sidegate.web.server.header_lines import Roles
from sidegate.web.server.messages import Head, Response
from sidegate.web.server.response_bytes import Reply


class SessionStatus:
    """Answers for the token of the request, and for no other."""

    def __init__(self, validator: Validator, manners: GatewayPolicy) -> None:
        self.route = "/session"
        self.roles: Roles = manners.sources.roles()
        self.cookie = manners.sources.cookie
        self._validator = validator
        self._manners = manners

    def try_fast(self, _: Head, __: Prefetched | None = None) -> Reply | None:
        """Not: front ends ask seldom."""
        return None

    def prefetch(self, _: Head, __: Callable[[Prefetched], None]) -> bool:
        """Nor this: nothing is answered at once."""
        return False

    async def answer(self, head: Head, _: float | None = None) -> Response:
        """Answer 200 with the session's times, or refuse as the gate does."""
        verdict = await self._verdict(head)
        refused_or_allowed = self._manners.write(verdict)
        if not isinstance(verdict, Allow):
            return refused_or_allowed
        fields = (("Cache-Control", "no-store"), ("Content-Type", "application/json"))
        return Response(200, fields, _document(verdict.session))

    async def _verdict(self, head: Head) -> Verdict:
        match self._manners.sources.read(head):
            case Deny() as no:
                return no
            case credential:
                return await self._validator.inspect(credential)


def _document(session: Session) -> bytes:
    """`refresh_after` is half-way to the end: early enough to try again if it fails."""
    middle = session.created_at + (session.expires_at - session.created_at) / 2
    document = {
        "type": session.type.value,
        "ends_at": _rfc3339(session.expires_at),
        "idle_at": _rfc3339(session.idle_at),
        "refresh_after": _rfc3339(middle),
    }
    return json.dumps(document).encode("ascii")


def _rfc3339(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds").replace("+00:00", "Z")
