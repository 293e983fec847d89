"""The sources of settings: a YAML file and `SIDEGATE_*` variables, read into one tree.

An error has the setting and its source, never the value, which may be a secret.
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

# Path of a setting. Only the path of an error has integers: the indexes of list items.
SettingPath = tuple[str | int, ...]
Tree = dict[str, Any]

_FILE: Final = "_FILE"

CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
"""Names the settings file where no command-line option does."""

DEFAULT_CONFIG: Final = Path("/etc/sidegate/sidegate.yaml")
"""The settings file where nothing names one, if there is such a file."""

# Kubernetes sets variables for each service in every pod. Those of a service named `sidegate` or
# `sidegate-admin` have our prefix (SIDEGATE_SERVICE_HOST, SIDEGATE_ADMIN_PORT_7081_TCP_ADDR).
_ORCHESTRATOR: Final = re.compile(
    PREFIX + r"([A-Z0-9_]+_)?(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)"
    r"|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


@dataclass(frozen=True, slots=True)
class RawSettings:
    """The merged raw values of all sources, not validated, and the source of each.

    `variables` is the name of the variable by the path it sets. `errors` are the errors of reading.
    """

    tree: Tree
    from_file: Tree
    from_variables: Tree
    file: Path | None
    variables: Mapping[SettingPath, str]
    errors: list[str] = field(default_factory=list)

    def origin(self, path: SettingPath) -> str | None:
        """Return the sources of `path`, separated by commas, or None for a default.

        A source is a variable's name or the file's path. A section may have several.
        """
        if _contains(self.from_variables, path):
            for end in range(len(path), 0, -1):
                if path[:end] in self.variables:
                    return self.variables[path[:end]]
        below = [name for p, name in self.variables.items() if p[: len(path)] == path]
        files = [str(self.file)] if _contains(self.from_file, path) else []
        return ", ".join(files + below) or None

    def format_error(self, path: SettingPath, message: str) -> str:
        """Return `gate.listen: message (from SIDEGATE_GATE__LISTEN)`."""
        origin = self.origin(path)
        return f"{format_path(path)}: {message}" + (f" (from {origin})" if origin else "")


def find_config(
    config: Path | None, environ: Mapping[str, str], *, default: Path = DEFAULT_CONFIG
) -> Path | None:
    """Return the settings file: `config`, that of SIDEGATE_CONFIG, or the default; or None.

    The same for the server and for every command, so that all of them use the same stores.
    """
    if config is not None:
        return config
    if environ.get(CONFIG_VARIABLE):
        return Path(environ[CONFIG_VARIABLE])
    try:
        default.stat()
    except FileNotFoundError:
        return None
    except OSError:
        pass  # there may be one: reading it reports why it cannot be read
    return default


def read(config: Path | None, environ: Mapping[str, str]) -> RawSettings:
    """Read both sources. What cannot be read is in `errors`, the rest in `tree`."""
    errors: list[str] = []
    config = find_config(config, environ)
    from_file: Tree = _read_file(config, errors) if config else {}
    variables = _Variables.read(environ, errors)
    from_variables = variables.tree()
    return RawSettings(
        tree=_merge(_xdg_defaults(environ), from_file, from_variables),
        from_file=from_file,
        from_variables=from_variables,
        file=config,
        variables=variables.names,
        errors=errors,
    )


def _read_file(config: Path, errors: list[str]) -> Tree:
    from sidegate.settings.yaml_file import read_yaml  # takes 1 MB, only if there is a file

    return read_yaml(config, errors)


def format_path(path: SettingPath) -> str:
    """Format a path as `admin.keys[0].name`. A key that is not a name may be a secret: omit it."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += f".{key if re.fullmatch(r'[A-Za-z0-9_-]{1,40}', key) else '(unreadable)'}"
    return text.lstrip(".")


def _xdg_defaults(environ: Mapping[str, str]) -> Tree:
    """Return the defaults that depend on the XDG base directories."""
    state = environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path there is invalid and should be ignored.
    return {"data_dir": f"{state}/sidegate"} if state.startswith("/") else {}


def _merge(*trees: Tree) -> Tree:
    """Merge trees; later ones take precedence."""
    result: Tree = {}
    for tree in trees:
        for key, value in tree.items():
            below = result.get(key)
            if isinstance(below, dict) and isinstance(value, dict):
                value = _merge(below, value)
            result[key] = value
    return result


def _contains(tree: object, path: SettingPath) -> bool:
    for key in path:
        if not isinstance(tree, dict):
            return True  # a list or a text contains the location of every error in it
        if key not in tree:
            return False
        tree = tree[key]
    return True


# --- the environment


@dataclass(frozen=True, slots=True)
class _Variables:
    """The SIDEGATE_* variables: their texts (for X_FILE, the file's), and their names by path."""

    texts: Mapping[str, str]
    names: Mapping[SettingPath, str]

    @classmethod
    def read(cls, environ: Mapping[str, str], errors: list[str]) -> "_Variables":
        texts: dict[str, str] = {}
        names: dict[SettingPath, str] = {}
        for name, value in sorted(_select_variables(environ)):
            plain = name.removesuffix(_FILE) if _parse_name(name) is None else name
            path = _parse_name(plain)
            if path is None:
                errors.append(f"{name}: no such setting{_suggest(name)}")
            elif path in names:
                errors.append(f"{format_path(path)}: set {names[path]} or {name}, not both")
            else:
                text = value if plain == name else _read_value_file(value, name, errors=errors)
                if text is not None:
                    texts[plain] = text
                    names[path] = name
        return cls(texts, names)

    def tree(self) -> Tree:
        """Return the tree of all values. A setting's variable takes precedence over its group's."""
        tree: Tree = {}
        for path in sorted(self.names, key=len):
            text = self.texts[variable_name(path)]
            tree = _merge(tree, _nest(path, _decode(path, text)))
        return tree


def _nest(path: SettingPath, value: object) -> Tree:
    """Return the tree that has only this value."""
    for key in reversed(path):
        value = {key: value}
    return cast("Tree", value)


def _select_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield Sidegate's variables. Empty ones count as not set: Compose files produce them."""
    for name, value in environ.items():
        if not name.startswith(PREFIX) or not value or name == CONFIG_VARIABLE:
            continue
        if not _ORCHESTRATOR.fullmatch(name):
            yield name, value


def _parse_name(name: str) -> SettingPath | None:
    """Return the path that a variable of this name sets, or None if there is no such setting."""
    if name != name.upper():
        return None
    path = tuple(name.removeprefix(PREFIX).lower().split(NESTING))
    return None if _type_of(path) is None else path


def _type_of(path: SettingPath) -> Any:
    """Return the type of a setting or group, or None if there is no such setting."""
    kind: Any = Settings
    for key in path:
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        if key not in kind.model_fields:
            return None
        kind = kind.model_fields[str(key)].annotation
    return kind


def _suggest(name: str) -> str:
    known = [variable_name(setting.path) for setting in iter_settings()]
    close = get_close_matches(name.upper(), known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else "; `sidegate config show` lists all"


def _read_value_file(path: str, name: str, *, errors: list[str]) -> str | None:
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        errors.append(f"{name}: the file cannot be read: {error.strerror}")
    except (UnicodeDecodeError, ValueError):
        errors.append(f"{name}: the file is not UTF-8 text")
    else:
        return text.removesuffix("\n").removesuffix("\r")
    return None


def _decode(path: SettingPath, text: str) -> object:
    """Return a variable's value. Invalid JSON stays a text, which validation rejects."""
    if _is_scalar(path) or not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _is_scalar(path: SettingPath) -> bool:
    """Return whether a setting is neither a group nor a list, so that it is never JSON."""
    kind = _type_of(path)
    is_group = isinstance(kind, type) and issubclass(kind, BaseModel)
    return not is_group and get_origin(kind) is not tuple


def variable_name(path: SettingPath) -> str:
    """Return the name of the variable that sets `path`."""
    return PREFIX + NESTING.join(str(key) for key in path).upper()


@dataclass(frozen=True, slots=True)
class Setting:
    """The path of a setting, and whether a reload changes it; if not, it needs a restart."""

    path: SettingPath
    reloadable: bool


def iter_settings() -> Iterator[Setting]:
    """Yield every setting, groups excluded, in declaration order."""
    return _iter_section(Setting((), reloadable=False), Settings)


def _iter_section(group: Setting, section: type[BaseModel]) -> Iterator[Setting]:
    for name, info in section.model_fields.items():
        inner: Any = info.annotation
        setting = Setting((*group.path, name), group.reloadable or _is_reloadable(info))
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _iter_section(setting, inner)
        else:
            yield setting


def _is_reloadable(info: FieldInfo) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and extra.get("reloadable") is True
