"""JSON Schemas of payloads, documents and fields, for the OpenAPI document."""

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

Schema = dict[str, Any]


class SchemaRegistry:
    """Generates schemas. Named ones are collected in `components`, and referenced."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}
        self._generated: list[tuple[Any, Schema]] = []

    def schema_for(self, kind: Any) -> Schema:
        """Return the schema of a type known to pydantic.

        Raise ValueError if a different schema has the same name.
        """
        for known, schema in self._generated:  # a list: some types are not hashable
            if known is kind:
                return schema
        schema = self._generate(kind)
        self._generated.append((kind, schema))
        return schema

    def _generate(self, kind: Any) -> Schema:
        schemas, definitions = TypeAdapter.json_schemas(
            [("root", "validation", TypeAdapter(kind))],
            ref_template="#/components/schemas/{model}",
            schema_generator=_SchemaGenerator,
        )
        for name, component in definitions.get("$defs", {}).items():
            component.pop("title", None)  # repeats the name
            if self.components.setdefault(name, component) != component:
                raise ValueError(f"two schemas share the name {name}")
        schema: Schema = schemas["root", "validation"]
        return schema


class _SchemaGenerator(GenerateJsonSchema):
    """Omits member titles, and drops the suffixes `Document` and `Payload` from schema names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  # pydantic's
        return False

    def normalize_name(self, name: str) -> str:
        return super().normalize_name(name).removesuffix("Document").removesuffix("Payload")
