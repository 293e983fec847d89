"""What every gateway protocol shares: the statuses, the headers, and how lines are gathered."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, assert_never

from proxy.core.verdict import Allow, Deny, Reason, Unavailable, Verdict
from proxy.web.credentials import CredentialSources
from proxy.web.identity import IdentityNames
from proxy.web.messages import Answer, Field, Head, Subrequest
from proxy.web.signals import SignalSources

_ALWAYS = (("Cache-Control", "no-store"),)
_PROBLEM = (("Content-Type", "application/problem+json"),)
_UNAUTHORIZED = b'{"title":"Unauthorized","status":401}'
_FORBIDDEN = b'{"title":"Forbidden","status":403}'
_UNAVAILABLE = b'{"title":"Service Unavailable","status":503}'


class Gateway(Protocol):
    """An adapter: two pure functions and a name."""

    name: ClassVar[str]

    def read(self, head: Head) -> Subrequest: ...

    def write(self, verdict: Verdict) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Manners:
    """How this house speaks to any gateway."""

    sources: CredentialSources = field(default_factory=CredentialSources)
    identity: IdentityNames = field(default_factory=IdentityNames)
    realm: str = "sidegate"
    signals: SignalSources = field(default_factory=SignalSources)

    def wanted(self, facts: frozenset[bytes]) -> frozenset[bytes]:
        """Return the headers to gather: a gateway's own facts, and what counts for everybody."""
        header = self.sources.header
        wanted = facts if header is None else facts | {header}
        return wanted | self.signals.headers if self.signals.headers else wanted

    def write(self, verdict: Verdict) -> Answer:
        """Answer 200 with the identity, 401 or 403, or 503.

        Allow is exactly 200: Envoy takes any other 2xx for a denial. A denial carries nothing of
        the session, because some gateways pass all of it on to the client.
        """
        match verdict:
            case Allow(session):
                return Answer(200, _ALWAYS + self.identity.fields(session))
            case Deny(Reason.RULE):
                return Answer(403, _ALWAYS + _PROBLEM, _FORBIDDEN)
            case Deny(reason):
                challenge = ("WWW-Authenticate", self._challenge(reason))
                return Answer(401, (*_ALWAYS, *_PROBLEM, challenge), _UNAUTHORIZED)
            case Unavailable():
                return Answer(503, (*_ALWAYS, *_PROBLEM, ("Retry-After", "1")), _UNAVAILABLE)
            case never:
                assert_never(never)

    def _challenge(self, reason: Reason) -> str:
        """RFC 6750: no error code for a client that presented nothing."""
        realm = f'Bearer realm="{self.realm}"'
        return realm if reason is Reason.MISSING else f'{realm}, error="invalid_token"'


def gather(fields: Iterable[Field], wanted: frozenset[bytes]) -> dict[bytes, list[bytes]]:
    """Return the values of the `wanted` headers (lower case) and of no others."""
    lines: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        lowered = name.lower()
        if lowered in wanted:
            lines.setdefault(lowered, []).append(value)
    return lines


CREDENTIALS = frozenset({b"authorization", b"cookie"})
