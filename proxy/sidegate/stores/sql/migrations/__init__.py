"""The numbered SQL files of each database, and which of them one still lacks."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Literal

from sidegate.core.errors import SchemaMismatch

Dialect = Literal["postgres", "sqlite"]

NOTES: Final = "CREATE TABLE IF NOT EXISTS sidegate_migrations (name text PRIMARY KEY NOT NULL)"
NOTED: Final = "SELECT name FROM sidegate_migrations"
"""Where a database notes what was applied to it; both databases understand the same words."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its name without the ending, as a database notes it, and its statements."""

    name: str
    sql: str


def known(dialect: Dialect) -> list[Migration]:
    """Return every migration this program knows, in order."""
    scripts = [
        entry
        for entry in files(__name__).joinpath(dialect).iterdir()
        if entry.name.endswith(".sql")
    ]
    return [
        Migration(script.name.removesuffix(".sql"), script.read_text("utf-8"))
        for script in sorted(scripts, key=lambda script: script.name)
    ]


def pending(dialect: Dialect, applied: Iterable[str]) -> list[Migration]:
    """Return what the database still lacks. SchemaMismatch: it is newer than this program."""
    migrations, done = known(dialect), set(applied)
    strange = sorted(done - {migration.name for migration in migrations})
    if strange:
        raise SchemaMismatch(
            f"the database has {', '.join(strange)}, unknown to this sidegate: run a newer one"
        )
    return [migration for migration in migrations if migration.name not in done]
