"""All roles of the database's session store, in one object."""

from typing import Protocol

from sidegate.core.protocols.changes import ChangeLog
from sidegate.core.protocols.lookup import BatchFinder, SessionFinder
from sidegate.core.protocols.sessions import ActivityStore, Purger, SessionRepository


class StoreLifecycle(Protocol):
    """Health check and shutdown of a store."""

    async def ping(self) -> None:
        """Return if the store answers."""
        ...

    async def close(self) -> None:
        """Release all resources. The store must not be used afterwards."""
        ...


class DurableStore(
    SessionFinder,
    BatchFinder,
    SessionRepository,
    ActivityStore,
    ChangeLog,
    Purger,
    StoreLifecycle,
    Protocol,
):
    """The database, the source of truth: all roles of its session store.

    The composition root opens one, and passes to each service the roles that it uses.
    """
