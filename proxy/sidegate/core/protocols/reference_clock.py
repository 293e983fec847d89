"""The contract of a second source of the database's time."""

from datetime import datetime, timedelta
from typing import Protocol


class ReferenceClock(Protocol):
    """A clock beside the database's, with the difference between the two as it was last kept."""

    async def read(self) -> tuple[datetime, timedelta | None]:
        """Return this clock's time, and what to add for the database's time; None: unknown."""
        ...

    async def keep(self, difference: timedelta) -> None:
        """Keep the difference to the database's time, for all instances."""
        ...
