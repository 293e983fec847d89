"""The contract suites, for the simulated stores."""

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from types import ModuleType
from typing import Any, Final, NoReturn

from _pytest.fixtures import FixtureFunctionDefinition

from sidegate.core.protocols import DurableStore, SessionLocks
from tests.simulation.database import SimulatedDatabase
from tests.simulation.database_client import DatabaseLink, SimulatedLocks, SimulatedSessions
from tests.support.replace import replace

# What reaches past the stores with SQL.
_SQL_FIXTURES: Final = frozenset({"database", "empty_database"})


def select_contract(module: ModuleType, *, without: frozenset[str]) -> dict[str, Any]:
    """Return the tests of a suite that need no SQL, and their fixtures but for `without`."""
    selected: dict[str, Any] = {}
    for name, value in vars(module).items():
        if isinstance(value, FixtureFunctionDefinition):
            if name not in without:
                selected[name] = value
        elif (
            name.startswith("test_")
            and not _SQL_FIXTURES & inspect.signature(value).parameters.keys()
        ):
            selected[name] = value
    return selected


@dataclass
class ContractDatabase:
    """A simulated database behind links that a test cuts. It has no SQL."""

    server: SimulatedDatabase = field(
        default_factory=lambda: SimulatedDatabase(
            random=Random(1), now=lambda: datetime.now(UTC), follow_callers=True
        )
    )
    links: list[DatabaseLink] = field(default_factory=list)

    async def open(self) -> DurableStore:
        return SimulatedSessions(self._connect())

    @asynccontextmanager
    async def locks(self) -> AsyncIterator[SessionLocks]:
        yield SimulatedLocks(self._connect())

    async def age_locks(self, by: timedelta) -> None:
        locks = self.server.tables.locks
        for session_id, row in locks.items():
            if row.expires_at is not None:
                locks[session_id] = replace(row, expires_at=row.expires_at - by)

    def fail(self) -> None:
        for link in self.links:
            link.is_cut = True

    def recover(self) -> None:
        for link in self.links:
            link.is_cut = False

    def _connect(self) -> DatabaseLink:
        link = DatabaseLink(self.server)
        self.links.append(link)
        return link

    def audit_log(self) -> NoReturn:
        raise NotImplementedError

    def analytics(self) -> NoReturn:
        raise NotImplementedError

    def logout_tokens(self) -> NoReturn:
        raise NotImplementedError

    async def execute(self, statement: str) -> NoReturn:
        raise NotImplementedError(statement)
