"""The logout tokens already processed."""

from datetime import datetime
from typing import Protocol


class LogoutTokenStore(Protocol):
    """The logout tokens processed by any instance, by `Logout.id` of 32 bytes."""

    async def is_processed(self, logout_id: bytes) -> bool:
        """Return whether this token was marked as processed."""
        ...

    async def mark_processed(self, logout_id: bytes, *, until: datetime, at: datetime) -> bool:
        """Mark a token as processed. Return False if it was marked already.

        Of several concurrent callers, one gets True. The mark is deleted by the first call with
        `at` after `until`; `at` is the present time.
        """
        ...
