"""The contract of trust in a remote cache."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from sidegate.core.seal import CachePosition, Seal
from sidegate.core.session import Session


class CacheTrust(Protocol):
    """Whether the copies in a remote cache may be used."""

    @property
    def position(self) -> CachePosition:
        """The seals of the cache as last approved. Take it before the database is read."""
        ...

    @property
    def age(self) -> float:
        """The seconds since the cache was last known to have followed the database."""
        ...

    def record_changes(self, copies: Iterable[Session]) -> None:
        """Use no older copies than these, which were committed here, until a later round."""
        ...

    def invalidate(self, reason: str) -> None:
        """Use no copies until the cache has been verified again: changes may be missing."""
        ...


class RoundStart(NamedTuple):
    """When a round began, by the monotonic clock and by the number of invalidations until then."""

    at: float
    invalidation_count: int


class FollowedTrust(CacheTrust, Protocol):
    """Trust in a remote cache, as the rounds of the cache follower change it."""

    def begin_round(self) -> RoundStart:
        """Return the present, to be passed to `confirm`."""
        ...

    def confirm(self, verified: Mapping[str, Seal], start: RoundStart) -> None:
        """Trust these namespaces, and no others, unless there was an invalidation since.

        Trust lapses some seconds after `start`.
        """
        ...

    def extend(self, start: RoundStart) -> None:
        """Trust what is trusted for longer: the round failed for lack of the database."""
        ...
