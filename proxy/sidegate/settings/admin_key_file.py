"""The first API key of an embedded instance: a file created at the first start, mode 0600."""

import secrets
from pathlib import Path

from sidegate.settings.secret_file import read_or_create
from sidegate.settings.sections import Settings


def read_admin_key(settings: Settings) -> tuple[Path, str] | None:
    """Return the path `<data_dir>/admin.key` and the key in that file; create it if it is absent.

    Return None if admin.keys or database_url is set. Raise SettingsError if the file cannot be read
    or created.
    """
    if settings.admin.keys or settings.database_url is not None:
        return None
    path = settings.data_dir / "admin.key"
    return path, read_or_create(path, "admin.keys", make=lambda: f"sgk_{secrets.token_urlsafe(32)}")
