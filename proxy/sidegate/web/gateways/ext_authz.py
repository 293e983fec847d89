"""Envoy's ext_authz over HTTP, as Istio, Contour, Envoy Gateway and the Gateway API use it too.

Envoy sends the original request line behind a prefix, and says how long it will wait.
"""

import re
from dataclasses import dataclass, field, replace
from typing import ClassVar

from sidegate.core.binding import Signals
from sidegate.core.verdict import Allow, Verdict
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.header_lines import Roles, only
from sidegate.web.server.messages import Head, Response, Subrequest

PREFIX = "/ext-authz"


@dataclass(frozen=True, slots=True)
class ExtAuthz:
    """Envoy overwrites what we answer and keeps what we do not: the aliases are to be removed."""

    manners: GatewayPolicy
    name: ClassVar[str] = "ext-authz"
    route: ClassVar[str] = f"{PREFIX}/"
    _removals: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        aliases = ",".join(self.manners.identity.aliases())
        object.__setattr__(self, "_removals", ("x-envoy-auth-headers-to-remove", aliases))

    @property
    def roles(self) -> Roles:
        return self.manners.roles(client=b"x-real-ip", budget=b"x-envoy-expected-rq-timeout-ms")

    def read(self, head: Head) -> Subrequest:
        target = head.target.decode("latin-1")
        return Subrequest(
            credential=self.manners.sources.read(head),
            method=head.method.decode("latin-1"),
            uri=target.removeprefix(PREFIX) or "/",
            client=only(head.client),
        )

    def budget(self, head: Head) -> float | None:
        return _seconds(only(head.budget))

    def signals(self, head: Head) -> Signals | None:
        return self.manners.signals.read(head)

    def write(self, verdict: Verdict) -> Response:
        answer = self.manners.write(verdict)
        if not isinstance(verdict, Allow):
            return answer
        return replace(answer, fields=(*answer.fields, self._removals))


def _seconds(milliseconds: str | None) -> float | None:
    """Whatever is not a plain number of milliseconds states nothing."""
    if milliseconds is None or not re.fullmatch(r"[0-9]{1,9}", milliseconds, re.ASCII):
        return None
    return int(milliseconds) / 1000
