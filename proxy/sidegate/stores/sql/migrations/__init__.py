"""The numbered SQL files of each database, and which of them are missing in one."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Literal

from sidegate.core.errors import SchemaMismatch

Dialect = Literal["postgres", "sqlite"]

CREATE_MIGRATIONS_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS sidegate_migrations (name text PRIMARY KEY NOT NULL)"
)
SELECT_APPLIED: Final = "SELECT name FROM sidegate_migrations"
"""The names of the applied migrations. The statements are valid in both databases."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its name without the extension, as stored in the database, and its SQL."""

    name: str
    sql: str


def load_migrations(dialect: Dialect) -> list[Migration]:
    """Return all migrations of this program, in order."""
    scripts = [
        entry
        for entry in files(__name__).joinpath(dialect).iterdir()
        if entry.name.endswith(".sql")
    ]
    return [
        Migration(script.name.removesuffix(".sql"), script.read_text("utf-8"))
        for script in sorted(scripts, key=lambda script: script.name)
    ]


def list_pending(dialect: Dialect, applied: Iterable[str]) -> list[Migration]:
    """Return the missing migrations, in order.

    Raise SchemaMismatch if the database is newer than this program.
    """
    migrations, names = load_migrations(dialect), set(applied)
    unknown = sorted(names - {migration.name for migration in migrations})
    if unknown:
        raise SchemaMismatch(
            f"the database has unknown migrations {', '.join(unknown)}: run a newer sidegate"
        )
    return [migration for migration in migrations if migration.name not in names]
