"""SIGHUP: read the settings again, and apply those that a running process can change, or none.

Everything that can fail is built first. Then handlers, keys and rules are replaced, which cannot.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import reduce
from typing import Any, Final, NoReturn

from sidegate.core.clock import SystemClock
from sidegate.core.errors import SettingsError
from sidegate.observability import logs
from sidegate.runtime.container import Container
from sidegate.runtime.rules_in_force import build_rules
from sidegate.services.rules import Rules
from sidegate.settings import Settings
from sidegate.settings.sources import SettingPath, format_path, iter_settings

ReadSettings = Callable[[], Settings]
"""Reads the settings as a start would. Raises SettingsError if they are wrong."""

PrepareHandlers = Callable[[Settings, Rules], Awaitable[Callable[[], None]]]
"""Builds the handlers for other settings and their rules; returns a function that installs them."""

_log: Final = logging.getLogger("sidegate.reload")


class Reloader:
    """Holds the settings in force."""

    def __init__(
        self,
        settings: Settings,
        container: Container,
        *,
        read_settings: ReadSettings,
        prepare: PrepareHandlers,
    ) -> None:
        self.settings = settings
        self._container = container
        self._read_settings = read_settings
        self._prepare = prepare

    async def run(self, requested: asyncio.Event) -> NoReturn:
        """Reload each time that `requested` is set."""
        while True:
            await requested.wait()
            requested.clear()
            await self.reload()

    async def reload(self) -> None:
        """Read the settings and apply them. An error in them changes nothing."""
        try:
            settings, unchanged = merge_settings(self.settings, self._read_settings())
            check_combination(settings)
            rules = build_rules(settings)
            install_handlers = await self._prepare(settings, rules)
        except Exception as error:  # noqa: BLE001  # whatever it is, the server keeps running
            for line in _error_lines(error):
                _log.error("reload failed", extra={"reason": line})
            self._record(successful=False)
            return
        install_handlers()
        self._container.rules.current = rules
        logs.configure(settings.logs.level, settings.logs.format)
        self.settings = settings
        self._record(successful=True)
        _log.info("reloaded")
        for path in unchanged:
            _log.warning("setting needs a restart", extra={"setting": format_path(path)})

    def _record(self, *, successful: bool) -> None:
        # The time of a metric is the machine's, as is that of the scrape.
        self._container.metrics.record_reload(SystemClock().now(), successful=successful)


def merge_settings(current: Settings, read: Settings) -> tuple[Settings, list[SettingPath]]:
    """Return the current settings with the reloadable changes, and the changes left out."""
    merged = current
    unchanged = []
    for setting in iter_settings():
        value = _get(read, setting.path)
        if value == _get(current, setting.path):
            continue
        if setting.reloadable:
            merged = _replace(merged, setting.path, value=value)
        else:
            unchanged.append(setting.path)
    return merged, unchanged


def check_combination(settings: Settings) -> None:
    """Raise SettingsError if merged settings, each valid before, are wrong together."""
    errors = []
    if settings.database_url is not None and not settings.token.keys:
        errors.append("token.keys: required with database_url, which stays until a restart")
    if errors:
        raise SettingsError(errors)


def _error_lines(error: Exception) -> Iterable[str]:
    """Return what was wrong. The text of an unexpected error is left out: it may hold a secret."""
    if isinstance(error, SettingsError):
        return error.errors
    return [f"unexpected {type(error).__name__}"]


def _get(section: Any, path: SettingPath) -> Any:
    return reduce(getattr, map(str, path), section)


def _replace(section: Any, path: SettingPath, *, value: Any) -> Any:
    """Return a section in which the setting at `path` has this value. It is not validated again."""
    name, rest = str(path[0]), path[1:]
    replaced = _replace(getattr(section, name), rest, value=value) if rest else value
    return section.model_copy(update={name: replaced})
