"""Is a reply of the admin door one of those its OpenAPI document tells of?

Stricter than a client should be: a member the document does not name is a breach as well, so that
no answer grows one unsaid.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from jsonschema_rs import Draft202012Validator

from sidegate.web.admin.openapi import document
from sidegate.web.admin.routes import TABLE

DOCUMENT: Final = document(TABLE)
_NOWHERE: Final = {
    "bad_host",
    "bad_target",
    "host_not_allowed",
    "method_not_allowed",
    "not_found",
    "unauthenticated",
}


def breaches(
    method: str, target: str, status: int, headers: Mapping[str, str], text: str
) -> list[str]:
    """Return what the document does not know about a reply to `method` and `target`."""
    operation = _operation("GET" if method == "HEAD" else method, target.partition("?")[0])
    return list(_breaches(operation, status, headers, None if method == "HEAD" else text))


def _breaches(
    operation: str | None, status: int, headers: Mapping[str, str], text: str | None
) -> Iterator[str]:
    response = _response(operation, status)
    if response is None:
        yield f"{operation} does not answer {status}"
        return
    for name in response.get("headers", {}):
        if name not in headers:
            yield f"no {name}"
    kinds, kind = response.get("content", {}), headers.get("Content-Type", "").partition(";")[0]
    if not kinds:
        yield from ["a body"] if text else []
    elif kind not in kinds:
        yield f"{kind} is not {' or '.join(kinds)}"
    elif text is not None:
        yield from map(str, _validator(operation, status, kind).iter_errors(json.loads(text)))


@cache
def _operation(method: str, path: str) -> str | None:
    for template, operations in DOCUMENT["paths"].items():
        if method.lower() in operations:
            pattern = re.sub(r"{\w+}", "[^/]+", template)
            if re.fullmatch(pattern, path):
                return f"{method} {template}"
    return None


@cache
def _response(operation: str | None, status: int) -> dict[str, Any] | None:
    if operation is None:
        return {"content": {"application/problem+json": {"schema": _PROBLEM_OF_NOBODY}}}
    method, _, template = operation.partition(" ")
    response: dict[str, Any] | None
    response = DOCUMENT["paths"][template][method.lower()]["responses"].get(str(status))
    if response is not None and "$ref" in response:
        response = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return response


@cache
def _validator(operation: str | None, status: int, kind: str) -> Any:
    response = _response(operation, status)
    assert response is not None
    described = response["content"][kind]["schema"]
    schema = closed(described | {"components": DOCUMENT["components"]})
    return Draft202012Validator(schema, validate_formats=True)


def closed(schema: Any) -> Any:
    """Return the schema without room for members it does not name."""
    match schema:
        case list():
            return [closed(each) for each in schema]
        case {"type": "object", "properties": _, **_rest} if "additionalProperties" not in schema:
            return {k: closed(v) for k, v in schema.items()} | {"additionalProperties": False}
        case dict():
            return {name: closed(value) for name, value in schema.items()}
        case _:
            return schema


_PROBLEM_OF_NOBODY: Final = {
    "$ref": "#/components/schemas/Problem",
    "properties": {"code": {"enum": sorted(_NOWHERE)}},
}
