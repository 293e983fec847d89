"""What the gateway protocols share: statuses, response headers and credential sources."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import ClassVar, Final, Protocol, assert_never

from sidegate.core.verdict import Allow, Anonymous, Answer, Deny, Reason, Unavailable
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.gateways.credentials import CredentialSources
from sidegate.web.gateways.identity_headers import IdentityNames
from sidegate.web.gateways.returned_headers import ReturnedHeaders
from sidegate.web.server.header_lines import Roles
from sidegate.web.server.messages import (
    Field,
    Head,
    Response,
    Subrequest,
    build_problem_response,
)


class GatewayProtocol(Protocol):
    """An adapter: a name, a route, headers by role, and a few pure functions."""

    name: ClassVar[str]
    route: ClassVar[str]
    """The path of its subrequests; with a slash at the end, every path below, too."""
    lists_addresses: ClassVar[bool]
    """Whether it states the addresses of the client and of proxies, in one list."""

    target_fields: ClassVar[tuple[str, str, str]]
    """The fields of a Head in which it states host, URI and method, as no client can."""
    target_prefix: ClassVar[bytes]
    """What stands before the URI."""

    @property
    def roles(self) -> Roles: ...

    def read(self, head: Head) -> Subrequest: ...

    def read_budget(self, head: Head) -> float | None:
        """Return the seconds that the gateway waits for the response, or None if unstated."""
        ...

    def write(self, answer: Answer) -> Response: ...

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
    drops_embedded: bool = False  # see ReturnedHeaders

    @property
    def returned_headers(self) -> ReturnedHeaders:
        return ReturnedHeaders(self.sources, drops_embedded=self.drops_embedded)

    def build_roles(self, **own: bytes) -> Roles:
        """Return the headers by role: the protocol's own and the shared ones."""
        return {**self.sources.build_roles(), **self.signals.build_roles(), **own}

    def write(self, answer: Answer) -> Response:
        """Return 200 with the identity headers (empty ones if Anonymous), 401, 403 or 503.

        Allow is exactly 200: Envoy treats any other 2xx as a denial. A denial contains nothing of
        the session, because some gateways pass it on to the client.
        """
        match answer:
            case Allow(session):
                return Response(200, _NO_STORE, identity=self.identity.build_fields(session))
            case Anonymous():
                return Response(200, _NO_STORE, identity=self.identity.build_empty_fields())
            case Deny(Reason.RULE):
                return build_problem_response(HTTPStatus.FORBIDDEN)
            case Deny(Reason.SCOPE, scopes):
                error = f'error="insufficient_scope", scope="{" ".join(scopes)}"'
                return build_problem_response(HTTPStatus.FORBIDDEN, self._challenge(error))
            case Deny(Reason.AUTHENTICATION_AGE, max_age=timedelta() as max_age):
                error = f'error="insufficient_user_authentication", max_age="{_seconds(max_age)}"'
                return build_problem_response(HTTPStatus.UNAUTHORIZED, self._challenge(error))
            case Deny(Reason.MISSING):
                return build_problem_response(HTTPStatus.UNAUTHORIZED, self._challenge())
            case Deny():
                challenge = self._challenge('error="invalid_token"')
                return build_problem_response(HTTPStatus.UNAUTHORIZED, challenge)
            case Unavailable():
                return build_problem_response(HTTPStatus.SERVICE_UNAVAILABLE, ("Retry-After", "1"))
            case never:
                assert_never(never)

    def _challenge(self, error: str | None = None) -> Field:
        """RFC 6750, section 3.1, and RFC 9470: no error if the request has no credential."""
        realm = f'Bearer realm="{self.realm}"'
        return "WWW-Authenticate", realm if error is None else f"{realm}, {error}"


_NO_STORE: Final = (("Cache-Control", "no-store"),)


def _seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())
