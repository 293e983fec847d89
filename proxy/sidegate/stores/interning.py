"""Share equal values between sessions, to save memory: there may be a hundred thousand."""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

_MICROSECOND: Final = timedelta(microseconds=1)


@lru_cache(maxsize=4096)
def intern_scopes(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first tuple seen of those equal to `scopes`."""
    return scopes


@lru_cache(maxsize=1024)
def intern_idle_timeout(microseconds: int) -> timedelta:
    """Return the idle timeout. Raise OverflowError if it is out of range."""
    return microseconds * _MICROSECOND


def intern_timestamp(timestamp: datetime, created_at: datetime) -> datetime:
    """Return `created_at` if `timestamp` equals it: most sessions begin with a login."""
    return created_at if timestamp == created_at else timestamp
