"""Where settings come from: a YAML file and `SIDEGATE_*` variables, read into one tree.

A mistake names the setting and its source, never the value: it may be a secret.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, cast, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sidegate.settings.sections import NESTING, PREFIX, Settings

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
    from_file: Tree = _read_file(config, mistakes) if config else {}
    variables = _Variables.of(environ, mistakes)
    from_variables = variables.tree()
    return Reading(
        tree=_merged(_home(environ), from_file, from_variables),
        from_file=from_file,
        from_variables=from_variables,
        file=config,
        variables=variables.names,
        mistakes=mistakes,
    )


def _read_file(config: Path, mistakes: list[str]) -> Tree:
    from sidegate.settings.yaml_file import read_yaml  # a megabyte, for those who have a file

    return read_yaml(config, mistakes)


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

    def tree(self) -> Tree:
        """Return what they say: a group's own variable first, those of its parts lie over it."""
        tree: Tree = {}
        for path in sorted(self.names, key=len):
            text = self.texts[variable_of(path)]
            tree = _merged(tree, _branch(path, _decoded(path, text)))
        return tree


def _branch(path: SettingPath, value: object) -> Tree:
    """Return the tree with nothing in it but this."""
    for key in reversed(path):
        value = {key: value}
    return cast("Tree", value)


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
    return None if _kind_of(path) is None else path


def _kind_of(path: SettingPath) -> Any:
    """Return the type of a setting or group. None: there is no such setting."""
    kind: Any = Settings
    for key in path:
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        if key not in kind.model_fields:
            return None
        kind = kind.model_fields[str(key)].annotation
    return kind


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


def _decoded(path: SettingPath, text: str) -> object:
    """Return what a variable says. What is no JSON stays a text: the check says what is wrong."""
    if _is_plain(path) or not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _is_plain(path: SettingPath) -> bool:
    """Say whether a setting is neither a group nor a list, whatever its text looks like."""
    kind = _kind_of(path)
    is_group = isinstance(kind, type) and issubclass(kind, BaseModel)
    return not is_group and get_origin(kind) is not tuple


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
