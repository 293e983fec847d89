"""The word outward, after the truth was told: nothing here can fail what has been acknowledged."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from proxy.core.errors import StoreUnavailable
from proxy.core.protocols import HotStore
from proxy.core.session import Session


async def offer(sessions: Iterable[Session], hot: Sequence[HotStore]) -> None:
    """Put every copy of each session into every hot store that can take it."""
    for session in sessions:
        for copy in session.copies():
            for store in hot:
                with suppress(StoreUnavailable):  # the catch-up comes back
                    await store.put(copy)


class Nobody:
    """A feed without listeners: the only instance, or one that relies on the catch-up."""

    async def announce(self, sessions: Iterable[Session]) -> None:
        """Tell nobody."""
