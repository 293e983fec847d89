"""The operations of the soak load, with an instance of its own."""

import time
from collections.abc import Iterator

import pytest

from tests.bench.connection import connect
from tests.bench.errors import UnexpectedResponses
from tests.bench.soak.load import Load
from tests.bench.soak.sample import take_sample
from tests.stores.waiting import wait_until
from tests.support.processes import Server, temporary_directory
from tests.support.sidegate import Sidegate, start_sidegate


class Time:
    """A clock that is set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
def sidegate() -> Iterator[Sidegate]:
    with temporary_directory() as directory:
        started = start_sidegate(directory)
        yield started
        started.server.stop()


@pytest.fixture
def now() -> Time:
    return Time()


@pytest.fixture
def load(sidegate: Sidegate, now: Time) -> Load:
    return Load(sidegate, lifetime=60.0, now=now)


async def test_each_operation_is_answered_as_expected(load: Load, sidegate: Sidegate) -> None:
    async with connect(sidegate.server.port) as gate, connect(sidegate.admin_port) as admin:
        for operation in (load.log_in, load.log_in, load.refresh, load.revoke):
            await operation(admin)
        for _ in range(50):  # of both the live and the ended session
            await load.check(gate)

    assert (load.requests, load.failures) == (54, 0)
    assert (load.issued, load.count_live()) == (3, 1)
    load.verify()


async def test_without_sessions_there_are_no_requests(load: Load, sidegate: Sidegate) -> None:
    async with connect(sidegate.server.port) as gate, connect(sidegate.admin_port) as admin:
        await load.check(gate)
        await load.refresh(admin)
        await load.revoke(admin)

    assert load.requests == 0
    with pytest.raises(UnexpectedResponses, match="0 of 0 requests failed"):
        load.verify()


async def test_session_is_left_alone_before_it_ends(
    load: Load, sidegate: Sidegate, now: Time
) -> None:
    async with connect(sidegate.admin_port) as admin:
        await load.log_in(admin)
        now.seconds = 30.0
        await load.log_in(admin)
        assert load.count_live() == 2
        now.seconds = 57.0
        assert load.count_live() == 1
        await load.refresh(admin)  # does not prolong the session
        now.seconds = 87.0
        assert load.count_live() == 0


async def test_unexpected_status_is_a_failure(load: Load, sidegate: Sidegate) -> None:
    async with connect(sidegate.server.port) as gate, connect(sidegate.admin_port) as admin:
        await load.log_in(admin)
        await load.log_in(gate)  # the wrong listener

    assert (load.requests, load.failures, load.issued) == (2, 1, 1)
    with pytest.raises(UnexpectedResponses, match="1 of 2 requests failed"):
        load.verify()


async def test_sample_has_the_resources_of_instance_and_redis(
    load: Load, sidegate: Sidegate, own_redis: Server
) -> None:
    async with connect(sidegate.admin_port) as admin:
        await load.log_in(admin)

    sample = take_sample(2.5, load, sidegate, own_redis)

    assert (sample.at, sample.live, sample.issued, sample.requests) == (2.5, 1, 1, 1)
    assert sample.resident > 10_000_000
    assert sample.descriptors > 5
    assert len(sample.series) > 50
    assert sample.redis_keys == 0
    assert sample.redis_memory > 0


async def test_load_runs_until_the_end_of_its_block(sidegate: Sidegate) -> None:
    load = Load(sidegate, lifetime=60.0, now=time.monotonic)
    async with load.running():
        await wait_until(lambda: load.requests >= 20)
    requests = load.requests
    async with connect(sidegate.admin_port) as admin:
        await load.log_in(admin)  # the only one now

    assert load.failures == 0
    assert load.issued > 1
    assert load.requests == requests + 1
