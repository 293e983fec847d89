"""Check replies of the admin API against its OpenAPI document.

Stricter than clients should be: an unknown member is a violation too, so that no response gets a
member that is not documented.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from jsonschema_rs import Draft202012Validator

from sidegate.web.admin.openapi import build_document
from sidegate.web.admin.routes import ROUTES

DOCUMENT: Final = build_document(ROUTES)
_CODES_OF_UNKNOWN_PATHS: Final = {
    "invalid_host",
    "invalid_target",
    "host_not_allowed",
    "method_not_allowed",
    "not_found",
    "unauthenticated",
}


def find_violations(
    method: str, target: str, status: int, headers: Mapping[str, str], text: str
) -> list[str]:
    """Return in what a reply to `method` and `target` differs from the document."""
    operation = _find_operation("GET" if method == "HEAD" else method, target.partition("?")[0])
    return list(_violations(operation, status, headers, None if method == "HEAD" else text))


def _violations(
    operation: str | None, status: int, headers: Mapping[str, str], text: str | None
) -> Iterator[str]:
    response = _find_response(operation, status)
    if response is None:
        yield f"{operation} has no response {status}"
        return
    for name in response.get("headers", {}):
        if name not in headers:
            yield f"no {name}"
    expected = response.get("content", {})
    media_type = headers.get("Content-Type", "").partition(";")[0]
    if not expected:
        yield from ["a body"] if text else []
    elif media_type not in expected:
        yield f"{media_type} is not {' or '.join(expected)}"
    elif text is not None:
        validator = _build_validator(operation, status, media_type)
        yield from map(str, validator.iter_errors(json.loads(text)))


@cache
def _find_operation(method: str, path: str) -> str | None:
    for template, operations in DOCUMENT["paths"].items():
        if method.lower() in operations:
            pattern = re.sub(r"{\w+}", "[^/]+", template)
            if re.fullmatch(pattern, path):
                return f"{method} {template}"
    return None


@cache
def _find_response(operation: str | None, status: int) -> dict[str, Any] | None:
    if operation is None:
        return {"content": {"application/problem+json": {"schema": _UNKNOWN_PATH_PROBLEM}}}
    method, _, template = operation.partition(" ")
    response: dict[str, Any] | None
    response = DOCUMENT["paths"][template][method.lower()]["responses"].get(str(status))
    if response is not None and "$ref" in response:
        response = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return response


@cache
def _build_validator(operation: str | None, status: int, media_type: str) -> Any:
    response = _find_response(operation, status)
    assert response is not None
    schema = response["content"][media_type]["schema"] | {"components": DOCUMENT["components"]}
    schema = forbid_unknown_members(schema)
    return Draft202012Validator(schema, validate_formats=True)


def forbid_unknown_members(schema: Any) -> Any:
    """Return the schema with `additionalProperties: false` in every object."""
    match schema:
        case list():
            return [forbid_unknown_members(each) for each in schema]
        case {"type": "object", "properties": _, **_rest} if "additionalProperties" not in schema:
            return {k: forbid_unknown_members(v) for k, v in schema.items()} | {
                "additionalProperties": False
            }
        case dict():
            return {name: forbid_unknown_members(value) for name, value in schema.items()}
        case _:
            return schema


_UNKNOWN_PATH_PROBLEM: Final = {
    "$ref": "#/components/schemas/Problem",
    "properties": {"code": {"enum": sorted(_CODES_OF_UNKNOWN_PATHS)}},
}
