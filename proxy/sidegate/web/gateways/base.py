"""What every gateway protocol shares: the statuses, the headers, and where credentials stand."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import ClassVar, Protocol, assert_never

from sidegate.core.binding import Signals
from sidegate.core.verdict import Allow, Deny, Reason, Unavailable, Verdict
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.gateways.identity_headers import IdentityNames
from sidegate.web.server.header_lines import Roles
from sidegate.web.server.messages import Head, Response, Subrequest, problem


class GatewayProtocol(Protocol):
    """An adapter: a name, a path, which header plays which role, and a few pure functions."""

    name: ClassVar[str]
    route: ClassVar[str]
    """Where it asks. With a slash at the end: there, and anywhere below."""

    @property
    def roles(self) -> Roles: ...

    def read(self, head: Head) -> Subrequest: ...

    def budget(self, head: Head) -> float | None:
        """Return how many seconds it waits; None: it does not say."""
        ...

    def signals(self, head: Head) -> Signals | None:
        """Return what the client shows; None: nobody wants to know."""
        ...

    def write(self, verdict: Verdict) -> Response: ...


@dataclass(frozen=True, slots=True)
class GatewayPolicy:
    """How this house speaks to any gateway."""

    sources: CredentialSources = field(default_factory=CredentialSources)
    identity: IdentityNames = field(default_factory=IdentityNames)
    realm: str = "sidegate"
    signals: SignalSources = field(default_factory=SignalSources)

    def roles(self, **facts: bytes) -> Roles:
        """Return a gateway's own headers by role, and those that count for everybody."""
        return {**self.sources.roles(), **self.signals.roles(), **facts}

    def write(self, verdict: Verdict) -> Response:
        """Answer 200 with the identity, 401 or 403, or 503.

        Allow is exactly 200: Envoy takes any other 2xx for a denial. A denial carries nothing of
        the session, because some gateways pass all of it on to the client.
        """
        match verdict:
            case Allow(session):
                no_store = ("Cache-Control", "no-store")
                return Response(200, (no_store,), identity=self.identity.fields(session))
            case Deny(Reason.RULE):
                return problem(HTTPStatus.FORBIDDEN)
            case Deny(reason):
                challenge = ("WWW-Authenticate", self._challenge(reason))
                return problem(HTTPStatus.UNAUTHORIZED, challenge)
            case Unavailable():
                return problem(HTTPStatus.SERVICE_UNAVAILABLE, ("Retry-After", "1"))
            case never:
                assert_never(never)

    def _challenge(self, reason: Reason) -> str:
        """RFC 6750: no error code for a client that presented nothing."""
        realm = f'Bearer realm="{self.realm}"'
        return realm if reason is Reason.MISSING else f'{realm}, error="invalid_token"'
