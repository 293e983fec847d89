"""nginx's auth_request, also used by ingress-nginx and Sidegate's HAProxy script.

nginx handles 401 and 403 and turns every other error into a 500 without headers. `X-Auth-Status`
repeats the status, so that its configuration can restore it. The gateways' files remove the token
from the request; they cannot decode Basic credentials, so `X-Auth-Source: basic` says that the
password was one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from sidegate.core.verdict import Answer
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.server.header_lines import Roles, parse_single_value
from sidegate.web.server.messages import Head, Response, Subrequest


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """Method and path are always the same: headers state those of the original request."""

    policy: GatewayPolicy
    name: ClassVar[str] = "auth-request"
    route: ClassVar[str] = "/auth-request"
    target_fields: ClassVar = ("original_host", "original_uri", "original_method")
    target_prefix: ClassVar = b""
    lists_addresses: ClassVar[bool] = False

    @property
    def roles(self) -> Roles:
        return self.policy.build_roles(
            client=b"x-real-ip",
            original_host=b"x-original-host",
            original_method=b"x-original-method",
            original_uri=b"x-original-uri",
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
        response = self.policy.write(answer)
        return replace(response, fields=(*response.fields, ("X-Auth-Status", str(response.status))))

    @property
    def build_request_lines(self) -> Callable[[Head], bytes] | None:
        return self._name_source if self.policy.sources.basic else None

    def _name_source(self, head: Head) -> bytes:
        return b"X-Auth-Source: basic\r\n" if self.policy.sources.has_basic_token(head) else b""
