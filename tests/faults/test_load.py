"""Who is checked, how often, and by way of whom."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from tests.faults.gateway import Gateway, Upstream
from tests.faults.history import Check, Record, Result, Road
from tests.faults.load import Rates
from tests.faults.population import Held, Population
from tests.support.processes import Child, Server
from tests.support.sidegate import Sidegate

ADA = Held("sgw_x", 1, "s1", "ada")


def a_population(hot: int = 2) -> Population:
    return Population(Random(1), users=3, hot=hot)


def somebody(number: int) -> Held:
    return Held(f"sgw_{number}", number, f"s{number}", "ada")


# --- The population


def test_the_first_ones_are_hot_and_the_rest_are_warm() -> None:
    population = a_population(hot=2)
    for number in range(5):
        population.join(somebody(number))
    assert (len(population.hot), len(population.warm)) == (2, 3)


def test_whoever_is_taken_out_is_in_no_group() -> None:
    population = a_population(hot=2)
    for number in range(5):
        population.join(somebody(number))
    taken = population.take()
    assert taken is not None
    assert taken not in population.living
    assert len(population) == 4


def test_while_nobody_joins_somebody_can_be_taken_and_one_stays_hot() -> None:
    population = a_population(hot=2)
    for number in range(20):
        population.join(somebody(number))
    taken = [population.take() for _ in range(18)]
    assert None not in taken
    assert len(population.hot) == 1
    assert len(population.warm) == 1
    assert population.take() is None


def test_nobody_is_forgotten_whom_an_instance_may_have_in_memory() -> None:
    population = a_population(hot=0)
    for number in range(5):
        population.join(somebody(number))
    for held in population.living[:4]:
        population.seen(held)
    unseen = population.living[4]
    taken = {population.take_unseen() for _ in range(5)} - {None}
    assert taken == {unseen}
    assert len(population.warm) == 4


def test_the_same_token_has_the_same_number() -> None:
    population = a_population()
    first = population.issue("sgw_a", "s1", "ada")
    assert population.issue("sgw_a", "s1", "ada") is first
    assert population.issue("sgw_b", "s1", "ada").number != first.number


def test_a_token_is_not_shown() -> None:
    assert "sgw_" not in repr(ADA)


def test_at_full_load_there_are_a_thousand_checks_a_second_and_a_little_more() -> None:
    assert 1000 < Rates.scaled(1.0).checks < 1100
    assert Rates.scaled(0.3).creates == Rates.scaled(1.0).creates


# --- The gateway


class Instance:
    """Something at a port that answers every request with a status, or keeps silent."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            self.asked += 1
            if self.status:
                writer.write(
                    b"HTTP/1.1 %d X\r\nX-Auth-User: ada\r\nX-Auth-Session: s1\r\n"
                    b"Content-Length: 0\r\n\r\n" % self.status
                )
        writer.close()


@asynccontextmanager
async def through(*instances: Instance, record: Record) -> AsyncIterator[Gateway]:
    """Lend a gateway before some instances that is patient for a twentieth of a second."""
    async with AsyncExitStack() as stack:
        upstreams = []
        for number, instance in enumerate(instances):
            server = await asyncio.start_server(instance, "127.0.0.1", 0)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            child = Child("nobody", [], Path(), lambda: True)
            at = Sidegate(Server("instance", port, "", child), port, port, "")
            upstreams.append(Upstream(str(number), at))
            stack.push_async_callback(upstreams[-1].close)
        yield Gateway(upstreams, record, Random(1), patience=0.05)


@pytest.fixture
async def record(tmp_path: Path) -> AsyncIterator[Record]:
    with Record(tmp_path / "history.jsonl") as record:
        yield record


def noted(record: Record) -> list[tuple[str, Result, int, bool]]:
    return [
        (entry.at, entry.result, entry.status, entry.retried)
        for entry in record.entries
        if isinstance(entry, Check)
    ]


async def test_an_answer_is_noted_with_whom_it_names(record: Record) -> None:
    async with through(Instance(200), Instance(200), record=record) as gateway:
        assert await gateway.check(ADA, Road.HOT) is Result.OK
    [check] = record.entries
    assert isinstance(check, Check)
    assert (check.named, check.named_session, check.token) == ("ada", "s1", 1)


@pytest.mark.parametrize(
    ("status", "result"), [(401, Result.FAIL), (403, Result.FAIL), (503, Result.INFO)]
)
async def test_a_no_and_an_outage_are_told_apart(
    status: int, result: Result, record: Record
) -> None:
    async with through(Instance(status), Instance(status), record=record) as gateway:
        assert await gateway.check(ADA, Road.HOT) is result


async def test_whoever_does_not_answer_is_not_asked_again_soon(record: Record) -> None:
    silent, well = Instance(0), Instance(200)
    async with through(silent, well, record=record) as gateway:
        for _ in range(20):
            assert await gateway.check(ADA, Road.HOT) is Result.OK
    assert silent.asked < 10
    assert well.asked == 20


async def test_a_try_that_was_not_answered_is_noted_when_it_ends(record: Record) -> None:
    async with through(Instance(0), Instance(200), record=record) as gateway:
        while ("0", Result.INFO, 0, True) not in noted(record):
            await gateway.check(ADA, Road.HOT)
            for upstream in gateway.upstreams:
                await upstream.gate.close()
            await asyncio.sleep(0)


async def test_a_probe_asks_everybody_and_nobody_instead(record: Record) -> None:
    async with through(Instance(200), Instance(401), record=record) as gateway:
        await gateway.probe(ADA, Road.OVER)
    assert sorted(noted(record)) == [("0", Result.OK, 200, False), ("1", Result.FAIL, 401, False)]


async def test_whoever_is_not_ready_is_asked_only_if_nobody_is(record: Record) -> None:
    one, other = Instance(200), Instance(200)
    async with through(one, other, record=record) as gateway:
        gateway.upstreams[0].ready = False
        for _ in range(10):
            await gateway.check(ADA, Road.HOT)
        assert (one.asked, other.asked) == (0, 10)
        gateway.upstreams[1].ready = False
        assert await gateway.check(ADA, Road.HOT) is Result.OK


async def test_clients_that_leave_are_noted_as_such(record: Record) -> None:
    async with through(Instance(0), Instance(0), record=record) as gateway:
        gateway.leaving = 1.0
        await gateway.check(ADA, Road.HOT)
    [check] = record.entries
    assert isinstance(check, Check)
    assert (check.left, check.status) == (True, 0)
