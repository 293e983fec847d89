"""docs/reference/configuration.md: every setting, with its comment in config/sidegate.yaml."""

import json
from pathlib import Path
from typing import Final

from reference_pages.markdown import NOTICE, anchor, code, format_value, paragraph, table
from reference_pages.schema_types import Schema, describe, resolve
from reference_pages.yaml_comments import Comments, read_comments
from sidegate.settings.show import build_schema
from sidegate.settings.sources import (
    Setting,
    SettingPath,
    format_path,
    iter_settings,
    variable_name,
)

_INTRODUCTION: Final = """\
# Configuration

Every setting, by section. [`config/sidegate.yaml`](../../config/sidegate.yaml) is a file of all
defaults. `sidegate config check` reports every error at once; `sidegate config show` prints the
settings in force, and where each comes from. `sidegate config schema` prints a JSON Schema for
editors.

{sources}Change: `reload` is applied by SIGHUP ([how](../operations.md)); `restart` is not: a reload
leaves the setting as it is, and names it in the log.

"""
_HEADS: Final = ("setting, variable", "type", "default", "change", "meaning")


def build_page(file: Path) -> str:
    schema = json.loads(build_schema())
    header, comments = read_comments(file.read_text("utf-8"))
    position = {path: number for number, path in enumerate(comments)}
    settings = sorted(iter_settings(), key=lambda setting: position[setting.path])
    page = NOTICE + _INTRODUCTION.format(sources=paragraph(header))
    for group in dict.fromkeys(setting.path[:-1] for setting in settings):
        page += f"## {format_path(group) or 'General'}\n\n"
        if group in comments and comments[group].text:
            page += paragraph(comments[group].text)
        members = [setting for setting in settings if setting.path[:-1] == group]
        page += table(_HEADS, [_build_row(each, schema, comments) for each in members])
        for each in members:
            page += _build_items(each.path, schema, comments)
    return page.rstrip("\n") + "\n"


def _build_row(setting: Setting, schema: Schema, comments: Comments) -> list[str]:
    path, declared = setting.path, _find(schema, setting.path)
    return [
        f"{code(format_path(path))}<br>{code(variable_name(path))}",
        f"[list]({anchor(_heading(path))})" if _items(declared) else _describe(declared, schema),
        code(format_value(declared["default"])),
        "reload" if setting.reloadable else "restart",
        comments[path].text or _explain(path, comments),
    ]


def _build_items(path: SettingPath, schema: Schema, comments: Comments) -> str:
    """Return a table of the members that each object of a list has."""
    item = _items(_find(schema, path))
    if item is None:
        return ""
    members = resolve(item, schema["$defs"])["properties"]
    rows = [
        [
            code(name),
            _describe(member, schema),
            code(format_value(member["default"])) if "default" in member else "required",
            comments[path].items.get(name, ""),
        ]
        for name, member in members.items()
    ]
    return f"### {_heading(path)}\n\n" + table(("member", *_HEADS[1:3], "meaning"), rows)


def _heading(path: SettingPath) -> str:
    return f"Each of {format_path(path)}"


def _items(declared: Schema) -> Schema | None:
    """Return the schema of the objects in a list of them."""
    items: Schema = declared.get("items", {})
    return items if "$ref" in items else None


def _explain(path: SettingPath, comments: Comments) -> str:
    """Return what the comment of a group above says about a setting without a comment."""
    name = str(path[-1])
    groups = (comments[path[:end]] for end in range(len(path) - 1, 0, -1))
    return next((group.items[name] for group in groups if name in group.items), "")


def _describe(declared: Schema, schema: Schema) -> str:
    return describe(declared, schema["$defs"])


def _find(schema: Schema, path: SettingPath) -> Schema:
    found = schema
    for name in path:
        found = resolve(found, schema["$defs"])["properties"][name]
    return found
