"""What a restored database has lost: changes that it does not know, though they were acknowledged.

The checker excludes these, and no others.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from tests.faults.cached_copies import read_copies
from tests.faults.deployment import connect_as_superuser
from tests.faults.history import Create, DatabaseRestore, Entry, Migrate, Refresh, now
from tests.faults.ledgers import Ledgers
from tests.faults.population import ClientToken
from tests.faults.rules import Rules
from tests.support.processes import Server

_SESSIONS: Final = "SELECT id::text, revoked_at IS NOT NULL AS is_revoked FROM sessions"
_DIGESTS: Final = (
    "SELECT digest FROM sessions UNION SELECT previous_digest FROM sessions"
    " UNION SELECT digest FROM rotated_digests"
)


@dataclass(frozen=True, slots=True)
class RestoredState:
    """What the stores hold at `read_at`, when no instance has reached the restored database yet.

    In Redis are `tombstones` of these sessions, and open copies for the digests `cached`.
    """

    read_at: float
    sessions: frozenset[str]
    revoked: frozenset[str]
    digests: frozenset[bytes]
    tombstones: frozenset[str] = frozenset()
    cached: frozenset[bytes] = frozenset()


async def read_restored_state(postgres: Server, redis: Server) -> RestoredState:
    """Read both stores directly, not through the proxies."""
    async with connect_as_superuser(postgres) as connection:
        rows: list[Any] = await connection.fetch(_SESSIONS)
        digests: list[Any] = await connection.fetch(_DIGESTS)
    copies = await asyncio.to_thread(read_copies, redis.port)
    return RestoredState(
        read_at=now(),
        sessions=frozenset(row["id"] for row in rows),
        revoked=frozenset(row["id"] for row in rows if row["is_revoked"]),
        digests=frozenset(row["digest"] for row in digests if row["digest"] is not None),
        tombstones=frozenset(str(copy.id) for copy in copies if copy.revoked_at is not None),
        cached=frozenset(copy.digest for copy in copies if copy.revoked_at is None),
    )


def find_losses(
    history: Iterable[Entry],
    state: RestoredState,
    *,
    issued: Iterable[ClientToken],
    stopped_at: float,
    settled_at: float,
    bound: float,
) -> DatabaseRestore:
    """Return the entry for the history: what was acknowledged, but is unknown to the database."""
    before = [entry for entry in history if entry.end < state.read_at]
    ledger = Ledgers(before, Rules()).last
    unknown = {token.number for token in issued if token.digest not in state.digests}
    active = state.sessions - state.revoked
    reopened = frozenset(
        session
        for session in active
        if session in state.tombstones or ledger.may_have_ended_at(session) < inf
    )
    return DatabaseRestore(
        start=stopped_at,
        end=state.read_at,
        bound=bound,
        settled_at=settled_at,
        sessions=frozenset(
            session
            for session, operations in ledger.sessions.items()
            if operations.creates and session not in state.sessions
        ),
        tokens=frozenset(number for number in _issued_numbers(before) if number in unknown),
        tombstones=reopened & state.tombstones,
        ends=reopened - state.tombstones,
    )


def _issued_numbers(history: Iterable[Entry]) -> Iterator[int]:
    """Yield the number of each token that an instance has returned."""
    for entry in history:
        match entry:
            case (
                Create(token=int(number))
                | Refresh(successor=int(number))
                | Migrate(successor=int(number))
            ):
                yield number
