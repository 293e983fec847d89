"""What a door passes on: the Head of a request, the Subrequest read from it, the Answer to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.core.binding import Signals
from proxy.core.verdict import Deny

Field = tuple[bytes, bytes]
"""A header line as it came: name in any case, value without the white space round it."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body, which nobody reads."""

    method: str
    target: str
    fields: Sequence[Field]


@dataclass(frozen=True, slots=True)
class Subrequest:
    """The gateway's question: whose is this credential, in a request for what?

    `method`, `uri` and `client` are the original request's as the gateway states them, None where
    it states nothing or contradicts itself. `budget` is how many seconds the gateway waits.
    `signals` is what the client shows, None if nobody wants to know.
    """

    credential: str | Deny
    method: str | None = None
    uri: str | None = None
    client: str | None = None
    budget: float | None = None
    signals: Signals | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the gateway; both lanes write it as it is."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes = b""
