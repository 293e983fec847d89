"""Generated secrets in files: created at the first start with mode 0600, read at later ones."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from sidegate.core.errors import SettingsError


def read_or_create(path: Path, setting: str, *, make: Callable[[], str]) -> str:
    """Return the file's text without white space around it; create it with `make()` if absent.

    Raise SettingsError, with `setting` as the path, if the file cannot be read or created, or if
    its mode gives access to others.
    """
    try:
        return _read(path, setting)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise file_error(path, setting, problem=f"cannot be read: {error.strerror}") from None
    try:
        _create(path, make())
        return _read(path, setting)
    except OSError as error:
        raise file_error(path, setting, problem=f"cannot be created: {error.strerror}") from None


def file_error(path: Path, setting: str, *, problem: str) -> SettingsError:
    """Return the error of a secret file."""
    return SettingsError([f"{setting}: {path} {problem}"])


def _read(path: Path, setting: str) -> str:
    text = path.read_text("utf-8", errors="replace")
    # The group may read it: Kubernetes' fsGroup sets that on volumes at every start.
    if path.stat().st_mode & 0o007:
        raise file_error(
            path,
            setting,
            problem=f"is accessible by other users: run chmod 600 {path} and consider a new secret",
        )
    return text.strip()


def _create(path: Path, text: str) -> None:
    """Write a draft and link it, so that concurrent starts never read a partial file."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster: its secret is used
            path.hardlink_to(draft)
    finally:
        draft.unlink()
