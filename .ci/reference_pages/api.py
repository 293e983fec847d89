"""docs/reference/api.md: the admin API, from its OpenAPI document."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from reference_pages.markdown import (
    NOTICE,
    anchor,
    code,
    codes,
    format_value,
    object_heading,
    paragraph,
    table,
)
from reference_pages.schema_types import Schema, describe, name_of_object, resolve
from sidegate.web.admin.openapi import build_document
from sidegate.web.admin.routes import ROUTES
from sidegate.web.schemas.problems import PROBLEM_CODES

_INTRODUCTION: Final = """\
# Admin API reference

Every operation, from the OpenAPI document (`sidegate openapi`). [Admin API](../admin-api.md)
explains them, with examples.

"""
_PROBLEMS: Final = """\
An error is a [Problem](#problem-object); its `code` says what to do. Above, the codes that many
operations have in common are left out:

"""
_TITLES: Final = {"oauth2": "OAuth 2", "document": "OpenAPI document"}

Operation = Mapping[str, Any]

# What operations have in common that answer the same codes.
_KINDS: Final[Mapping[str, Callable[[Operation], bool]]] = {
    "all": lambda _: True,
    "all that need a scope": lambda operation: _scope(operation).startswith("`"),
    "all but `GET`": lambda operation: not operation["request"].startswith("GET "),
    "all with a body": lambda operation: bool(_body(operation)),
    "all with a JSON body": lambda operation: "application/json" in _body(operation),
    "all with a form": lambda operation: "application/x-www-form-urlencoded" in _body(operation),
}


def build_page() -> str:
    document = build_document(ROUTES)
    definitions: Mapping[str, Schema] = document["components"]["schemas"]
    operations = list(_iter_operations(document))
    common = _find_common_codes(operations)
    page = NOTICE + _INTRODUCTION + paragraph(document["info"]["description"])
    page += table(("operation", "scope", "summary"), map(_build_summary, operations))
    for tag in document["tags"]:
        title = _TITLES.get(tag["name"], tag["name"].capitalize())
        page += f"## {title}\n\n" + paragraph(tag["description"])
        for operation in operations:
            if tag["name"] in operation["tags"]:
                page += _build_operation(operation, definitions, common)
    page += "## Problem codes\n\n" + _PROBLEMS
    page += table(("operations", "codes"), [[kind, codes(common[kind])] for kind in common])
    rows = [[str(status), code(name), text] for name, (status, text) in PROBLEM_CODES.items()]
    page += table(("status", "code", "meaning"), rows)
    page += "## Objects\n\n"
    for name in _iter_documents(operations, definitions):
        page += _build_document(name, definitions)
    return page.rstrip("\n") + "\n"


def _iter_operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    """Yield each operation with its method and path, and with references to responses resolved."""
    shared = document["components"]["responses"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            responses = {
                status: shared[response["$ref"].rpartition("/")[2]]
                if "$ref" in response
                else response
                for status, response in operation["responses"].items()
            }
            yield {**operation, "request": f"{method.upper()} {path}", "responses": responses}


def _find_common_codes(operations: Iterable[Operation]) -> Mapping[str, list[str]]:
    """Return the codes that all operations of a kind have, without those of the kinds before."""
    common: dict[str, list[str]] = {}
    found: set[str] = set()
    for kind, is_one in _KINDS.items():
        shared = set.intersection(*(set(_problem_codes(op)) for op in operations if is_one(op)))
        common[kind] = sorted(shared - found)
        found |= shared
    return common


def _problem_codes(operation: Operation) -> list[str]:
    return [name for response in operation["responses"].values() for name in _codes_of(response)]


def _codes_of(response: Schema) -> list[str]:
    problem = response.get("content", {}).get("application/problem+json")
    names: list[str] = problem["schema"]["properties"]["code"]["enum"] if problem else []
    return names


def _build_summary(operation: Operation) -> list[str]:
    request = operation["request"]
    return [f"[{code(request)}]({anchor(request)})", _scope(operation), operation["summary"]]


def _body(operation: Operation) -> Mapping[str, Any]:
    """Return the content of the request body by media type."""
    content: Mapping[str, Any] = operation.get("requestBody", {}).get("content", {})
    return content


def _scope(operation: Operation) -> str:
    if not operation["security"]:
        return "none, and no key"
    scopes = operation["security"][0]["apiKey"]
    return code(scopes[0]) if scopes else "any key"


def _build_operation(
    operation: Operation, definitions: Mapping[str, Schema], common: Mapping[str, list[str]]
) -> str:
    omitted = {name for kind in common if _KINDS[kind](operation) for name in common[kind]}
    further = [name for name in _problem_codes(operation) if name not in omitted]
    text = f"### {operation['request']}\n\n"
    text += f"Scope: {_scope(operation)}. Operation id: {code(operation['operationId'])}.\n\n"
    text += paragraph(f"{operation['summary']} {operation.get('description', '')}")
    if members := list(_request_members(operation, definitions)):
        text += table(("request", "in", "type", "default", "meaning"), members)
    text += table(("response", "body", "meaning"), _responses(operation, definitions))
    return text + (f"Problem codes: {codes(further)}.\n\n" if further else "")


def _request_members(
    operation: Operation, definitions: Mapping[str, Schema]
) -> Iterator[list[str]]:
    for each in operation.get("parameters", ()):
        yield _build_member(
            each["name"],
            each["in"],
            each["schema"] | {"description": each["description"]},
            required=each["required"],
            definitions=definitions,
        )
    for media_type, content in _body(operation).items():
        place = "form" if "form" in media_type else "body"
        schema = resolve(content["schema"], definitions)
        for name, member in schema["properties"].items():
            required = name in schema.get("required", ())
            yield _build_member(name, place, member, required=required, definitions=definitions)


def _build_member(
    name: str, place: str, schema: Schema, *, required: bool, definitions: Mapping[str, Schema]
) -> list[str]:
    default = schema.get("default")
    return [
        code(name),
        place,
        describe(schema, definitions),
        "required" if required else "" if default in (None, "") else code(format_value(default)),
        schema.get("description", ""),
    ]


def _responses(operation: Operation, definitions: Mapping[str, Schema]) -> Iterator[list[str]]:
    """Yield a row for each response that is not only a problem."""
    for status, response in operation["responses"].items():
        bodies = [
            describe(content["schema"], definitions)
            for media_type, content in response.get("content", {}).items()
            if media_type != "application/problem+json"
        ]
        if bodies or not _codes_of(response):
            yield [
                status,
                ", ".join(bodies) or "empty",
                response["description"].partition("\n\nOr:")[0],
            ]


def _iter_documents(
    operations: Iterable[Operation], definitions: Mapping[str, Schema]
) -> Iterator[str]:
    """Yield the names of all objects but those whose members an operation lists."""
    listed = {
        name_of_object(content["schema"], definitions)
        for operation in operations
        for content in _body(operation).values()
    }
    for name, schema in definitions.items():
        if "properties" in schema and name not in listed:
            yield name


def _build_document(name: str, definitions: Mapping[str, Schema]) -> str:
    schema = definitions[name]
    text = f"### {object_heading(name)}\n\n"
    if description := schema.get("description"):
        text += paragraph(description)
    rows = [
        [
            code(member),
            describe(each, definitions),
            "" if member in schema.get("required", ()) else "optional",
            each.get("description", ""),
        ]
        for member, each in schema["properties"].items()
    ]
    return text + table(("member", "type", "", "meaning"), rows)
