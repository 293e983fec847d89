"""A row of the admin table: who may ask, who answers, and what the OpenAPI document says of it."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from sidegate.web.admin.auth import Scope
from sidegate.web.schemas import request_body as bodies

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# A method of a room's class: the table is the same for every door, whatever is behind it.
Method = Callable[[Any, web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something in the query or the head; `kind` is a type pydantic can make a schema of."""

    name: str
    kind: Any
    about: str
    required: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries: a payload."""

    kind: Any
    media_type: str = bodies.JSON
    required: bool = True


@dataclass(frozen=True, slots=True)
class Link:
    """What an answer is good for: the `operation` that takes something out of it.

    `parameters` and `body` name, for what that takes, where it is: `$response.body#/session/id`.
    """

    operation: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """What comes back that is no problem: a document of this `kind`; None: nothing."""

    kind: Any
    about: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One row. `scope` is what an API key needs; None: any will do, or, `open`, none is needed.

    `name` and the docstring of `handler` become the operation's id, summary and description.
    `answer` is the usual one, `also` are others that are no problems either. `problems` are codes
    beyond those that every route has, or every one with such a body or path.
    """

    method: str
    path: str
    scope: Scope | None
    handler: Method
    name: str
    tag: str
    answer: ResponseSpec
    also: tuple[ResponseSpec, ...] = ()
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    body: Body | None = None
    problems: tuple[str, ...] = ()
    open: bool = False

    def bound(self, rooms: Iterable[object]) -> Handler:
        """Return the handler as a method of the room whose class it is from. LookupError: none."""
        name: str = self.handler.__name__
        for room in rooms:
            if vars(type(room)).get(name) is self.handler:
                handler: Handler = getattr(room, name)
                return handler
        raise LookupError(f"no room answers {self.method} {self.path}")
