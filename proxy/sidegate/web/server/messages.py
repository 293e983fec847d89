"""What a door passes on: the Head of a request, the Subrequest read from it, the Answer to it."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NamedTuple

from sidegate.core.token import TokenText
from sidegate.core.verdict import Deny

HeaderValue = bytes | None
"""The value that was sent under a name, perhaps with blanks behind it; None: none was sent. Where
several were, all of them, divided by line ends, which stand in no value."""


class Head(NamedTuple):
    """A request without its body, which nobody reads: its first line, and header lines by role.

    Which header plays which role is said by whoever answers (`Desk.roles`); the others are not
    kept. Some fields are for the express lane only, which tells by them how to answer: `old`,
    `host`, `length`, `rarity` and `connection`.
    """

    method: bytes
    target: bytes
    old: HeaderValue = None  # it is HTTP/1.0
    host: HeaderValue = None
    bearer: TokenText | None = None  # Authorization is a bearer token and nothing else
    authorization: HeaderValue = None
    ours: TokenText | None = None  # the value of our cookie, in a line that is easy to read
    cookie: HeaderValue = None  # any other line with our cookie
    token: HeaderValue = None  # the header of gate.header
    client: HeaderValue = None  # who sent the original request
    user_agent: HeaderValue = None
    accept_language: HeaderValue = None
    device: HeaderValue = None  # the header of binding.header
    original_method: HeaderValue = None
    original_uri: HeaderValue = None
    budget: HeaderValue = None  # how long the gateway waits
    content_type: HeaderValue = None
    length: HeaderValue = None  # of a body: none
    rarity: HeaderValue = None  # one of some headers that nobody reads
    connection: HeaderValue = None  # whether it ends with the answer

    @property
    def shown(self) -> tuple[HeaderValue, ...]:
        """What a session may be bound to, as it was sent."""
        return self[_SHOWN]  # type: ignore[return-value]  # mypy takes the slice for an item

    def __repr__(self) -> str:
        return f"Head({self.method!r})"  # the rest may hold a token


_SHOWN: Final = slice(Head._fields.index("client"), Head._fields.index("device") + 1)


@dataclass(frozen=True, slots=True)
class Subrequest:
    """The gateway's question: whose is this credential, in a request for what?

    `method`, `uri` and `client` are the original request's as the gateway states them, None where
    it states nothing or contradicts itself.
    """

    credential: str | Deny = field(repr=False)
    method: str | None = None
    uri: str | None = None
    client: str | None = None


Field = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back to the gateway; both lanes write it as it is.

    `identity` are further fields: those that tell of a session.
    """

    status: int
    fields: tuple[Field, ...]
    body: bytes = b""
    identity: tuple[Field, ...] = ()

    @property
    def headers(self) -> tuple[Field, ...]:
        """All fields."""
        return self.fields + self.identity


def problem(status: HTTPStatus, *fields: Field) -> Response:
    """Say no in few words. `fields` come besides those that every such answer has."""
    always = (("Cache-Control", "no-store"), ("Content-Type", "application/problem+json"))
    body = f'{{"title":"{status.phrase}","status":{status.value}}}'
    return Response(status.value, (*always, *fields), body.encode("ascii"))
