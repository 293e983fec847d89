"""An entry of the in-process cache: a session, and what was derived from this copy of it."""

from datetime import datetime

import msgspec

from sidegate.core.session import EPOCH, Session


class MemoryEntry(msgspec.Struct, eq=False, gc=False):
    """A session in memory, with notes that go when the entry is replaced.

    `fresh_until`: monotonic seconds from which on it is looked up again. `valid_until`: that of the
    session. `verified_by`: the key ring that verified the tag of its token, so that it is verified
    once. `cached_reply`: the response derived from it, with what it depends on; its type belongs to
    the check. `size`: its bytes as the cache estimates them.
    """

    session: Session
    fresh_until: float
    verified_by: object = None
    cached_reply: object = None
    size: int = 0
    valid_until: datetime = EPOCH

    def __post_init__(self) -> None:
        self.valid_until = self.session.valid_until
