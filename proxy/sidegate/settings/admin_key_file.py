"""The embedded default's first API key: made at the first start, readable by us alone."""

import secrets
from pathlib import Path

from sidegate.settings.secret_file import read_or_make
from sidegate.settings.sections import Settings


def first_admin_key(settings: Settings) -> tuple[Path, str] | None:
    """Return the file `<data_dir>/admin.key` and the key in it, made when there is none yet.

    None: the settings name keys of their own, or the stores are shared with other instances.
    SettingsError: the file cannot be read or made.
    """
    if settings.admin.keys or settings.database_url is not None:
        return None
    path = settings.data_dir / "admin.key"
    return path, read_or_make(path, "admin.keys", lambda: f"sgk_{secrets.token_urlsafe(32)}")
