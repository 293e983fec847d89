"""What many sessions have in common is kept once: memory holds a hundred thousand of them."""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

_MICROSECOND: Final = timedelta(microseconds=1)


@lru_cache(maxsize=4096)
def scopes(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first of equal scopes."""
    return given


@lru_cache(maxsize=1024)
def idle_timeout(microseconds: int) -> timedelta:
    """Return an idle timeout. OverflowError: nobody is silent that long."""
    return microseconds * _MICROSECOND


def timestamp(one: datetime, other: datetime) -> datetime:
    """Return `one`, or `other` if it is the same moment: most sessions begin with a log-in."""
    return other if one == other else one
