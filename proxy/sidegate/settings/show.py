"""Output for operators: the effective settings with their sources, and the JSON Schema."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from sidegate.settings.check import validate
from sidegate.settings.sections import Settings
from sidegate.settings.sources import RawSettings, SettingPath, read


def render_settings(config: Path | None, environ: Mapping[str, str]) -> str:
    """Return the effective settings as YAML: secrets masked, each with its source in a comment.

    Raise SettingsError if they are not valid.
    """
    raw = read(config, environ)
    effective = validate(raw).model_dump(mode="json")
    return "\n".join(_render_lines(effective, (), raw=raw)) + "\n"


def _render_lines(
    section: Mapping[str, Any], path: SettingPath, *, raw: RawSettings
) -> Iterator[str]:
    indent = "  " * len(path)
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _render_lines(value, (*path, name), raw=raw)
        else:
            line = f"{indent}{name}: {_render_inline(value)}"
            yield f"{line:<48}  # {raw.origin((*path, name)) or 'default'}"


def _render_inline(value: object) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def build_schema() -> str:
    """Return the JSON Schema of the settings file, for editors and for checks in a pipeline."""
    schema = Settings.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    schema["title"] = "Sidegate settings"
    for section in _iter_sections(Settings):
        # Defaults in the format of the file instead of pydantic's.
        properties = schema["$defs"][section.__name__]["properties"]
        for name, value in section.model_construct().model_dump(mode="json").items():
            if "$ref" not in properties[name]:
                properties[name]["default"] = value
    for properties in (schema["properties"], *_iter_properties(schema["$defs"])):
        for setting in properties.values():
            setting.pop("title", None)
            if "$ref" in setting:
                setting.pop("default", None)
    return json.dumps(schema, indent=2) + "\n"


def _iter_sections(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield the classes of all groups below a section, and of the items of lists."""
    for field in section.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield inner
                yield from _iter_sections(inner)


def _iter_properties(definitions: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for definition in definitions.values():
        yield definition["properties"]
