"""SIGHUP: the settings are read again, and what can be changed while running is; all or nothing.

Everything that may fail is made first. Then doors, keys and rules are exchanged, which cannot.
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
from sidegate.settings import Settings, token_keys
from sidegate.settings.sources import SettingPath, dotted, leaves

RELOADED: Final[tuple[SettingPath, ...]] = (
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
"""What a reload changes. All else is built into what runs, and takes a restart."""

Read = Callable[[], Settings]
"""Reads the settings as a start would. SettingsError: they are wrong."""

Prepare = Callable[[Settings, Container], Awaitable[Callable[[], None]]]
"""Makes what answers behind the doors under other settings, and returns what exchanges it."""

_log: Final = logging.getLogger("sidegate.reload")


class Reload:
    """The settings and the house as they are now."""

    def __init__(
        self, settings: Settings, house: Container, *, read: Read, prepare: Prepare
    ) -> None:
        self.settings = settings
        self.house = house
        self._read = read
        self._prepare = prepare

    async def run(self, told: asyncio.Event) -> NoReturn:
        """Reload each time it is told to."""
        while True:
            await told.wait()
            told.clear()
            await self.reload()

    async def reload(self) -> None:
        """Read the settings and live by them; a mistake in them changes nothing."""
        try:
            settings, fixed = merge_settings(self.settings, self._read())
            must_go_together(settings)
            house = apply_settings(settings, self.house)
            exchange = await self._prepare(settings, house)
        except Exception as error:  # noqa: BLE001  # whatever it is, what is lived by goes on
            for mistake in _mistakes(error):
                _log.error("not reloaded: %s", mistake)
            self._note(successful=False)
            return
        exchange()
        house.toucher.use_lifetimes(settings.sessions.by_type())
        logs.configure(settings.logs.level, settings.logs.format)
        self.settings, self.house = settings, house
        self._note(successful=True)
        _log.info("reloaded")
        for path in fixed:
            _log.warning("%s was changed, and takes a restart", dotted(path))

    def _note(self, *, successful: bool) -> None:
        self.house.metrics.settings_read(self.house.means.clock.now(), successful=successful)


def merge_settings(present: Settings, read: Settings) -> tuple[Settings, list[SettingPath]]:
    """Return the present settings with what a reload changes, and what it would have to."""
    changed = [path for path, _ in leaves(Settings) if _at(present, path) != _at(read, path)]
    fixed = [path for path in changed if not _reloaded(path)]
    for path in changed:
        if _reloaded(path):
            present = _with(present, path, _at(read, path))
    return present, fixed


def apply_settings(settings: Settings, house: Container) -> Container:
    """Return the house under other rules, on the same stores. SettingsError: it cannot be."""
    means = replace(
        house.means,
        ring=KeyRing(token_keys(settings)),
        lifetimes=settings.sessions.by_type(),
        limits=settings.sessions.limits(),
    )
    return replace(
        house,
        means=means,
        sessions=build_sessions(settings, means),
        rotation=Rotation(means),
        validator=build_validator(settings, means, house.roads, house.local, house.toucher),
        binding=build_binding(settings, house.metrics, house.revoke_behind),
    )


def must_go_together(settings: Settings) -> None:
    """Refuse what two readings, right each by itself, have come to together."""
    mistakes = []
    if settings.database_url is not None and not settings.token.keys:
        mistakes.append("token.keys: required with database_url, which stays until a restart")
    if mistakes:
        raise SettingsError(mistakes)


def _mistakes(error: Exception) -> Iterable[str]:
    """Say what was wrong; of an error nobody foresaw not its words, which may repeat a setting."""
    if isinstance(error, SettingsError):
        return error.errors
    return [f"unexpected {type(error).__name__}"]


def _reloaded(path: SettingPath) -> bool:
    return any(path[: len(known)] == known for known in RELOADED)


def _at(section: Any, path: SettingPath) -> Any:
    return reduce(getattr, map(str, path), section)


def _with(section: Any, path: SettingPath, value: Any) -> Any:
    """Return a section in which the setting at `path` has this value; both were checked before."""
    name, rest = str(path[0]), path[1:]
    below = _with(getattr(section, name), rest, value) if rest else value
    return section.model_copy(update={name: below})
