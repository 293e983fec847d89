"""A route of the admin API: its scope, its handler, and its description for OpenAPI."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from sidegate.web.admin.auth import Scope
from sidegate.web.schemas import request_body as bodies

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# An unbound method of a route group: the route table exists before the groups are built.
Method = Callable[[Any, web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A path, query or header parameter. `kind` is a type known to pydantic."""

    name: str
    kind: Any
    description: str
    required: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Body:
    """A request body. `kind` is the class of its payload."""

    kind: Any
    media_type: str = bodies.JSON_MEDIA_TYPE
    required: bool = True


@dataclass(frozen=True, slots=True)
class Link:
    """An OpenAPI link: the operation that takes values from a response.

    `parameters` maps its parameters to runtime expressions, such as `$response.body#/session/id`.
    Values in bodies have no link: generators of clients reject those.
    """

    operation_id: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """A response that is not a problem. `kind` is the class of its document; None: no body."""

    kind: Any
    description: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the route table.

    `scope` is what the API key needs; None means any key. A `public` route needs no key. The
    docstring of `handler` becomes the operation's summary and description. `other_responses` are
    not problems either. `problems` are codes in addition to those that follow from the method, the
    path and the body.
    """

    method: str
    path: str
    scope: Scope | None
    handler: Method
    operation_id: str
    tag: str
    response: ResponseSpec
    other_responses: tuple[ResponseSpec, ...] = ()
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    body: Body | None = None
    problems: tuple[str, ...] = ()
    public: bool = False

    def bind(self, groups: Iterable[object]) -> Handler:
        """Return the handler bound to the group whose class defines it.

        Raise LookupError if there is no such group.
        """
        name: str = self.handler.__name__
        for group in groups:
            if vars(type(group)).get(name) is self.handler:
                handler: Handler = getattr(group, name)
                return handler
        raise LookupError(f"no route group handles {self.method} {self.path}")
