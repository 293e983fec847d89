"""A type of JSON Schema, in a few words."""

from collections.abc import Mapping
from typing import Any, Final

from reference_pages.markdown import anchor, code, codes, format_value, object_heading

Schema = Mapping[str, Any]

# By the beginning of the description of a setting's type (settings/values.py).
_KINDS: Final = {
    "A duration": "duration",
    "A file mode": "file mode",
    "A size": "size",
    "An address": "address",
}
_FORMATS: Final = {
    "date-time": "time",
    "ipv4": "IP address",
    "ipv6": "IP address",
    "ipv4network": "network",
    "ipv6network": "network",
    "path": "path",
    "uri": "URL",
    "uuid": "UUID",
}


def resolve(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Follow a reference. What stands beside it takes precedence."""
    if "$ref" not in schema:
        return schema
    return {**definitions[schema["$ref"].rpartition("/")[2]], **schema}


def name_of_object(schema: Schema, definitions: Mapping[str, Schema]) -> str | None:
    """Return the name of a referenced schema that has members of its own."""
    return (
        schema["$ref"].rpartition("/")[2]
        if "$ref" in schema and "properties" in resolve(schema, definitions)
        else None
    )


def describe(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """Return the type: `duration`, `integer, 1 to 64`, `text, up to 128 characters or null`."""
    if name := name_of_object(schema, definitions):
        return f"[{name}]({anchor(object_heading(name))})"
    schema = resolve(schema, definitions)
    if "const" in schema:
        return code(format_value(schema["const"]))
    if "enum" in schema:
        return codes(schema["enum"])
    if kind := _KINDS.get(schema.get("description", "").partition(":")[0]):
        return kind
    if "format" in schema:
        return ("secret " if schema.get("writeOnly") else "") + _FORMATS[schema["format"]]
    if "anyOf" in schema:
        return _describe_union(schema, definitions)
    match schema.get("type"):
        case "array":
            return f"list of {describe(schema['items'], definitions)}"
        case "integer":
            return "integer" + _describe_range(schema, "minimum", "maximum")
        case "string":
            return "text" + _describe_range(schema, "minLength", "maxLength", " characters")
        case kind:
            return kind or ""


def _describe_union(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    kinds = [kind for each in schema["anyOf"] if (kind := describe(each, definitions))]
    if kinds[:2] == ["list of text", "text"]:
        kinds[:2] = ["list"]  # or a text that is split at commas
    return " or ".join(dict.fromkeys(kinds))


def _describe_range(schema: Schema, least: str, most: str, unit: str = "") -> str:
    low, high = schema.get(least), schema.get(most)
    if high is None:
        return "" if low is None or unit else f", at least {low:,}"
    if low is None:
        return f", up to {high:,}{unit}"
    return f", {low:,} to {high:,}{unit}"
