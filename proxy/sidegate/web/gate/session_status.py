"""`GET /session` on the gate: a front end gets the times of its own session.

It returns nothing else and records no activity: a page that polls must not extend the session.
"""

import json
from datetime import datetime

from sidegate.core.protocols import OnPrefetched, Prefetched
from sidegate.core.session import Session
from sidegate.core.verdict import Allow, Deny, Verdict
from sidegate.services.validator import Validator
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.header_lines import Roles
from sidegate.web.server.messages import Head, Response
from sidegate.web.server.response_bytes import EncodedResponse


class SessionStatus:
    """The request handler for the status of the session whose token is presented."""

    def __init__(self, validator: Validator, policy: GatewayPolicy) -> None:
        self.route = "/session"
        self.roles: Roles = policy.sources.build_roles()
        self.plain_forms = policy.sources.plain_forms
        self._validator = validator
        self._policy = policy

    def try_fast(self, _: Head) -> EncodedResponse | None:
        """Return None: these requests are rare and always use the stores."""
        return None

    def prefetch(self, _: Head, __: OnPrefetched) -> bool:
        """Return False: nothing is prefetched."""
        return False

    def conclude(self, _: Head, __: Prefetched, *, elapsed: float) -> None:
        """Return None: nothing is prefetched."""

    async def handle(self, head: Head, _: float | None = None) -> Response:
        """Return 200 with the session's times, or the denial of a check."""
        verdict = await self._inspect(head)
        checked = self._policy.write(verdict)
        if not isinstance(verdict, Allow):
            return checked
        fields = (("Cache-Control", "no-store"), ("Content-Type", "application/json"))
        return Response(200, fields, _encode_times(verdict.session))

    async def _inspect(self, head: Head) -> Verdict:
        match self._policy.sources.read(head):
            case Deny() as denial:
                return denial
            case presented:
                return await self._validator.validate_presented(presented)


def _encode_times(session: Session) -> bytes:
    """Return the JSON; `refresh_after` is half-way to the end, which leaves time to retry."""
    middle = session.created_at + (session.expires_at - session.created_at) / 2
    document = {
        "type": session.type.value,
        "ends_at": _format_rfc3339(session.expires_at),
        "idle_at": _format_rfc3339(session.idle_at),
        "refresh_after": _format_rfc3339(middle),
    }
    return json.dumps(document).encode("ascii")


def _format_rfc3339(timestamp: datetime | None) -> str | None:
    if timestamp is None:
        return None
    return timestamp.isoformat(timespec="seconds").replace("+00:00", "Z")
