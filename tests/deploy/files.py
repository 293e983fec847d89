"""Read the files in deploy/ as data."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sidegate.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

Tree = dict[str, Any]


def read_documents(file: Path) -> list[Tree]:
    """Return every document of a YAML file."""
    return [each for each in yaml.safe_load_all(file.read_text("utf-8")) if each is not None]


def read_document(file: Path) -> Tree:
    """Return the only document of a YAML file."""
    (only,) = read_documents(file)
    return only


def read_version() -> str:
    """Return the version of the distribution, which manifests and image have, too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text: str = project["version"]
    return text


def load_settings(
    environ: Mapping[str, str], secrets: Mapping[str, Path], config: Path | None = None
) -> Settings:
    """Return the settings of an environment. `secrets` are files in place of container paths.

    Raise SettingsError if Sidegate would not start.
    """
    return load(config, {name: str(secrets.get(value, value)) for name, value in environ.items()})


_NOISE = re.compile(
    r'"[^"]*"'  # label values
    r"|\{[^}]*\}|\[[^\]]*\]"  # selectors and ranges, once the strings are gone
    r"|\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
)
_PROMQL_KEYWORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}


def find_metrics(expression: str) -> Iterator[str]:
    """Yield every metric name in a PromQL expression. Names with a colon are recording rules."""
    bare = expression
    for _ in range(3):  # strings, then the selectors that contained them
        bare = _NOISE.sub(" ", bare)
    for name in re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", bare):
        if name.lower() not in _PROMQL_KEYWORDS:
            yield name


def find_selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield every selector in a PromQL expression: the metric, and the selected labels."""
    for name, selector in re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", selector)))
