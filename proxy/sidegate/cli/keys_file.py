"""The file of SIDEGATE_ADMIN__KEYS_FILE: a JSON list with the hash of each API key."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

_PRIVATE: Final = 0o600


class InvalidKeysFile(ValueError):
    """The file cannot be read or written, is not a list of keys, or has a key of this name."""


def append_key(path: Path, key: Mapping[str, Any]) -> None:
    """Add `key` to the list in `path`, or create the file. A running server reads all or nothing.

    A new file has mode 0600; an existing one keeps its mode. Raise InvalidKeysFile.
    """
    try:
        keys, mode = _read(path)
        if any(each["name"] == key["name"] for each in keys):
            raise InvalidKeysFile(f"{path} has a key named {key['name']}")
        _replace(path, json.dumps([*keys, key], indent=2) + "\n", mode=mode)
    except OSError as error:
        raise InvalidKeysFile(f"{path}: {error.strerror}") from None


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    try:
        text, mode = path.read_text("utf-8"), path.stat().st_mode & 0o777
    except FileNotFoundError:
        return [], _PRIVATE
    try:
        keys = json.loads(text) if text.strip() else []
    except ValueError:
        keys = None
    if not isinstance(keys, list) or not all(
        isinstance(each, dict) and "name" in each for each in keys
    ):
        raise InvalidKeysFile(f"{path} is not a JSON list of API keys")
    return keys, mode


def _replace(path: Path, text: str, *, mode: int) -> None:
    draft = path.with_name(f".{path.name}.{token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    try:
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
