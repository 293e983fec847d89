"""nginx's auth_request, and whoever asks the same way: ingress-nginx, our HAProxy script.

nginx knows 401 and 403 and turns every other refusal into a 500 without headers; the true status is
told once more in `X-Auth-Status`, from which a configuration can restore it.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from sidegate.core.binding import Signals
from sidegate.core.verdict import Verdict
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.header_lines import Roles, only
from sidegate.web.server.messages import Head, Response, Subrequest


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """The method is always GET and the path always ours: headers tell the original ones."""

    manners: GatewayPolicy
    name: ClassVar[str] = "auth-request"
    route: ClassVar[str] = "/auth-request"

    @property
    def roles(self) -> Roles:
        return self.manners.roles(
            client=b"x-real-ip",
            original_method=b"x-original-method",
            original_uri=b"x-original-uri",
        )

    def read(self, head: Head) -> Subrequest:
        return Subrequest(
            credential=self.manners.sources.read(head),
            method=only(head.original_method),
            uri=only(head.original_uri),
            client=only(head.client),
        )

    def budget(self, _: Head) -> float | None:
        return None

    def signals(self, head: Head) -> Signals | None:
        return self.manners.signals.read(head)

    def write(self, verdict: Verdict) -> Response:
        answer = self.manners.write(verdict)
        return replace(answer, fields=(*answer.fields, ("X-Auth-Status", str(answer.status))))
