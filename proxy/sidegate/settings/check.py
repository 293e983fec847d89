"""Validation of the settings: a Settings value, or all validation errors at once."""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from sidegate.core.address import Address
from sidegate.core.errors import SettingsError
from sidegate.core.rules import find_unreachable
from sidegate.settings.header_names import find_equal_names
from sidegate.settings.sections import Settings
from sidegate.settings.sources import RawSettings, SettingPath, read
from sidegate.settings.values import parse_address


def load(config: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the settings of all sources: the variables, below them the file, then the defaults.

    Raise SettingsError with all errors, each as `path: what to do (from source)`.
    """
    return validate(read(config, environ))


def validate(raw: RawSettings) -> Settings:
    """Return the validated settings. Raise SettingsError with all errors in them."""
    errors = [*raw.errors]
    settings = None
    try:
        settings = Settings(**raw.tree)
    except ValidationError as error:
        errors += _describe_errors(error, raw)
    conflicts = [
        *_find_conflicts(raw.tree),
        *_find_slow_touches(settings),
        *_find_equal_rule_names(raw.tree.get("rules")),
        *_find_unreachable_rules(settings),
    ]
    errors += [raw.format_error(path, message) for path, message in conflicts]
    if errors or settings is None:
        raise SettingsError(errors)
    return settings


# By pydantic's error type: its own messages use Python's terms.
_MESSAGES: Final = {
    "tuple_type": 'must be a list; in a variable as JSON, for example \'["one", "two"]\'',
    "model_type": "must be a group of settings; in a variable as a JSON object",
    "model_attributes_type": "must be a group of settings; in a variable as a JSON object",
    "string_type": "must be a text; quote a value that YAML reads as a number or a boolean",
    "missing": "is required",
}


def _describe_errors(error: ValidationError, raw: RawSettings) -> Iterator[str]:
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        path, kind = each["loc"], each["type"]
        if kind == "extra_forbidden":
            message = f"no such setting{_suggest(path)}"
        else:
            message = _MESSAGES.get(kind) or _simplify(each["msg"])
        for line in message.splitlines():
            yield raw.format_error(path, line)


def _simplify(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def _suggest(path: SettingPath) -> str:
    section: Any = Settings
    for key in path[:-1]:
        if isinstance(key, int):
            section = next(iter(get_args(section)), None)  # of the items of a list
        elif _is_group(section):
            section = section.model_fields[key].annotation
        else:
            return ""
    if not _is_group(section):
        return ""
    fields = section.model_fields
    close = get_close_matches(str(path[-1]), fields, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known settings: {', '.join(fields)}"


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


SettingIssue = tuple[SettingPath, str]


def _find_conflicts(tree: Mapping[str, Any]) -> Iterator[SettingIssue]:
    """Yield the conflicts between settings.

    Works on the raw values, so that conflicts are reported together with all other errors. Values
    that are not valid in themselves are skipped.
    """
    get = _build_getter(tree)
    if get("redis_url") and not get("database_url"):
        yield ("redis_url",), "Redis is a cache and needs a database: set database_url as well"
    if get("postgres", "listen_url") and not get("database_url"):
        yield ("postgres", "listen_url"), "needs PostgreSQL: set database_url as well"
    if get("database_url") and not get("token", "keys"):
        yield (
            ("token", "keys"),
            "is required with database_url, the same in every instance: `sidegate key token` "
            "makes one; set SIDEGATE_TOKEN__KEYS, SIDEGATE_TOKEN__KEYS_FILE or token.keys",
        )
    if not _has_credential_source(get):
        yield ("gate",), "no source of credentials: set bearer, cookie, header or another one"
    if get("sso", "providers") and get("database_url") and not get("admin", "keys"):
        yield (
            ("sso", "providers"),
            "providers call the admin listener, which is closed without admin.keys: "
            "`sidegate key new` makes one",
        )
    yield from _find_listener_conflicts(get)
    yield from _find_equal_headers(get)


def _find_slow_touches(settings: Settings | None) -> Iterator[SettingIssue]:
    """Yield the conflict of `touch.interval` with the shortest idle timeout.

    Use is written within a touch threshold and this interval; each of the two, and the lag of what
    is stored, takes at most a third of the idle timeout.
    """
    if settings is None:
        return
    lifetimes = settings.sessions.lifetimes_by_type().values()
    timeouts = [each.idle_timeout for each in lifetimes if each.idle_timeout is not None]
    if timeouts and settings.touch.interval * 3 > min(timeouts):
        yield ("touch", "interval"), "must be at most a third of every idle_timeout"


def _find_unreachable_rules(settings: Settings | None) -> Iterator[SettingIssue]:
    """Yield the conflict of each rule with an earlier one that matches all of its targets."""
    for place, earlier in find_unreachable(() if settings is None else settings.access_rules()):
        yield ("rules", place), f"never applies: rules[{earlier}] matches all that it does"


def _find_equal_rule_names(rules: object) -> Iterator[SettingIssue]:
    """Yield the conflict of each rule with the name of an earlier one: metrics have the names."""
    names: dict[object, int] = {}
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        name = rule.get("name") if isinstance(rule, dict) else None
        if isinstance(name, str) and names.setdefault(name, index) != index:
            yield ("rules", index, "name"), f"is the name of rules[{names[name]}], too"


def _has_credential_source(get: Callable[..., Any]) -> bool:
    switches = {"bearer": True, "basic": False, "websocket_protocol": False}
    return (
        any(not _is_false(get("gate", name, default=value)) for name, value in switches.items())
        or bool(get("gate", "cookie", default="is set"))
        or bool(get("gate", "header"))
    )


def _is_false(value: object) -> bool:
    return str(value).lower() in ("false", "f", "no", "n", "off", "0")


def _build_getter(tree: Mapping[str, Any]) -> Callable[..., Any]:
    def get(*path: str, default: object = None) -> Any:
        value: Any = tree
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                return default
            value = value[key]
        return None if value in ("none", "null", "") else value

    return get


def _find_listener_conflicts(get: Callable[..., Any]) -> Iterator[SettingIssue]:
    defaults = Settings.model_construct()
    listeners: list[tuple[SettingPath, Address]] = []
    for name in ("gate", "admin", "ops"):
        address = get(name, "listen", default=getattr(defaults, name).listen)
        try:
            listeners.append(((name, "listen"), parse_address(address)))
        except ValueError:
            continue  # reported by the validation of the setting itself
    for (path, address), (other_path, other) in combinations(listeners, 2):
        if _is_same_address(address, other):
            yield other_path, f"is the address of {'.'.join(map(str, path))}, too: set another one"


def _find_equal_headers(get: Callable[..., Any]) -> Iterator[SettingIssue]:
    """Yield the conflict of each header that many applications read as another one."""
    identity = Settings.model_construct().gate.identity.model_dump()
    defaults: dict[tuple[str, ...], str | None] = {
        **{("gate", "identity", name): default for name, default in identity.items()},
        ("gate", "header"): None,
        ("binding", "header", "name"): None,
    }
    names = {path: get(*path, default=default) for path, default in defaults.items()}
    texts = [(path, name) for path, name in names.items() if isinstance(name, str)]
    texts.sort(key=lambda each: each[1] != defaults[each[0]])  # the defaults are not to blame
    for path, other in find_equal_names(texts).items():
        yield path, f"is the name of {'.'.join(other)}, too, but for case and separators"


def _is_same_address(one: Address, other: Address) -> bool:
    if one.path is not None or other.path is not None:
        return one.path == other.path
    if one.port != other.port or one.port == 0:
        return False
    return one.host == other.host or one.is_every_interface or other.is_every_interface
