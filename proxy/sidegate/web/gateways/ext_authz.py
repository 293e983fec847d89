"""Envoy's ext_authz over HTTP, also used by Istio, Contour, Envoy Gateway and the Gateway API.

Envoy sends the original method, the original target after a prefix, and its timeout.
"""

import re
from dataclasses import dataclass, field, replace
from typing import ClassVar

from sidegate.core.binding import Signals
from sidegate.core.verdict import Allow, Verdict
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.header_lines import Roles, parse_single_value
from sidegate.web.server.messages import Head, Response, Subrequest

ROUTE_PREFIX = "/ext-authz"


@dataclass(frozen=True, slots=True)
class ExtAuthz:
    """Envoy overwrites only headers in the response, so aliases of them must be removed."""

    policy: GatewayPolicy
    name: ClassVar[str] = "ext-authz"
    route: ClassVar[str] = f"{ROUTE_PREFIX}/"
    _removal_field: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        aliases = ",".join(self.policy.identity.generate_aliases())
        object.__setattr__(self, "_removal_field", ("x-envoy-auth-headers-to-remove", aliases))

    @property
    def roles(self) -> Roles:
        return self.policy.build_roles(
            client=b"x-real-ip", budget=b"x-envoy-expected-rq-timeout-ms"
        )

    def read(self, head: Head) -> Subrequest:
        target = head.target.decode("latin-1")
        return Subrequest(
            credential=self.policy.sources.read(head),
            method=head.method.decode("latin-1"),
            uri=target.removeprefix(ROUTE_PREFIX) or "/",
            client=parse_single_value(head.client),
        )

    def read_budget(self, head: Head) -> float | None:
        return _parse_milliseconds(parse_single_value(head.budget))

    def read_signals(self, head: Head) -> Signals | None:
        return self.policy.signals.read(head)

    def write(self, verdict: Verdict) -> Response:
        response = self.policy.write(verdict)
        if not isinstance(verdict, Allow):
            return response
        return replace(response, fields=(*response.fields, self._removal_field))


def _parse_milliseconds(milliseconds: str | None) -> float | None:
    """Return seconds, or None unless it is a plain number of milliseconds."""
    if milliseconds is None or not re.fullmatch(r"[0-9]{1,9}", milliseconds, re.ASCII):
        return None
    return int(milliseconds) / 1000
