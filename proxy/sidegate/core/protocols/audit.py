"""The audit trail."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from sidegate.core.audit import AuditEvent, AuditFilter, Seal


class AuditLog(Protocol):
    """The audit events of the database and their chain of seals.

    The database writes an event in the transaction of each change.
    """

    async def list_events(
        self, criteria: AuditFilter, *, limit: int, before: int | None = None
    ) -> list[AuditEvent]:
        """Return at most `limit` matching events numbered below `before`, the highest first."""
        ...

    async def list_unsealed(self, *, limit: int) -> list[AuditEvent]:
        """Return at most `limit` events without a seal, the lowest number first."""
        ...

    async def read_head(self) -> Seal:
        """Return the last seal, or the anchor if no sealed event is left."""
        ...

    async def add_seals(self, seals: Sequence[tuple[int, Seal]]) -> bool:
        """Store the seals of the events with these numbers; they continue the chain after the head.

        Return False if another instance has added seals concurrently. Some of these seals may be
        stored then, all of them correct.
        """
        ...

    async def read_anchor(self) -> Seal:
        """Return the seal that the oldest stored sealed event follows."""
        ...

    async def list_sealed(self, *, after: int, limit: int) -> list[tuple[AuditEvent, Seal]]:
        """Return at most `limit` sealed events with a link above `after`, in order of the links."""
        ...

    async def delete_oldest(self, before: datetime, *, limit: int) -> int:
        """Delete at most `limit` sealed events from the start of the chain; return how many.

        Stop at the first event that is not older than `before`. The anchor becomes the last
        deleted seal.
        """
        ...
