"""forwardAuth as Traefik, Caddy and APISIX ask it: any status, header and body is passed on."""

from dataclasses import dataclass
from typing import ClassVar

from proxy.core.verdict import Verdict
from proxy.web.gateways.base import CREDENTIALS, Manners, gather
from proxy.web.lines import only
from proxy.web.messages import Answer, Head, Subrequest

_WANTED = CREDENTIALS | {b"x-forwarded-method", b"x-forwarded-uri", b"x-forwarded-for"}


@dataclass(frozen=True, slots=True)
class ForwardAuth:
    """The gateway rebuilds every X-Forwarded header it does not trust, and so do we trust them."""

    manners: Manners
    name: ClassVar[str] = "forward-auth"

    def read(self, head: Head) -> Subrequest:
        lines = gather(head.fields, self.manners.wanted(_WANTED))
        client = only(lines, b"x-forwarded-for")
        return Subrequest(
            credential=self.manners.sources.read(lines),
            method=only(lines, b"x-forwarded-method"),
            uri=only(lines, b"x-forwarded-uri"),
            client=client,
            signals=self.manners.signals.read(lines, address=client, listed=True),
        )

    def write(self, verdict: Verdict) -> Answer:
        return self.manners.write(verdict)
