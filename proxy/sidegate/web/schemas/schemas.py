"""The JSON Schemas of payloads, documents and fields, for the OpenAPI document."""

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

Schema = dict[str, Any]


class Schemas:
    """Makes schemas. What has a name of its own is in `named`, and referred to."""

    def __init__(self) -> None:
        self.named: dict[str, Schema] = {}
        self._made: list[tuple[Any, Schema]] = []

    def of(self, kind: Any) -> Schema:
        """Return the schema of a type pydantic can read. ValueError: another one has its name."""
        for known, schema in self._made:  # few, and not all of them can be hashed
            if known is kind:
                return schema
        schema = self._make(kind)
        self._made.append((kind, schema))
        return schema

    def _make(self, kind: Any) -> Schema:
        made, rest = TypeAdapter.json_schemas(
            [("it", "validation", TypeAdapter(kind))],
            ref_template="#/components/schemas/{model}",
            schema_generator=_Named,
        )
        for name, named in rest.get("$defs", {}).items():
            named.pop("title", None)  # the class's, which is the name once more
            if self.named.setdefault(name, named) != named:
                raise ValueError(f"two schemas share the name {name}")
        schema: Schema = made["it", "validation"]
        return schema


class _Named(GenerateJsonSchema):
    """Without titles that repeat the names, and with names that say what it is, not which way."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  # pydantic's
        return False

    def normalize_name(self, name: str) -> str:
        return super().normalize_name(name).removesuffix("Document").removesuffix("Payload")
