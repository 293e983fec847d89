"""Messages inside the gate: the Head of a request, its Subrequest, and the Response."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NamedTuple

from sidegate.core.token import TokenText
from sidegate.core.verdict import Deny
from sidegate.services.validator import Presented

HeaderValue = bytes | None
"""A header's value, possibly with trailing whitespace; None: absent. Repeated headers are joined
by CRLF, which no value contains."""


class Head(NamedTuple):
    """A request without its body, which is never read: the request line, and headers by role.

    `RequestHandler.roles` maps roles to headers; other headers are dropped. Only the fast path sets
    `is_http10`, `content_length`, `rare` and `connection`, and `host` without a role.
    """

    method: bytes
    target: bytes
    is_http10: HeaderValue = None  # set: the version is HTTP/1.0
    host: HeaderValue = None
    bearer: TokenText | None = None  # from an Authorization header in the plain form
    authorization: HeaderValue = None  # the whole header, unless in the plain form
    cookies: HeaderValue = None  # the Cookie header in the plain form, if PlainForms.all_cookies
    session_cookie: TokenText | None = None  # from a Cookie header in the plain form
    cookie: HeaderValue = None  # the whole header, unless in the plain form
    token: HeaderValue = None  # the header named by gate.header
    websocket_protocol: HeaderValue = None
    client: HeaderValue = None  # the address of the original client
    user_agent: HeaderValue = None
    accept_language: HeaderValue = None
    device: HeaderValue = None  # the header named by binding.header
    original_host: HeaderValue = None
    original_method: HeaderValue = None
    original_uri: HeaderValue = None
    budget: HeaderValue = None  # the gateway's timeout for this subrequest
    content_type: HeaderValue = None
    content_length: HeaderValue = None  # only 0 is plain
    rare: HeaderValue = None  # one of a few unused headers
    connection: HeaderValue = None  # close, or keep-alive
    fetch_site: HeaderValue = None
    origin: HeaderValue = None

    @property
    def raw_signals(self) -> tuple[HeaderValue, ...]:
        """The client signals that a session can be bound to, as sent."""
        return self[_RAW_SIGNALS]  # type: ignore[return-value]  # mypy reads the slice as an item

    def __repr__(self) -> str:
        return f"Head({self.method!r})"  # other fields may contain a token


_RAW_SIGNALS: Final = slice(Head._fields.index("client"), Head._fields.index("device") + 1)


@dataclass(frozen=True, slots=True)
class Subrequest:
    """A gateway's subrequest: the credential, and the original request it belongs to.

    `method`, `uri` and `client` are None if the gateway does not state them or contradicts itself.
    """

    credential: Presented | Deny = field(repr=False)
    method: str | None = None
    uri: str | None = None
    client: str | None = None


Field = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """The response to the gateway, the same on both HTTP paths.

    `identity`: the header fields that differ between sessions. `request_lines`: header lines that
    depend on the request's own, which may contain any byte but those of line ends and NUL.
    """

    status: int
    fields: tuple[Field, ...]
    body: bytes = b""
    identity: tuple[Field, ...] = ()
    request_lines: bytes = field(default=b"", repr=False)

    @property
    def headers(self) -> tuple[Field, ...]:
        """All header fields but those of `request_lines`."""
        return self.fields + self.identity


def build_problem_response(
    status: HTTPStatus, *fields: Field, detail: str | None = None
) -> Response:
    """Return a short problem document with the common header fields and `fields`.

    `detail` is plain text without quotes.
    """
    common = (("Cache-Control", "no-store"), ("Content-Type", "application/problem+json"))
    more = "" if detail is None else f',"detail":"{detail}"'
    body = f'{{"title":"{status.phrase}","status":{status.value}{more}}}'
    return Response(status.value, (*common, *fields), body.encode("ascii"))
