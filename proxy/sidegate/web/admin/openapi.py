"""Builds the OpenAPI document from the route table; it knows no route by name."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from inspect import cleandoc
from itertools import chain
from typing import Any, Final

from sidegate.web.admin.middleware import BASIC_PATHS
from sidegate.web.admin.route import Body, Link, Parameter, ResponseSpec, Route
from sidegate.web.schemas import fields
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.documents import ProblemDocument
from sidegate.web.schemas.json_schema import SchemaRegistry
from sidegate.web.schemas.problems import PROBLEM_CODES

_DESCRIPTION: Final = (
    "Creates, lists, refreshes and revokes sessions. Times are RFC 3339, errors RFC 9457. Unknown "
    "members and parameters of requests are errors; clients must ignore unknown members of "
    "responses. A request body has at most 64 KiB and 32 levels of nesting, and no duplicate names."
)
_TAGS: Final = {
    "sessions": "Create, read, list, refresh and revoke sessions.",
    "locks": "Session locks: one client at a time works on a session.",
    "analytics": "Numbers of active, created and ended sessions.",
    "audit": "The audit trail: all changes of sessions.",
    "oauth2": "For OAuth clients: RFC 7662 and RFC 7009.",
    "providers": "For identity providers: OpenID Connect Back-Channel Logout 1.0.",
    "document": "This document.",
}
_API_KEY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, created with `sidegate key new`. Each operation names the scope it "
    "needs, if any; no scope includes another.",
}

_CLIENT: Final = {
    "type": "http",
    "scheme": "basic",
    "description": "An API key as an OAuth client sends it (RFC 6749, 2.3.1): the name of the key "
    "is the client id, and the key is the secret.",
}

# Path parameters, each with the code of the problem for an invalid value.
_PATH_PARAMETERS: Final = {
    "session_id": (Parameter("session_id", fields.SessionId, "The session id.", True), "not_found"),
    "user_id": (
        Parameter("user_id", fields.UserId, "The user id, as percent-encoded UTF-8.", True),
        "invalid_path",
    ),
    "provider": (
        Parameter("provider", fields.Label, "The name of the provider in `sso.providers`.", True),
        "not_found",
    ),
}
_COMMON_CODES: Final = (
    "invalid_host",
    "invalid_target",
    "invalid_query",
    "host_not_allowed",
    "expectation_failed",
    "internal_error",
    "store_unavailable",
)
_BODY_CODES: Final = (
    "invalid_request",
    "incomplete_body",
    "body_timeout",
    "body_too_large",
    "unsupported_media_type",
    "unsupported_encoding",
)
_SYNTAX_CODES: Final = {
    bodies.JSON_MEDIA_TYPE: "invalid_json",
    bodies.FORM_MEDIA_TYPE: "invalid_form",
}

_COMMON_HEADERS: Final = {"X-Request-Id": "The id of the request, as in the log."}
_STATUS_HEADERS: Final[Mapping[int, Mapping[str, str]]] = {
    401: {"WWW-Authenticate": "The expected credentials (RFC 6750)."},
    503: {"Retry-After": "Seconds to wait before a retry."},
}


def build_document(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the document of `routes`, ready for JSON.

    Raise LookupError if a route has an unknown path parameter or problem code.
    """
    schemas = SchemaRegistry()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _build_operation(route, schemas)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sidegate admin API",
            "version": version("sidegate"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "responses": {
                code: _build_problem([code], schemas) for code in sorted(_shared_codes(routes))
            },
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": {"apiKey": _API_KEY, "client": _CLIENT},
        },
    }


def problem_codes(route: Route) -> frozenset[str]:
    """Return the codes of all problems that a route may respond with."""
    return frozenset(_codes(route))


def _codes(route: Route) -> Iterator[str]:
    yield from _COMMON_CODES
    if route.method != "GET":
        yield "outcome_unknown"
    yield from route.problems
    yield from (_PATH_PARAMETERS[name][1] for name in _parameter_names(route.path))
    if not route.public:
        yield "unauthenticated"
    if route.scope is not None:
        yield "insufficient_scope"
    if route.body is not None:
        yield _SYNTAX_CODES[route.body.media_type]
        yield from _BODY_CODES


def _build_operation(route: Route, schemas: SchemaRegistry) -> dict[str, Any]:
    summary, _, description = cleandoc(route.handler.__doc__ or "").partition("\n\n")
    operation = {
        "operationId": route.operation_id,
        "summary": summary,
        "description": description,
        "tags": [tag for tag in _TAGS if tag == route.tag],
        "security": _build_security(route),
        "parameters": [*_build_parameters(route, schemas)],
        "responses": _build_responses(route, schemas),
    }
    if route.body is not None:
        operation["requestBody"] = _build_body(route.body, schemas)
    return {name: value for name, value in operation.items() if value or name == "security"}


def _build_security(route: Route) -> list[dict[str, list[str]]]:
    scopes = [] if route.scope is None else [route.scope.value]
    schemes = ["apiKey", "client"] if route.path.startswith(BASIC_PATHS) else ["apiKey"]
    return [] if route.public else [{scheme: scopes} for scheme in schemes]


def _parameter_names(path: str) -> list[str]:
    return re.findall(r"{(\w+)}", path)


def _build_parameters(route: Route, schemas: SchemaRegistry) -> Iterator[dict[str, Any]]:
    for name in _parameter_names(route.path):
        yield _build_parameter("path", _PATH_PARAMETERS[name][0], schemas=schemas)
    yield from (_build_parameter("query", each, schemas=schemas) for each in route.query)
    yield from (_build_parameter("header", each, schemas=schemas) for each in route.headers)


def _build_parameter(
    place: str, parameter: Parameter, *, schemas: SchemaRegistry
) -> dict[str, Any]:
    schema = schemas.schema_for(parameter.kind)
    return {
        "name": parameter.name,
        "in": place,
        "description": parameter.description,
        "required": parameter.required,
        "schema": schema if parameter.default is None else schema | {"default": parameter.default},
    }


def _build_body(body: Body, schemas: SchemaRegistry) -> dict[str, Any]:
    content = {body.media_type: {"schema": schemas.schema_for(body.kind)}}
    return {"required": body.required, "content": content}


def _build_responses(route: Route, schemas: SchemaRegistry) -> dict[str, Any]:
    specs = [route.response, *route.other_responses]
    responses = {spec.status: _build_response(spec, schemas) for spec in specs}
    for status, codes in _codes_by_status(route).items():
        if status in responses:
            responses[status] = _merge(responses[status], _build_problem(codes, schemas))
        elif len(codes) > 1:
            responses[status] = _build_problem(codes, schemas)
        else:
            responses[status] = {"$ref": f"#/components/responses/{codes[0]}"}
    return {str(status): responses[status] for status in sorted(responses)}


def _merge(response: Mapping[str, Any], problem: Mapping[str, Any]) -> dict[str, Any]:
    """Return a response that is either of two; they differ in media type."""
    description = f"{response['description']}\n\nOr:\n\n{problem['description']}"
    content = response["content"] | problem["content"]
    return {**response, "description": description, "content": content}


def _codes_by_status(route: Route) -> Mapping[int, list[str]]:
    by_status: dict[int, list[str]] = {}
    for code in sorted(problem_codes(route)):
        by_status.setdefault(PROBLEM_CODES[code][0], []).append(code)
    return by_status


def _shared_codes(routes: Iterable[Route]) -> set[str]:
    """Return the codes that some route has as the only one of a status: they become components."""
    groups = chain.from_iterable(_codes_by_status(route).values() for route in routes)
    return {codes[0] for codes in groups if len(codes) == 1}


def _build_response(spec: ResponseSpec, schemas: SchemaRegistry) -> dict[str, Any]:
    response = {
        "description": spec.description,
        "headers": _build_headers(_COMMON_HEADERS, spec.headers),
        "links": {link.operation_id: _build_link(link) for link in spec.links},
    }
    if spec.kind is not None:
        response["content"] = {bodies.JSON_MEDIA_TYPE: {"schema": schemas.schema_for(spec.kind)}}
    return {name: value for name, value in response.items() if value}


def _build_problem(codes: Sequence[str], schemas: SchemaRegistry) -> dict[str, Any]:
    status, schema = PROBLEM_CODES[codes[0]][0], schemas.schema_for(ProblemDocument)
    narrowed = schema | {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
    return {
        "description": "\n".join(f"- `{code}`: {PROBLEM_CODES[code][1]}" for code in codes),
        "headers": _build_headers(_COMMON_HEADERS, _STATUS_HEADERS.get(status, {})),
        "content": {"application/problem+json": {"schema": narrowed}},
    }


def _build_headers(*groups: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: {"description": text, "required": True, "schema": {"type": "string"}}
        for headers in groups
        for name, text in headers.items()
    }


def _build_link(link: Link) -> dict[str, Any]:
    return {"operationId": link.operation_id, "parameters": dict(link.parameters)}
