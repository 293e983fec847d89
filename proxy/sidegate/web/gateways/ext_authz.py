"""Envoy's ext_authz over HTTP, also used by Istio, Contour, Envoy Gateway and the Gateway API.

Envoy sends the original method, the original target after a prefix, and its timeout.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import ClassVar, Final

from sidegate.core.verdict import Answer
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.returned_headers import ReturnedHeaders, encode_fields
from sidegate.web.server.header_lines import Roles, parse_single_value
from sidegate.web.server.messages import Head, Response, Subrequest

ROUTE_PREFIX = "/ext-authz"

_ONLY_COOKIES: Final = (b"Cookie",)


@dataclass(frozen=True, slots=True)
class ExtAuthz:
    """A 200 has the client's headers without the credential.

    Envoy replaces only headers that the response has. So a 200 also names those to remove: the
    aliases of the identity headers, and the client's that have nothing left.
    """

    policy: GatewayPolicy
    name: ClassVar[str] = "ext-authz"
    route: ClassVar[str] = f"{ROUTE_PREFIX}/"
    target_fields: ClassVar = ("host", "target", "method")
    target_prefix: ClassVar = ROUTE_PREFIX.encode("ascii")
    lists_addresses: ClassVar[bool] = False
    _returned: ReturnedHeaders = field(init=False, repr=False)
    _removal_lines: Mapping[tuple[bytes, ...], bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        headers = self.policy.returned_headers
        aliases = [alias.encode("ascii") for alias in self.policy.identity.generate_aliases()]
        lines = {
            returned: _build_removal_line([*aliases, *_list_absent(headers.names, returned)])
            for returned in _subsets(headers.names)
        }
        object.__setattr__(self, "_returned", headers)
        object.__setattr__(self, "_removal_lines", lines)

    @property
    def roles(self) -> Roles:
        return self.policy.build_roles(
            host=b"host", client=b"x-real-ip", budget=b"x-envoy-expected-rq-timeout-ms"
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

    def write(self, answer: Answer) -> Response:
        return self.policy.write(answer)

    @property
    def build_request_lines(self) -> Callable[[Head], bytes] | None:
        return self._build_lines

    def _build_lines(self, head: Head) -> bytes:
        cookies = self._returned.read_plain_cookies(head)
        if cookies is None:
            fields = self._returned.read_fields(head)
            return encode_fields(fields) + self._removal_lines[tuple(name for name, _ in fields)]
        if not cookies:
            return self._removal_lines[()]
        return b"Cookie: %b\r\n" % cookies + self._removal_lines[_ONLY_COOKIES]


def _subsets(names: tuple[bytes, ...]) -> Iterable[tuple[bytes, ...]]:
    return chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))


def _list_absent(names: Iterable[bytes], returned: Collection[bytes]) -> Iterable[bytes]:
    return (name.lower() for name in names if name not in returned)


def _build_removal_line(names: Iterable[bytes]) -> bytes:
    return encode_fields([(b"x-envoy-auth-headers-to-remove", b",".join(names))])


def _parse_milliseconds(milliseconds: str | None) -> float | None:
    """Return seconds, or None unless it is a plain number of milliseconds."""
    if milliseconds is None or not re.fullmatch(r"[0-9]{1,9}", milliseconds, re.ASCII):
        return None
    return int(milliseconds) / 1000
