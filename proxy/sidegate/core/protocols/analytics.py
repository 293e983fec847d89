"""The session counters and their samples."""

from datetime import datetime, timedelta
from typing import Protocol

from sidegate.core.analytics import ActiveSessions, Sample, Totals, Window


class AnalyticsStore(Protocol):
    """The database's session counters, and the samples of them.

    The database records each creation and revocation in the statement that makes it. Each method
    is atomic: a crash between two calls loses nothing and counts nothing twice, and several
    instances may call them concurrently.
    """

    async def reserve_sample(self, at: datetime, interval: timedelta) -> bool:
        """Return whether a sample is due and the caller has to take it.

        Of several concurrent callers, one gets True.
        """
        ...

    async def record_expired(self, at: datetime, *, limit: int) -> int:
        """Record the ends of at most `limit` sessions expired or idle at `at`; return how many.

        Fewer than `limit` mean that none are left. May take seconds, but does not block others.
        """
        ...

    async def add_to_totals(self, *, limit: int) -> int:
        """Add at most `limit` recorded creations and ends to the totals; return how many.

        Fewer than `limit` mean that none are left.
        """
        ...

    async def count_active(self, at: datetime) -> ActiveSessions:
        """Count the sessions active at `at`. May take seconds, but does not block others."""
        ...

    async def read_totals(self) -> Totals:
        """Return the totals."""
        ...

    async def save_sample(self, sample: Sample) -> None:
        """Store a sample. It becomes the last one, whatever its time."""
        ...

    async def read_last_sample(self) -> Sample | None:
        """Return the sample that was stored last, or None if there is none."""
        ...

    async def read_window(self, since: datetime, until: datetime) -> Window | None:
        """Return the window that ends at `until`, or None if there is no sample until then.

        It begins with the latest sample at or before `since`, or else with the oldest sample.
        """
        ...

    async def delete_samples(self, before: datetime, *, limit: int) -> None:
        """Delete at most `limit` samples older than `before`, the oldest first."""
        ...
