"""Page cursors: opaque, tamper-evident, and good for one list only."""

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
_PLACE: Final = 24
_TAG: Final = 18
# 24 bytes of place and 18 of tag fill 56 characters exactly: one spelling per cursor.
SPELLING: Final = re.compile(r"[A-Za-z0-9_-]{56}", re.ASCII)


class Cursors:
    """Writes and reads cursors under one key, which every instance shares."""

    def __init__(self, key: bytes) -> None:
        """Take 32 to 64 secret bytes."""
        if not 32 <= len(key) <= 64:
            raise ValueError("a cursor key has 32 to 64 bytes")
        self._key = key

    def at_session(self, cursor: Cursor, *, of: str) -> str:
        """Return the text of a place in a list of sessions; only for the list `of` it is one."""
        moment = (cursor.created_at - _EPOCH) // _MICROSECOND
        return self._write(moment.to_bytes(8, "big", signed=True) + UUID(cursor.id).bytes, of)

    def session(self, text: str, *, of: str) -> Cursor:
        """Return what `at_session` wrote. ValueError: it did not, or for another list."""
        place = self._read(text, of)
        moment = int.from_bytes(place[:8], "big", signed=True)
        return Cursor(_EPOCH + moment * _MICROSECOND, SessionId(str(UUID(bytes=place[8:]))))

    def at_event(self, number: int, *, of: str) -> str:
        """Return the text of a place among audit events."""
        return self._write(number.to_bytes(_PLACE, "big"), of)

    def event(self, text: str, *, of: str) -> int:
        """Return what `at_event` wrote. ValueError: it did not, or for another list."""
        return int.from_bytes(self._read(text, of), "big")

    def _write(self, place: bytes, of: str) -> str:
        return urlsafe_b64encode(place + self._tag(place, of)).decode("ascii")

    def _read(self, text: str, of: str) -> bytes:
        raw = urlsafe_b64decode(text) if SPELLING.fullmatch(text) else bytes(_PLACE)
        place, tag = raw[:_PLACE], raw[_PLACE:]
        if not hmac.compare_digest(tag, self._tag(place, of)):
            raise ValueError("not a cursor of this list")
        return place

    def _tag(self, place: bytes, of: str) -> bytes:
        return blake2b(
            place + of.encode(), key=self._key, digest_size=_TAG, person=b"sidegate cursor"
        ).digest()
