"""The contract of trust in the remote caches."""

from typing import NewType, Protocol

Mark = NewType("Mark", int)
"""A point in time, as the number of distrust events until then."""


class CacheTrust(Protocol):
    """Whether the copies in remote caches may be used, and under which generation.

    They may be used after the startup is complete and a generation is confirmed, until the next
    distrust event.
    """

    def mark(self) -> Mark:
        """Return the present, to be passed to `confirm`."""
        ...

    def distrust(self) -> None:
        """Use no copies until a confirmation whose `since` is later: changes may be missing."""
        ...

    def end_generation(self) -> None:
        """Distrust the caches until another generation than the present one is confirmed."""
        ...

    def is_outdated(self, generation: int) -> bool:
        """Return whether `generation` has ended, or is older than the present one."""
        ...

    def complete_startup(self) -> None:
        """The caches have the changes that a crashed instance may not have published."""
        ...

    def confirm(self, generation: int, *, since: Mark) -> None:
        """Store copies under `generation`, which was read from the database after `since`.

        They may be used, unless there was a distrust event after `since`.
        """
        ...
