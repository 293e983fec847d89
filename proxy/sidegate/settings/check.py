"""From a reading to settings, or to a list of every mistake in it."""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from sidegate.core.address import Address
from sidegate.core.errors import SettingsError
from sidegate.settings.sections import Settings
from sidegate.settings.sources import Reading, SettingPath, read
from sidegate.settings.values import read_address


def load(config: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the settings: defaults, over them the file, over that the variables.

    SettingsError lists all mistakes at once, each as `path: what to do (from where)`.
    """
    return checked(read(config, environ))


def checked(reading: Reading) -> Settings:
    """Return what a reading says. SettingsError: all that is wrong with it."""
    mistakes = [*reading.mistakes]
    settings = None
    try:
        settings = Settings(**reading.tree)
    except ValidationError as error:
        mistakes += _in_words(error, reading)
    for path, what in _between_settings(reading.tree):
        mistakes.append(reading.mistake(path, what))
    if mistakes or settings is None:
        raise SettingsError(mistakes)
    return settings


# pydantic's words for these would name its own world, not the operator's.
_WORDS: Final = {
    "tuple_type": 'write a list; in a variable as JSON, as in \'["one", "two"]\'',
    "model_type": "write a group of settings; in a variable as a JSON object",
    "model_attributes_type": "write a group of settings; in a variable as a JSON object",
    "string_type": "write a text; quote it if it looks like something else",
    "missing": "is required",
}


def _in_words(error: ValidationError, reading: Reading) -> Iterator[str]:
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        path, kind = each["loc"], each["type"]
        if kind == "extra_forbidden":
            what = f"no such setting{_meant(path)}"
        else:
            what = _WORDS.get(kind) or _plain(each["msg"])
        yield reading.mistake(path, what)


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "should be")


def _meant(path: SettingPath) -> str:
    section: Any = Settings
    for key in path[:-1]:
        if isinstance(key, int):
            return ""
        section = section.model_fields[key].annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return ""
    close = get_close_matches(str(path[-1]), section.model_fields, n=1)
    return (
        f"; did you mean {close[0]}?" if close else f"; here are {', '.join(section.model_fields)}"
    )


SettingIssue = tuple[SettingPath, str]


def _between_settings(tree: Mapping[str, Any]) -> Iterator[SettingIssue]:
    """Yield what is wrong between settings. Works on what was given, so that it is said at once
    with all the rest, and passes over what is wrong in itself."""
    given = _reader(tree)
    if given("redis_url") and not given("database_url"):
        yield (
            ("redis_url",),
            "Redis alone is not the truth, it may forget: set database_url as well",
        )
    if given("postgres", "listen_url") and not given("database_url"):
        yield ("postgres", "listen_url"), "there is nothing to hear of: set database_url as well"
    if given("database_url") and not given("token", "keys"):
        yield (
            ("token", "keys"),
            "is required with database_url, the same in every instance: `sidegate key token` "
            "makes one; set SIDEGATE_TOKEN__KEYS, SIDEGATE_TOKEN__KEYS_FILE or token.keys",
        )
    cookie = given("gate", "cookie", default="is set")
    if _is_off(given("gate", "bearer", default=True)) and not (cookie or given("gate", "header")):
        yield ("gate",), "no credential is read: set bearer, cookie or header"
    if given("sso", "providers") and given("database_url") and not given("admin", "keys"):
        yield (
            ("sso", "providers"),
            "the admin door, where providers call, stays shut without admin.keys: "
            "`sidegate key new` makes one",
        )
    yield from _clashes(given)


def _is_off(switch: object) -> bool:
    return str(switch).lower() in ("false", "f", "no", "n", "off", "0")


def _reader(tree: Mapping[str, Any]) -> Callable[..., Any]:
    def given(*path: str, default: object = None) -> Any:
        value: Any = tree
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                return default
            value = value[key]
        return None if value in ("none", "null", "") else value

    return given


def _clashes(given: Callable[..., Any]) -> Iterator[SettingIssue]:
    defaults = Settings.model_construct()
    listeners: list[tuple[SettingPath, Address]] = []
    for name in ("gate", "admin", "ops"):
        address = given(name, "listen", default=getattr(defaults, name).listen)
        try:
            listeners.append(((name, "listen"), read_address(address)))
        except ValueError:
            continue  # said already
    for (path, address), (other_path, other) in combinations(listeners, 2):
        if _clash(address, other):
            yield other_path, f"listens where {'.'.join(map(str, path))} does: give each its own"


def _clash(one: Address, other: Address) -> bool:
    if one.path is not None or other.path is not None:
        return one.path == other.path
    if one.port != other.port or one.port == 0:
        return False
    everywhere = {"", "0.0.0.0", "::"}  # noqa: S104 - compared with, not bound to
    return one.host == other.host or bool({one.host, other.host} & everywhere)
