"""The word outward, after the truth was told: nothing here can fail what has been acknowledged."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from proxy.core.errors import StoreUnavailable
from proxy.core.protocols import Feed, HotStore
from proxy.core.session import Session


async def offer(sessions: Iterable[Session], hot: Sequence[HotStore]) -> None:
    """Put every copy of each session into every hot store that can take it."""
    for session in sessions:
        for copy in session.copies():
            for store in hot:
                with suppress(StoreUnavailable):  # the catch-up comes back
                    await store.put(copy)


async def tell(changed: Sequence[Session], hot: Sequence[HotStore], feed: Feed) -> None:
    """Offer what has changed to our hot stores, and announce it to the other instances."""
    await offer(changed, hot)
    with suppress(StoreUnavailable):  # the catch-up of the other instances finds it
        await feed.announce(changed)


class Nobody:
    """A feed without listeners: the only instance, or one that relies on the catch-up."""

    async def announce(self, sessions: Iterable[Session]) -> None:
        """Tell nobody."""
