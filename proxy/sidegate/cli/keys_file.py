"""The file of SIDEGATE_ADMIN__KEYS_FILE: a JSON list with the hash of each API key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sidegate.cli.files import replace_file

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
        replace_file(path, json.dumps([*keys, key], indent=2) + "\n", mode=mode)
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
