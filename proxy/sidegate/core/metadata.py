"""The metadata of a session: any JSON object, limited in size, also after a merge."""

import json
from collections.abc import Mapping
from typing import Any, Final

from sidegate.core.errors import MetadataTooLarge

# Of compact UTF-8 JSON.
MAX_BYTES: Final = 16 * 1024


def check_size(metadata: Mapping[str, Any]) -> None:
    """Raise MetadataTooLarge if `metadata` takes more than 16 KiB as compact UTF-8 JSON."""
    encoded = json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":")).encode()
    if len(encoded) > MAX_BYTES:
        raise MetadataTooLarge(len(encoded), MAX_BYTES)


def merge(metadata: Mapping[str, Any], attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `metadata` with the members in `attributes` added or replaced.

    Raise MetadataTooLarge if the result is over the limit. Without `attributes` it is not checked:
    an earlier version may have stored more, and the caller has added nothing.
    """
    if not attributes:
        return metadata
    merged = {**metadata, **attributes}
    check_size(merged)
    return merged
