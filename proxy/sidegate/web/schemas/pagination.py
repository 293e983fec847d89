"""Cursors for keyset pagination: opaque, authenticated, and valid for one list only."""

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Final
from uuid import UUID

from sidegate.core.protocols import Cursor
from sidegate.core.session import SessionId

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_POSITION_SIZE: Final = 24
_TAG_SIZE: Final = 18
# 42 bytes fill 56 characters of base64url exactly, so that each cursor has one text.
CURSOR_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]{56}", re.ASCII)


class CursorCodec:
    """Encodes and decodes cursors with a key that all instances share.

    `list_id` names the list with its filters; a cursor of one list is invalid for others.
    """

    def __init__(self, key: bytes) -> None:
        """`key` has 32 to 64 secret bytes. Raise ValueError otherwise."""
        if not 32 <= len(key) <= 64:
            raise ValueError("a cursor key has 32 to 64 bytes")
        self._key = key

    def encode_session(self, cursor: Cursor, *, list_id: str) -> str:
        """Return the text of a position in a list of sessions."""
        created_at = (cursor.created_at - _EPOCH) // _MICROSECOND
        position = created_at.to_bytes(8, "big", signed=True) + UUID(cursor.id).bytes
        return self._encode(position, list_id)

    def decode_session(self, text: str, *, list_id: str) -> Cursor:
        """Return the position in `text`. Raise ValueError if it is not a cursor of this list."""
        position = self._decode(text, list_id)
        created_at = _EPOCH + int.from_bytes(position[:8], "big", signed=True) * _MICROSECOND
        return Cursor(created_at, SessionId(str(UUID(bytes=position[8:]))))

    def encode_event(self, number: int, *, list_id: str) -> str:
        """Return the text of a position in a list of audit events."""
        return self._encode(number.to_bytes(_POSITION_SIZE, "big"), list_id)

    def decode_event(self, text: str, *, list_id: str) -> int:
        """Return the position in `text`. Raise ValueError if it is not a cursor of this list."""
        return int.from_bytes(self._decode(text, list_id), "big")

    def _encode(self, position: bytes, list_id: str) -> str:
        return urlsafe_b64encode(position + self._tag(position, list_id)).decode("ascii")

    def _decode(self, text: str, list_id: str) -> bytes:
        raw = urlsafe_b64decode(text) if CURSOR_PATTERN.fullmatch(text) else bytes(_POSITION_SIZE)
        position, tag = raw[:_POSITION_SIZE], raw[_POSITION_SIZE:]
        if not hmac.compare_digest(tag, self._tag(position, list_id)):
            raise ValueError("not a cursor of this list")
        return position

    def _tag(self, position: bytes, list_id: str) -> bytes:
        return blake2b(
            position + list_id.encode(),
            key=self._key,
            digest_size=_TAG_SIZE,
            person=b"sidegate cursor",
        ).digest()
