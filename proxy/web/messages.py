"""What a door passes on: the Head of a request, the Subrequest read from it, the Answer to it."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NamedTuple

from proxy.core.binding import Signals
from proxy.core.token import Spelling
from proxy.core.verdict import Deny

Line = bytes | None
"""The value that was sent under a name, without the blanks round it; None: none was. Where several
were sent, all of them, divided by line ends, which stand in no value."""


class Head(NamedTuple):
    """A request without its body, which nobody reads: its first line, and header lines by role.

    Which header plays which role is said by whoever answers (`Desk.roles`); the others are not
    kept. Four fields are for the express lane only, which tells by them how to answer: `old`,
    `host`, `rarity` and `connection`.
    """

    method: bytes
    target: bytes
    old: Line = None  # it is HTTP/1.0
    host: Line = None
    bearer: Spelling | None = None  # Authorization is a bearer token and nothing else
    authorization: Line = None
    cookie: Line = None
    token: Line = None  # the header of gate.header
    client: Line = None  # who sent the original request
    user_agent: Line = None
    accept_language: Line = None
    device: Line = None  # the header of binding.header
    original_method: Line = None
    original_uri: Line = None
    budget: Line = None  # how long the gateway waits
    content_type: Line = None
    rarity: Line = None  # one of some headers that nobody reads
    connection: Line = None  # whether it ends with the answer

    @property
    def shown(self) -> tuple[Line, ...]:
        """What a session may be bound to, as it was sent."""
        return tuple.__getitem__(self, _SHOWN)

    def __repr__(self) -> str:
        return f"Head({self.method!r})"  # the rest may hold a token


_SHOWN: Final = slice(Head._fields.index("client"), Head._fields.index("device") + 1)


@dataclass(frozen=True, slots=True)
class Subrequest:
    """The gateway's question: whose is this credential, in a request for what?

    `method`, `uri` and `client` are the original request's as the gateway states them, None where
    it states nothing or contradicts itself. `budget` is how many seconds the gateway waits.
    `signals` is what the client shows, None if nobody wants to know.
    """

    credential: str | Deny = field(repr=False)
    method: str | None = None
    uri: str | None = None
    client: str | None = None
    budget: float | None = None
    signals: Signals | None = None


Field = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
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


def problem(status: HTTPStatus, *fields: Field) -> Answer:
    """Say no in few words. `fields` come besides those that every such answer has."""
    always = (("Cache-Control", "no-store"), ("Content-Type", "application/problem+json"))
    body = f'{{"title":"{status.phrase}","status":{status.value}}}'
    return Answer(status.value, (*always, *fields), body.encode("ascii"))
