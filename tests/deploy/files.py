"""What is in deploy/, read as data, and the few questions several tests ask of it."""

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


def documents(file: Path) -> list[Tree]:
    """Every document of a YAML file."""
    return [each for each in yaml.safe_load_all(file.read_text("utf-8")) if each is not None]


def document(file: Path) -> Tree:
    """The only document of a YAML file."""
    (only,) = documents(file)
    return only


def version() -> str:
    """The version of the distribution, which manifests and image carry too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text: str = project["version"]
    return text


def caddyfile(text: str) -> list[str]:
    """The lines of a Caddyfile that Caddy reads, without `bind`, the gate's address left open."""
    lines = (re.sub(r"(^|\s)#.*", "", line).rstrip() for line in text.splitlines())
    addresses = r"forward_auth (127\.0\.0\.1:7080|unix//run/sidegate/gate\.sock)"
    kept = [re.sub(addresses, "forward_auth GATE", line) for line in lines]
    return [line for line in kept if line and not line.strip().startswith("bind ")]


def settings(
    environ: Mapping[str, str], secrets: Mapping[str, Path], config: Path | None = None
) -> Settings:
    """What Sidegate makes of an environment. `secrets`: files in place of the container's paths.

    SettingsError: it would not start with it.
    """
    return load(config, {name: str(secrets.get(value, value)) for name, value in environ.items()})


_NOISE = re.compile(
    r'"[^"]*"'  # label values
    r"|\{[^}]*\}|\[[^\]]*\]"  # selectors and ranges, once the strings are gone
    r"|\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
)
_WORDS_OF_PROMQL = {"and", "or", "unless", "offset", "bool", "inf", "nan"}


def metrics_asked(expression: str) -> Iterator[str]:
    """Every metric name in a PromQL expression. Names with a colon are recorded by our rules."""
    bare = expression
    for _ in range(3):  # strings, then what they were in
        bare = _NOISE.sub(" ", bare)
    for name in re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", bare):
        if name.lower() not in _WORDS_OF_PROMQL:
            yield name


def labels_asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Every selector in a PromQL expression: the metric, and the labels it is selected by."""
    for name, selector in re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", selector)))
