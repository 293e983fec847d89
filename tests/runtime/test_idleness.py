"""How a process learns that its database was unavailable, so that idleness is not known."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.token import TokenKey
from sidegate.runtime.container import Container
from sidegate.runtime.resources import open_resources
from sidegate.services.idleness import Idleness
from sidegate.settings import load
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.contracts.values import build_digest, build_session
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import cancel_all, wait_until
from tests.support.clock import NOON
from tests.support.processes import Server


@dataclass(frozen=True)
class Process:
    """The services of one process, whose idleness is known as soon as a round succeeds."""

    container: Container
    link: TcpProxy

    @property
    def knows_idleness(self) -> bool:
        return self.container.idleness.is_known

    def cut_link(self) -> None:
        self.link.refuse_new = True
        self.link.reset_connections()


@pytest.fixture
async def process(own_postgres: Server) -> AsyncIterator[Process]:
    await migrate_postgres(own_postgres.url)
    async with TcpProxy(own_postgres.port) as link:
        url = own_postgres.url.replace(f":{own_postgres.port}/", f":{link.port}/")
        settings = load(
            None,
            {"SIDEGATE_DATABASE_URL": url, "SIDEGATE_TOKEN__KEYS": TokenKey.generate().format()},
        )
        async with open_resources(settings) as resources:
            idleness = Idleness(clock=resources.clock, settle_time=0.0)
            yield Process(Container(replace(resources, idleness=idleness)), link)


async def fail_lookups(container: Container) -> None:
    for _ in range(5):  # then the circuit breaker is open
        with suppress(StoreUnavailable):
            await container.lookup.find(build_digest())


async def fail_touch(container: Container) -> None:
    container.activity.on_allowed(build_session(at=NOON - timedelta(minutes=10)), NOON)
    await container.activity.flush()


@pytest.mark.parametrize("fail", [fail_lookups, fail_touch])
async def test_failed_requests_are_an_outage(
    process: Process, fail: Callable[[Container], Awaitable[None]]
) -> None:
    process.container.idleness.record_round(True)
    assert process.knows_idleness
    process.cut_link()
    await fail(process.container)
    assert not process.knows_idleness


async def test_change_poller_notices_an_outage_and_its_end_without_requests(
    process: Process,
) -> None:
    tasks = process.container.subscriptions.background_tasks()
    poller = next(task for task in tasks if task.name == "change_poller")
    assert not process.knows_idleness
    running = asyncio.create_task(poller.run())
    await wait_until(lambda: process.knows_idleness)
    process.cut_link()
    await wait_until(lambda: not process.knows_idleness)
    process.link.refuse_new = False
    await wait_until(lambda: process.knows_idleness)
    await cancel_all([running])
