"""What the gateway protocols share: statuses, response headers and credential sources."""

from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import ClassVar, Protocol, assert_never

from sidegate.core.verdict import Allow, Deny, Reason, Unavailable, Verdict
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.gateways.identity_headers import IdentityNames
from sidegate.web.gateways.returned_headers import ReturnedHeaders
from sidegate.web.server.header_lines import Roles
from sidegate.web.server.messages import Head, Response, Subrequest, build_problem_response


class GatewayProtocol(Protocol):
    """An adapter: a name, a route, headers by role, and a few pure functions."""

    name: ClassVar[str]
    route: ClassVar[str]
    """The path of its subrequests; with a slash at the end, every path below, too."""
    lists_addresses: ClassVar[bool]
    """Whether it states the addresses of the client and of proxies, in one list."""

    @property
    def roles(self) -> Roles: ...

    def read(self, head: Head) -> Subrequest: ...

    def read_budget(self, head: Head) -> float | None:
        """Return the seconds that the gateway waits for the response, or None if unstated."""
        ...

    def write(self, verdict: Verdict) -> Response: ...

    @property
    def build_request_lines(self) -> Callable[[Head], bytes] | None:
        """Return the header lines of a 200 that depend on the head, or None: it has none."""
        ...


@dataclass(frozen=True, slots=True)
class GatewayPolicy:
    """The settings that all gateway protocols share."""

    sources: CredentialSources = field(default_factory=CredentialSources)
    identity: IdentityNames = field(default_factory=IdentityNames)
    realm: str = "sidegate"
    signals: SignalSources = field(default_factory=SignalSources)

    @property
    def returned_headers(self) -> ReturnedHeaders:
        return ReturnedHeaders(self.sources)

    def build_roles(self, **own: bytes) -> Roles:
        """Return the headers by role: the protocol's own and the shared ones."""
        return {**self.sources.build_roles(), **self.signals.build_roles(), **own}

    def write(self, verdict: Verdict) -> Response:
        """Return 200 with the identity headers, 401, 403 or 503.

        Allow is exactly 200: Envoy treats any other 2xx as a denial. A denial contains nothing of
        the session, because some gateways pass it on to the client.
        """
        match verdict:
            case Allow(session):
                no_store = ("Cache-Control", "no-store")
                return Response(200, (no_store,), identity=self.identity.build_fields(session))
            case Deny(Reason.RULE):
                return build_problem_response(HTTPStatus.FORBIDDEN)
            case Deny(reason):
                challenge = ("WWW-Authenticate", self._challenge(reason))
                return build_problem_response(HTTPStatus.UNAUTHORIZED, challenge)
            case Unavailable():
                return build_problem_response(HTTPStatus.SERVICE_UNAVAILABLE, ("Retry-After", "1"))
            case never:
                assert_never(never)

    def _challenge(self, reason: Reason) -> str:
        """RFC 6750, section 3.1: no error code if the request has no credential."""
        realm = f'Bearer realm="{self.realm}"'
        return realm if reason is Reason.MISSING else f'{realm}, error="invalid_token"'
