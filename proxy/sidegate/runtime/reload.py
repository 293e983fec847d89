"""SIGHUP: read the settings again, and apply those that a running process can change, or none.

Everything that can fail is built first. Then handlers, keys and rules are replaced, which cannot.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import reduce
from typing import Any, Final, NoReturn

from sidegate.core.errors import SettingsError
from sidegate.core.token import KeyRing
from sidegate.observability import logs
from sidegate.runtime.container import Container, build_binding, build_sessions, build_validator
from sidegate.services.rotation import Rotation
from sidegate.settings import Settings, read_token_keys
from sidegate.settings.sources import SettingPath, format_path, iter_settings

RELOADABLE: Final[tuple[SettingPath, ...]] = (
    ("token", "keys"),
    ("admin", "hosts"),
    ("admin", "keys"),
    ("binding",),
    ("drain",),
    ("gate", "bearer"),
    ("gate", "cookie"),
    ("gate", "header"),
    ("gate", "identity"),
    ("gate", "realm"),
    ("gate", "trusted_hops"),
    ("gate", "trusted_peers"),
    ("logs",),
    ("sessions",),
    ("sso",),
)
"""The settings that a reload changes. All others need a restart."""

ReadSettings = Callable[[], Settings]
"""Reads the settings as a start would. Raises SettingsError if they are wrong."""

PrepareHandlers = Callable[[Settings, Container], Awaitable[Callable[[], None]]]
"""Builds the request handlers for other settings, and returns a function that installs them."""

_log: Final = logging.getLogger("sidegate.reload")


class Reloader:
    """Holds the settings and the services in force."""

    def __init__(
        self,
        settings: Settings,
        container: Container,
        *,
        read_settings: ReadSettings,
        prepare: PrepareHandlers,
    ) -> None:
        self.settings = settings
        self.container = container
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
            container = apply_settings(settings, self.container)
            install_handlers = await self._prepare(settings, container)
        except Exception as error:  # noqa: BLE001  # whatever it is, the server keeps running
            for line in _error_lines(error):
                _log.error("reload failed", extra={"error": line})
            self._record(successful=False)
            return
        install_handlers()
        container.activity.use_lifetimes(settings.sessions.lifetimes_by_type())
        logs.configure(settings.logs.level, settings.logs.format)
        self.settings, self.container = settings, container
        self._record(successful=True)
        _log.info("reloaded")
        for path in unchanged:
            _log.warning("setting needs a restart", extra={"setting": format_path(path)})

    def _record(self, *, successful: bool) -> None:
        now = self.container.context.clock.now()
        self.container.metrics.record_reload(now, successful=successful)


def merge_settings(current: Settings, read: Settings) -> tuple[Settings, list[SettingPath]]:
    """Return the current settings with the reloadable changes, and the changes left out."""
    changed = [
        path for path, _ in iter_settings(Settings) if _get(current, path) != _get(read, path)
    ]
    for path in changed:
        if _is_reloadable(path):
            current = _replace(current, path, _get(read, path))
    return current, [path for path in changed if not _is_reloadable(path)]


def apply_settings(settings: Settings, container: Container) -> Container:
    """Return a container with the rules of these settings, on the same stores.

    Raise SettingsError if the token keys cannot be read.
    """
    context = replace(
        container.context,
        ring=KeyRing(read_token_keys(settings)),
        lifetimes=settings.sessions.lifetimes_by_type(),
        limits=settings.sessions.limits_by_type(),
    )
    return replace(
        container,
        context=context,
        sessions=build_sessions(settings, context),
        rotation=Rotation(context),
        validator=build_validator(settings, context, container.lookup, container.activity),
        binding=build_binding(settings, container.metrics, container.background_revoker),
    )


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


def _is_reloadable(path: SettingPath) -> bool:
    return any(path[: len(prefix)] == prefix for prefix in RELOADABLE)


def _get(section: Any, path: SettingPath) -> Any:
    return reduce(getattr, map(str, path), section)


def _replace(section: Any, path: SettingPath, value: Any) -> Any:
    """Return a section in which the setting at `path` has this value. It is not validated again."""
    name, rest = str(path[0]), path[1:]
    replaced = _replace(getattr(section, name), rest, value) if rest else value
    return section.model_copy(update={name: replaced})
