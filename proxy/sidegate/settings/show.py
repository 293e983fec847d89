"""Settings as the operator wants to see them: the effective ones with their origin; the schema."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from sidegate.settings.check import checked
from sidegate.settings.sections import Settings
from sidegate.settings.sources import Reading, SettingPath, read


def shown(config: Path | None, environ: Mapping[str, str]) -> str:
    """Return the effective settings as YAML: secrets masked, each with where it came from.

    SettingsError: they are wrong.
    """
    reading = read(config, environ)
    effective = checked(reading).model_dump(mode="json")
    return "\n".join(_lines(effective, (), reading)) + "\n"


def _lines(section: Mapping[str, Any], path: SettingPath, reading: Reading) -> Iterator[str]:
    indent = "  " * len(path)
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _lines(value, (*path, name), reading)
        else:
            line = f"{indent}{name}: {_inline(value)}"
            yield f"{line:<48}  # {reading.origin((*path, name)) or 'default'}"


def _inline(value: object) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def schema() -> str:
    """Return the JSON Schema of the settings file, for editors and for checks in a pipeline."""
    described = Settings.model_json_schema()
    described = {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}
    described["title"] = "Sidegate settings"
    for section in _sections(Settings):
        # pydantic writes defaults in its own spelling; a file has ours.
        properties = described["$defs"][section.__name__]["properties"]
        for name, value in section().model_dump(mode="json").items():
            if "$ref" not in properties[name]:
                properties[name]["default"] = value
    for properties in (described["properties"], *_properties(described["$defs"])):
        for leaf in properties.values():
            leaf.pop("title", None)
            if "$ref" in leaf:
                leaf.pop("default", None)
    return json.dumps(described, indent=2) + "\n"


def _sections(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for leaf in section.model_fields.values():
        inner: Any = leaf.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield inner
            yield from _sections(inner)


def _properties(definitions: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for definition in definitions.values():
        yield definition["properties"]
