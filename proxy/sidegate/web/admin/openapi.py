"""The OpenAPI document of the admin door, made from its table; no route is known here by name."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from inspect import cleandoc
from itertools import chain
from typing import Any, Final

from sidegate.web.admin.route import Body, Link, Parameter, ResponseSpec, Route
from sidegate.web.schemas import fields
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.documents import ProblemDocument
from sidegate.web.schemas.problems import CODES
from sidegate.web.schemas.schemas import Schemas

_ABOUT: Final = (
    "Begins, shows, lists and ends sessions. Times are RFC 3339, errors RFC 9457. Unknown members "
    "and parameters of requests are refused; answers may have more members one day. A body has at "
    "most 64 KiB and 32 levels, and names no member twice."
)
_TAGS: Final = {
    "sessions": "Begin, show, see, list and end sessions, and give them other tokens.",
    "locks": "One instance of an application at a time works on a session.",
    "analytics": "How many sessions there are, began and ended.",
    "audit": "Who did what to which session.",
    "oauth2": "For clients that speak OAuth: RFC 7662 and RFC 7009.",
    "providers": "For identity providers: OpenID Connect Back-Channel Logout 1.0.",
    "document": "What you are reading.",
}
_API_KEY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "`sidegate key new` makes one. A route names the scope it needs, if any; no "
    "scope includes another.",
}

# What the variable segments of paths are, and the code that says that one is none.
_SEGMENTS: Final = {
    "session_id": (Parameter("session_id", fields.SessionId, "Its id.", True), "not_found"),
    "user_id": (Parameter("user_id", fields.UserId, "Whose, as UTF-8.", True), "invalid_path"),
    "provider": (
        Parameter("provider", fields.Label, "Its name (`sso.providers`).", True),
        "not_found",
    ),
}
_EVERYWHERE: Final = (
    "bad_host",
    "bad_target",
    "invalid_query",
    "host_not_allowed",
    "unknown_expectation",
    "internal_error",
    "store_unavailable",
)
_WITH_A_BODY: Final = (
    "invalid_request",
    "broken_body",
    "body_timeout",
    "body_too_large",
    "unsupported_media_type",
    "unsupported_encoding",
)
_MALFORMED: Final = {bodies.JSON: "invalid_json", bodies.FORM: "invalid_form"}

_EVERY_ANSWER: Final = {"X-Request-Id": "What the log calls the request."}
_ANSWERS_OF: Final[Mapping[int, Mapping[str, str]]] = {
    401: {"WWW-Authenticate": "What to send (RFC 6750)."},
    503: {"Retry-After": "Seconds."},
}


def document(table: Sequence[Route]) -> dict[str, Any]:
    """Return the document, ready for JSON. LookupError: a row names what nobody knows."""
    schemas = Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in table:
        operation = _operation(endpoint, schemas)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sidegate admin API",
            "version": version("sidegate"),
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": paths,
        "components": {
            "responses": {code: _problem([code], schemas) for code in sorted(_alone(table))},
            "schemas": dict(sorted(schemas.named.items())),
            "securitySchemes": {"apiKey": _API_KEY},
        },
    }


def codes(endpoint: Route) -> frozenset[str]:
    """Return the codes of all problems a route may answer with."""
    return frozenset(_codes(endpoint))


def _codes(endpoint: Route) -> Iterator[str]:
    yield from _EVERYWHERE
    if endpoint.method != "GET":
        yield "outcome_unknown"
    yield from endpoint.problems
    yield from (_SEGMENTS[name][1] for name in _segments(endpoint.path))
    if not endpoint.open:
        yield "unauthenticated"
    if endpoint.scope is not None:
        yield "insufficient_scope"
    if endpoint.body is not None:
        yield _MALFORMED[endpoint.body.media_type]
        yield from _WITH_A_BODY


def _operation(endpoint: Route, schemas: Schemas) -> dict[str, Any]:
    summary, _, more = cleandoc(endpoint.handler.__doc__ or "").partition("\n\n")
    operation = {
        "operationId": endpoint.name,
        "summary": summary,
        "description": more,
        "tags": [tag for tag in _TAGS if tag == endpoint.tag],
        "security": _security(endpoint),
        "parameters": [*_parameters(endpoint, schemas)],
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.body is not None:
        operation["requestBody"] = _body(endpoint.body, schemas)
    return {name: value for name, value in operation.items() if value or name == "security"}


def _security(endpoint: Route) -> list[dict[str, list[str]]]:
    scopes = [] if endpoint.scope is None else [endpoint.scope.value]
    return [] if endpoint.open else [{"apiKey": scopes}]


def _segments(path: str) -> list[str]:
    return re.findall(r"{(\w+)}", path)


def _parameters(endpoint: Route, schemas: Schemas) -> Iterator[dict[str, Any]]:
    for name in _segments(endpoint.path):
        yield _parameter("path", _SEGMENTS[name][0], schemas)
    yield from (_parameter("query", each, schemas) for each in endpoint.query)
    yield from (_parameter("header", each, schemas) for each in endpoint.headers)


def _parameter(place: str, parameter: Parameter, schemas: Schemas) -> dict[str, Any]:
    schema = schemas.of(parameter.kind)
    return {
        "name": parameter.name,
        "in": place,
        "description": parameter.about,
        "required": parameter.required,
        "schema": schema if parameter.default is None else schema | {"default": parameter.default},
    }


def _body(body: Body, schemas: Schemas) -> dict[str, Any]:
    content = {body.media_type: {"schema": schemas.of(body.kind)}}
    return {"required": body.required, "content": content}


def _responses(endpoint: Route, schemas: Schemas) -> dict[str, Any]:
    answers = [endpoint.answer, *endpoint.also]
    responses = {answer.status: _answer(answer, schemas) for answer in answers}
    for status, those in _by_status(endpoint).items():
        alone = {"$ref": f"#/components/responses/{those[0]}"}
        problem = _problem(those, schemas) if len(those) > 1 or status in responses else alone
        responses[status] = _either(responses[status], problem) if status in responses else problem
    return {str(status): responses[status] for status in sorted(responses)}


def _either(answer: Mapping[str, Any], problem: Mapping[str, Any]) -> dict[str, Any]:
    """Return a response that may be one or the other: their media types tell them apart."""
    description = f"{answer['description']}\n\nOr:\n\n{problem['description']}"
    content = answer["content"] | problem["content"]
    return {**answer, "description": description, "content": content}


def _by_status(endpoint: Route) -> Mapping[int, list[str]]:
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes(endpoint)):
        by_status.setdefault(CODES[code][0], []).append(code)
    return by_status


def _alone(table: Iterable[Route]) -> set[str]:
    """Return the codes that somewhere are the only one of their status."""
    those = chain.from_iterable(_by_status(endpoint).values() for endpoint in table)
    return {each[0] for each in those if len(each) == 1}


def _answer(answer: ResponseSpec, schemas: Schemas) -> dict[str, Any]:
    response = {
        "description": answer.about,
        "headers": _headers(_EVERY_ANSWER, answer.headers),
        "links": {link.operation: _link(link) for link in answer.links},
    }
    if answer.kind is not None:
        response["content"] = {bodies.JSON: {"schema": schemas.of(answer.kind)}}
    return {name: value for name, value in response.items() if value}


def _problem(those: Sequence[str], schemas: Schemas) -> dict[str, Any]:
    status, schema = CODES[those[0]][0], schemas.of(ProblemDocument)
    narrowed = schema | {"properties": {"status": {"const": status}, "code": {"enum": those}}}
    return {
        "description": "\n".join(f"- `{code}`: {CODES[code][1]}" for code in those),
        "headers": _headers(_EVERY_ANSWER, _ANSWERS_OF.get(status, {})),
        "content": {"application/problem+json": {"schema": narrowed}},
    }


def _headers(*of: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: {"description": about, "required": True, "schema": {"type": "string"}}
        for headers in of
        for name, about in headers.items()
    }


def _link(link: Link) -> dict[str, Any]:
    described = {
        "operationId": link.operation,
        "parameters": dict(link.parameters),
        "requestBody": None if link.body is None else dict(link.body),
    }
    return {name: value for name, value in described.items() if value}
