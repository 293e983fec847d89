"""Page cursors: opaque, tamper-evident, and good for one list only."""

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Final
from uuid import UUID

from proxy.core.protocols import Cursor
from proxy.core.session import SessionId

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_TAG: Final = 18
# 8 bytes of time, 16 of id and 18 of tag fill 56 characters exactly: one spelling per cursor.
_SPELLING: Final = re.compile(r"[A-Za-z0-9_-]{56}", re.ASCII)


class Cursors:
    """Writes and reads cursors under one key, which every instance shares."""

    def __init__(self, key: bytes) -> None:
        """Take 32 to 64 secret bytes."""
        if not 32 <= len(key) <= 64:
            raise ValueError("a cursor key has 32 to 64 bytes")
        self._key = key

    def write(self, cursor: Cursor, *, of: str) -> str:
        """Return the text of `cursor`, which `read` takes back for the same list `of` only."""
        moment = (cursor.created_at - _EPOCH) // _MICROSECOND
        place = moment.to_bytes(8, "big", signed=True) + UUID(cursor.id).bytes
        return urlsafe_b64encode(place + self._tag(place, of)).decode("ascii")

    def read(self, text: str, *, of: str) -> Cursor | None:
        """Return the cursor written as `text`; None: we did not write that for the list `of`."""
        if not _SPELLING.fullmatch(text):
            return None
        raw = urlsafe_b64decode(text)
        place, tag = raw[:-_TAG], raw[-_TAG:]
        if not hmac.compare_digest(tag, self._tag(place, of)):
            return None
        moment = int.from_bytes(place[:8], "big", signed=True)
        return Cursor(_EPOCH + moment * _MICROSECOND, SessionId(str(UUID(bytes=place[8:]))))

    def _tag(self, place: bytes, of: str) -> bytes:
        return blake2b(
            place + of.encode(), key=self._key, digest_size=_TAG, person=b"sidegate cursor"
        ).digest()
