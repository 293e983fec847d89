"""forwardAuth of Traefik, Caddy and APISIX, which pass on any status, header and body.

A 200 has the client's headers without the credential: Traefik and APISIX remove nothing from one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from sidegate.core.verdict import Answer
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.header_lines import Roles, parse_single_value
from sidegate.web.server.messages import Head, Response, Subrequest


@dataclass(frozen=True, slots=True)
class ForwardAuth:
    """X-Forwarded headers can be trusted: the gateway rewrites those of untrusted clients."""

    policy: GatewayPolicy
    name: ClassVar[str] = "forward-auth"
    route: ClassVar[str] = "/forward-auth"
    target_fields: ClassVar = ("original_host", "original_uri", "original_method")
    target_prefix: ClassVar = b""
    lists_addresses: ClassVar[bool] = True

    @property
    def roles(self) -> Roles:
        return self.policy.build_roles(
            client=b"x-forwarded-for",
            original_host=b"x-forwarded-host",
            original_method=b"x-forwarded-method",
            original_uri=b"x-forwarded-uri",
        )

    def read(self, head: Head) -> Subrequest:
        return Subrequest(
            credential=self.policy.sources.read(head),
            method=parse_single_value(head.original_method),
            uri=parse_single_value(head.original_uri),
            client=parse_single_value(head.client),
        )

    def read_budget(self, _: Head) -> float | None:
        return None

    def write(self, answer: Answer) -> Response:
        return self.policy.write(answer)

    @property
    def build_request_lines(self) -> Callable[[Head], bytes] | None:
        return self.policy.returned_headers.build_lines
