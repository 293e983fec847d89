"""The simulated database, by the contract suites of the real ones."""

from typing import Final

import pytest

from sidegate.core.protocols import DurableStore
from tests.contracts import (
    test_change_log,
    test_conditions,
    test_durable_store,
    test_limits,
    test_locks,
)
from tests.simulation.contracts import ContractDatabase, select_contract

_OWN: Final = frozenset({"database", "durable", "other_store", "stoppable", "stoppable_store"})

for _suite in (test_change_log, test_conditions, test_durable_store, test_limits, test_locks):
    globals().update(select_contract(_suite, without=_OWN))


@pytest.fixture
def database() -> ContractDatabase:
    return ContractDatabase()


@pytest.fixture
def stoppable() -> ContractDatabase:
    return ContractDatabase()


@pytest.fixture
async def durable(database: ContractDatabase) -> DurableStore:
    return await database.open()


@pytest.fixture
async def other_store(database: ContractDatabase) -> DurableStore:
    return await database.open()


@pytest.fixture
async def stoppable_store(stoppable: ContractDatabase) -> DurableStore:
    return await stoppable.open()
