"""nginx's auth_request, and whoever asks the same way: ingress-nginx, our HAProxy script.

nginx knows 401 and 403 and turns every other refusal into a 500 without headers; the true status is
told once more in `X-Auth-Status`, from which a configuration can restore it.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from proxy.core.verdict import Verdict
from proxy.web.gateways.base import CREDENTIALS, Manners, gather
from proxy.web.lines import only
from proxy.web.messages import Answer, Head, Subrequest

_WANTED = CREDENTIALS | {b"x-original-method", b"x-original-uri", b"x-real-ip"}


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """The method is always GET and the path always ours: headers tell the original ones."""

    manners: Manners
    name: ClassVar[str] = "auth-request"

    def read(self, head: Head) -> Subrequest:
        lines = gather(head.fields, self.manners.wanted(_WANTED))
        client = only(lines, b"x-real-ip")
        return Subrequest(
            credential=self.manners.sources.read(lines),
            method=only(lines, b"x-original-method"),
            uri=only(lines, b"x-original-uri"),
            client=client,
            signals=self.manners.signals.read(lines, address=client),
        )

    def write(self, verdict: Verdict) -> Answer:
        answer = self.manners.write(verdict)
        return replace(answer, fields=(*answer.fields, ("X-Auth-Status", str(answer.status))))
