"""A secret of our own on one machine: made at the first start, mode 0600, and read ever after."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from sidegate.core.errors import SettingsError


def read_or_make(path: Path, setting: str, make: Callable[[], str]) -> str:
    """Return what the file says; when there is none yet, it is made first and says `make()`.

    SettingsError, in the name of `setting`: the file cannot be read or made, or others may read it.
    """
    try:
        return _read(path, setting)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise wrong(path, setting, f"cannot be read: {error.strerror}") from None
    try:
        _make(path, make())
        return _read(path, setting)
    except OSError as error:
        raise wrong(path, setting, f"cannot be made: {error.strerror}") from None


def wrong(path: Path, setting: str, what: str) -> SettingsError:
    """Return the mistake that a secret file is."""
    return SettingsError([f"{setting}: {path} {what}"])


def _read(path: Path, setting: str) -> str:
    text = path.read_text("utf-8", errors="replace")
    # The group may read it: on a volume, Kubernetes' fsGroup gives it that at every start.
    if path.stat().st_mode & 0o007:
        raise wrong(path, setting, f"is open to others: chmod 600 {path}, and consider a new one")
    return text.strip()


def _make(path: Path, text: str) -> None:
    """Write under another name and link it: whoever else starts now sees a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another instance was faster: what it wrote is the secret
            path.hardlink_to(draft)
    finally:
        draft.unlink()
