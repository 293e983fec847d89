"""A finder that answers in time or is unavailable, whatever lies behind it."""

from proxy.core.protocols import SessionFinder
from proxy.core.session import Session
from proxy.core.token import Digest
from proxy.core.within import within


class Deadline:
    """See above. It speaks in the name of `deadline`, for nobody knows whose fault it was."""

    def __init__(self, finder: SessionFinder, *, seconds: float) -> None:
        self._finder = finder
        self._seconds = seconds

    async def find(self, digest: Digest) -> Session | None:
        return await within(self._seconds, "deadline", self._finder.find(digest))
