"""forwardAuth as Traefik, Caddy and APISIX ask it: any status, header and body is passed on."""

from dataclasses import dataclass
from typing import ClassVar

from sidegate.core.binding import Signals
from sidegate.core.verdict import Verdict
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.header_lines import Roles, only
from sidegate.web.server.messages import Head, Response, Subrequest


@dataclass(frozen=True, slots=True)
class ForwardAuth:
    """The gateway rebuilds every X-Forwarded header it does not trust, and so do we trust them."""

    manners: GatewayPolicy
    name: ClassVar[str] = "forward-auth"
    route: ClassVar[str] = "/forward-auth"

    @property
    def roles(self) -> Roles:
        return self.manners.roles(
            client=b"x-forwarded-for",
            original_method=b"x-forwarded-method",
            original_uri=b"x-forwarded-uri",
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
        return self.manners.signals.read(head, listed=True)

    def write(self, verdict: Verdict) -> Response:
        return self.manners.write(verdict)
