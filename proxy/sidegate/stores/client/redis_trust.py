"""Whether copies in Redis may be used, and under which generation they are stored."""

from collections.abc import Mapping, Sequence
from typing import Final

from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import BatchCache, Mark
from sidegate.core.session import Session

_STORE: Final = "redis"


class RedisTrust:
    """The state of trust in Redis, a CacheTrust. Nothing else in this process keeps it.

    The generation is part of the keys in Redis, so copies of other generations are not found. It
    stays in use while Redis is distrusted, because puts go through.
    """

    def __init__(self) -> None:
        """Start distrusted, without a generation."""
        self._generation: int | None = None
        self._has_ended = False  # the generation
        self._startup_complete = False
        self._is_confirmed = False  # since the last distrust event
        self._distrust_count = 0

    @property
    def generation(self) -> int | None:
        """The generation to store copies under. None: not known yet."""
        return self._generation

    @property
    def is_trusted(self) -> bool:
        """Whether copies of this generation may be used now."""
        return self._is_confirmed and self._startup_complete

    def mark(self) -> Mark:
        return Mark(self._distrust_count)

    def is_distrusted_since(self, mark: Mark) -> bool:
        """Return whether there was a distrust event after `mark`, whatever followed it."""
        return mark != self._distrust_count

    def distrust(self) -> None:
        self._is_confirmed = False
        self._distrust_count += 1

    def end_generation(self) -> None:
        self._has_ended = True
        self.distrust()

    def is_outdated(self, generation: int) -> bool:
        if self._generation is None:
            return False
        has_ended = self._has_ended and generation == self._generation
        return has_ended or generation < self._generation

    def complete_startup(self) -> None:
        self._startup_complete = True

    def confirm(self, generation: int, *, since: Mark) -> None:
        if generation != self._generation:
            self._generation = generation
            self._has_ended = False
        if not self._has_ended and not self.is_distrusted_since(since):
            self._is_confirmed = True


class Trusted:
    """A cache backend whose lookups raise StoreUnavailable while Redis is not trusted.

    So do the lookups that are in flight when it becomes distrusted. Puts always go through.
    """

    def __init__(self, backend: BatchCache, trust: RedisTrust) -> None:
        self._backend = backend
        self._trust = trust

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        if not self._trust.is_trusted:
            raise StoreUnavailable(_STORE, "changes may have been missed")
        mark = self._trust.mark()
        found = await self._backend.find_many(digests)
        if self._trust.is_distrusted_since(mark):
            raise StoreUnavailable(_STORE, "changes may have been missed meanwhile")
        return found

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        return await self._backend.put_many(sessions)
