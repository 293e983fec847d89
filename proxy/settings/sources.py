"""Where settings come from: a YAML file and `SIDEGATE_*` variables, read into one tree.

A mistake names the setting and its source, never the value: it may be a secret.
"""

import json
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from proxy.settings.sections import NESTING, PREFIX, Settings

# Keys of a path are texts; only in the location of a mistake there are numbers of list items.
SettingPath = tuple[str | int, ...]
Tree = dict[str, Any]

_FILE: Final = "_FILE"

# Kubernetes tells every pod about every service by variables: one that is called `sidegate` or
# `sidegate-admin` looks like ours (SIDEGATE_SERVICE_HOST, SIDEGATE_ADMIN_PORT_7081_TCP_ADDR).
_ORCHESTRATOR: Final = re.compile(
    PREFIX + r"([A-Z0-9_]+_)?(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)"
    r"|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """All that was given, merged; and who gave it. Nothing is checked but where things belong."""

    tree: Tree
    from_file: Tree
    from_variables: Tree
    file: Path | None
    variables: Mapping[SettingPath, str]  # the name of the variable, by what it sets
    mistakes: list[str] = field(default_factory=list)

    def origin(self, path: SettingPath) -> str | None:
        """Return who gave `path`: a variable, the file, for a section perhaps several. None: nobody
        did."""
        if _holds(self.from_variables, path):
            for end in range(len(path), 0, -1):
                if path[:end] in self.variables:
                    return self.variables[path[:end]]
        below = [name for p, name in self.variables.items() if p[: len(path)] == path]
        files = [str(self.file)] if _holds(self.from_file, path) else []
        return ", ".join(files + below) or None

    def mistake(self, path: SettingPath, what: str) -> str:
        """Word a mistake: `gate.listen: what to do (from SIDEGATE_GATE__LISTEN)`."""
        origin = self.origin(path)
        return f"{dotted(path)}: {what}" + (f" (from {origin})" if origin else "")


def read(config: Path | None, environ: Mapping[str, str]) -> Reading:
    """Read both sources. What cannot be read at all is in `mistakes`; the rest is in the tree."""
    mistakes: list[str] = []
    from_file: Tree = _read_yaml(config, mistakes) if config else {}
    variables = _Variables.of(environ, mistakes)
    from_variables: Tree = _Exploded(variables.texts)()
    return Reading(
        tree=_merged(_home(environ), from_file, from_variables),
        from_file=from_file,
        from_variables=from_variables,
        file=config,
        variables=variables.names,
        mistakes=mistakes,
    )


def dotted(path: SettingPath) -> str:
    """Write a path as `admin.keys[0].name`; what cannot be a setting's name is not repeated."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += f".{key if re.fullmatch(r'[A-Za-z0-9_-]{1,40}', key) else '(unreadable)'}"
    return text.lstrip(".")


def _home(environ: Mapping[str, str]) -> Tree:
    """Return the default that depends on the user's surroundings."""
    state = environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path there is invalid and should be ignored.
    return {"data_dir": f"{state}/sidegate"} if state.startswith("/") else {}


def _merged(*trees: Tree) -> Tree:
    """Lay trees over each other; the last one wins."""
    result: Tree = {}
    for tree in trees:
        for key, value in tree.items():
            below = result.get(key)
            if isinstance(below, dict) and isinstance(value, dict):
                value = _merged(below, value)
            result[key] = value
    return result


def _holds(tree: object, path: SettingPath) -> bool:
    for key in path:
        if not isinstance(tree, dict):
            return True  # a list or a text: it holds whatever is wrong in it
        if key not in tree:
            return False
        tree = tree[key]
    return True


# --- the file


class _Twice(yaml.YAMLError):
    """A key stands twice in one mapping, or is not a text."""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML lets the last of two equal keys win; an operator would look at the first for hours."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if not isinstance(key, str) or key in keys[:position]:
                line = node.value[position][0].start_mark.line + 1
                wrong = "stands twice" if isinstance(key, str) else "is not a text: quote it"
                raise _Twice(f"the key in line {line} {wrong}")
        return super().construct_mapping(node, deep)


def _read_yaml(config: Path, mistakes: list[str]) -> Tree:
    try:
        tree = yaml.load(config.read_text("utf-8"), _StrictLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        mistakes.append(f"{config}: cannot be read: {error.strerror}; give --config another file")
    except UnicodeDecodeError:
        mistakes.append(f"{config}: is not UTF-8")
    except _Twice as twice:
        mistakes.append(f"{config}: {twice}")
    except yaml.YAMLError as error:
        # Without PyYAML's own words, which repeat what it stumbled over.
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        mistakes.append(f"{config}: is not YAML{where}; quote what has special characters")
    else:
        if tree is None or isinstance(tree, dict):
            return tree or {}
        mistakes.append(f"{config}: holds no settings; write them as `name: value`")
    return {}


# --- the environment


@dataclass(frozen=True, slots=True)
class _Variables:
    """Our variables: their values (of X_FILE, what the file holds), and which sets what."""

    texts: Mapping[str, str]
    names: Mapping[SettingPath, str]

    @classmethod
    def of(cls, environ: Mapping[str, str], mistakes: list[str]) -> "_Variables":
        texts: dict[str, str] = {}
        names: dict[SettingPath, str] = {}
        for name, value in sorted(_ours(environ)):
            plain = name.removesuffix(_FILE) if _path_of(name) is None else name
            path = _path_of(plain)
            if path is None:
                mistakes.append(f"{name}: no such setting{_meant(name)}")
            elif path in names:
                mistakes.append(f"{dotted(path)}: set {names[path]} or {name}, not both")
            elif (text := _content(value, name, mistakes) if plain != name else value) is not None:
                texts[plain] = text
                names[path] = name
        return cls(texts, names)


def _ours(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what is meant for us. An empty variable is one that is not set: compose files do so."""
    for name, value in environ.items():
        if name.startswith(PREFIX) and value and not _ORCHESTRATOR.fullmatch(name):
            yield name, value


def _path_of(name: str) -> SettingPath | None:
    """Return what a variable of this name sets, or None: there is no such setting."""
    if name != name.upper():
        return None
    path = tuple(name.removeprefix(PREFIX).lower().split(NESTING))
    section: Any = Settings
    for key in path:
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return None
        if key not in section.model_fields:
            return None
        section = section.model_fields[key].annotation
    return path


def _meant(name: str) -> str:
    known = [variable_of(path) for path, _ in leaves(Settings)]
    close = get_close_matches(name.upper(), known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else "; `sidegate config show` lists all"


def _content(path: str, name: str, mistakes: list[str]) -> str | None:
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        mistakes.append(f"{name}: the file it names cannot be read: {error.strerror}")
    except (UnicodeDecodeError, ValueError):
        mistakes.append(f"{name}: the file it names is not text in UTF-8")
    else:
        return text.removesuffix("\n").removesuffix("\r")
    return None


class _Exploded(EnvSettingsSource):
    """Turns SIDEGATE_GATE__LISTEN into {"gate": {"listen": ...}}, and JSON into what it says."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): text for name, text in self._texts.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ARG002
        # What is no JSON stays a text: it is a comma list, or the check says what is wrong.
        if not value.lstrip().startswith(("[", "{")):
            return value
        try:
            return json.loads(value)
        except ValueError:
            return value


def variable_of(path: SettingPath) -> str:
    """Return the name of the variable that sets `path`."""
    return PREFIX + NESTING.join(str(key) for key in path).upper()


def leaves(
    section: type[BaseModel], path: SettingPath = ()
) -> Iterator[tuple[SettingPath, FieldInfo]]:
    """Yield every single setting, in the order of the code."""
    for name, leaf in section.model_fields.items():
        inner: Any = leaf.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, (*path, name))
        else:
            yield (*path, name), leaf
