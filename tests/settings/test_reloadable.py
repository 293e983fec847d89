"""Which settings a reload changes: marked where they are declared."""

import json
from typing import Any

from sidegate.settings.show import build_schema
from sidegate.settings.sources import format_path, iter_settings

# A path that ends with a dot is a group, of which all settings are reloadable.
RELOADABLE = (
    "token.keys",
    "gate.trusted_peers",
    "gate.cookie",
    "gate.bearer",
    "gate.basic",
    "gate.websocket_protocol",
    "gate.header",
    "gate.identity.",
    "gate.max_identity",
    "gate.realm",
    "gate.trusted_hops",
    "rules",
    "binding.",
    "admin.hosts",
    "admin.keys",
    "sso.",
    "sessions.",
    "logs.",
    "drain.",
)


def test_reloadable_settings_are_the_listed_ones() -> None:
    settings = {format_path(setting.path): setting.reloadable for setting in iter_settings()}

    for path in RELOADABLE:
        assert any(setting.startswith(path) for setting in settings), path
    assert settings == {path: path.startswith(RELOADABLE) for path in settings}


def test_schema_shows_which_settings_are_reloadable() -> None:
    schema = json.loads(build_schema())

    def marked(properties: dict[str, Any], path: str = "") -> list[str]:
        found = []
        for name, setting in properties.items():
            group = setting.get("$ref", "").rpartition("/")[2]
            if setting.get("reloadable"):
                found.append(f"{path}{name}{'.' if group else ''}")
            elif group:
                found += marked(schema["$defs"][group]["properties"], f"{path}{name}.")
        return found

    assert tuple(marked(schema["properties"])) == RELOADABLE
