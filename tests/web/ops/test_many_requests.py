"""Many requests to the ops listener cost no more store pings and pages than few."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry, Gauge

from sidegate.core.address import Address
from sidegate.core.errors import StoreUnavailable
from sidegate.web.ops.app import Readiness, build_ops_handler
from sidegate.web.ops.shared_result import MAX_AGE
from sidegate.web.server.listener import Listener
from tests.support.clock import FakeClock
from tests.web.raw_http import connect, send_request

CONNECTIONS = 40


class Ops:
    """An ops listener with a store and a registry that count their uses."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.pings = 0
        self.most_at_once = 0
        self.pages = 0
        self.is_up = True
        self.draining = False
        self._in_progress = 0
        self._gauge = Gauge("sidegate_test", "For tests.", registry=None)
        self.registry = CollectorRegistry()
        self.registry.register(self._gauge)
        self.address = Address("127.0.0.1", 0)

    async def ping(self) -> None:
        self.pings += 1
        self._in_progress += 1
        self.most_at_once = max(self.most_at_once, self._in_progress)
        await asyncio.sleep(0.01)  # a round trip
        self._in_progress -= 1
        if not self.is_up:
            raise StoreUnavailable("redis", "on purpose")

    async def collect(self) -> CollectorRegistry:
        self.pages += 1
        self._gauge.set(self.pages)
        return self.registry

    async def get(self, target: str, accept: str = "*/*") -> tuple[int, str, bytes]:
        head = f"GET {target} HTTP/1.1\r\nHost: ops.test\r\nAccept: {accept}\r\n\r\n"
        response = await send_request(self.address, head.encode())
        return response.status, response.get_one("Content-Type"), response.body

    async def get_often(self, target: str) -> list[int]:
        """Return the statuses of requests on many connections at once, several on each."""
        head = f"GET {target} HTTP/1.1\r\nHost: ops.test\r\n\r\n".encode()
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(connect(self.address)) for _ in range(CONNECTIONS)
            ]
            statuses = list[int]()
            for _ in range(3):
                for connection in connections:
                    await connection.send(head)
                statuses += [(await each.read_response()).status for each in connections]
            return statuses


@asynccontextmanager
async def open_ops() -> AsyncIterator[Ops]:
    ops = Ops()
    readiness = Readiness(
        {"redis": ops.ping},
        is_draining=lambda: ops.draining,
        is_listening=lambda: True,
        monotonic=ops.clock.monotonic,
    )
    handler = build_ops_handler(readiness, ops.collect, monotonic=ops.clock.monotonic)
    listener = Listener("ops", handler, on_bad_request=lambda: None)
    ops.address = await listener.open(Address("127.0.0.1", 0))
    yield ops
    await listener.close(drain_timeout=0.2)


@pytest.fixture
async def ops() -> AsyncIterator[Ops]:
    async with open_ops() as opened:
        yield opened


async def test_many_readiness_checks_are_one_ping(ops: Ops) -> None:
    statuses = await ops.get_often("/readyz")

    assert statuses == [200] * CONNECTIONS * 3
    assert (ops.pings, ops.most_at_once) == (1, 1)


async def test_store_is_pinged_again_after_half_a_second(ops: Ops) -> None:
    for step in (0, MAX_AGE / 2, MAX_AGE / 2, MAX_AGE):
        ops.clock.advance(step)
        await ops.get("/readyz")

    assert ops.pings == 3


async def test_outage_is_remembered_as_briefly(ops: Ops) -> None:
    ops.is_up = False
    assert (await ops.get("/readyz"))[0] == 503
    ops.is_up = True
    assert (await ops.get("/readyz"))[0] == 503
    ops.clock.advance(MAX_AGE)
    assert (await ops.get("/readyz"))[0] == 200
    assert ops.pings == 2


async def test_draining_is_not_remembered(ops: Ops) -> None:
    assert (await ops.get("/readyz"))[0] == 200
    ops.draining = True
    assert (await ops.get("/readyz"))[0] == 503


async def test_many_scrapes_are_one_page(ops: Ops) -> None:
    statuses = await ops.get_often("/metrics")

    assert statuses == [200] * CONNECTIONS * 3
    assert (ops.pages, ops.pings) == (1, 0)


async def test_page_is_built_again_after_half_a_second(ops: Ops) -> None:
    assert b"sidegate_test 1.0" in (await ops.get("/metrics"))[2]
    assert b"sidegate_test 1.0" in (await ops.get("/metrics"))[2]
    ops.clock.advance(MAX_AGE)
    assert b"sidegate_test 2.0" in (await ops.get("/metrics"))[2]


async def test_each_format_has_a_page_of_its_own(ops: Ops) -> None:
    openmetrics = "application/openmetrics-text;version=1.0.0"
    for _ in range(2):
        assert (await ops.get("/metrics"))[1].startswith("text/plain")
        assert (await ops.get("/metrics", openmetrics))[1].startswith("application/openmetrics")

    assert ops.pages == 2


async def test_number_of_formats_is_limited(ops: Ops) -> None:
    """A client can invent versions, each of which would be a page."""
    for number in range(100):
        accept = f"application/openmetrics-text;version=1.0.{number}"
        assert (await ops.get("/metrics", accept))[0] == 200

    assert ops.pages < 12
    assert (await ops.get("/metrics"))[1].startswith("text/plain")


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text;version=abc", "text/plain;version=x.y"]
)
async def test_version_that_is_no_number_gets_plain_text(ops: Ops, accept: str) -> None:
    status, content_type, _ = await ops.get("/metrics", accept)

    assert status == 200
    assert content_type.startswith("text/plain")
