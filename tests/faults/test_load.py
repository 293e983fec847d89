"""The population, the rates, and the simulated gateway."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from tests.faults.gateway import SimulatedGateway, Upstream
from tests.faults.history import Check, HistoryRecorder, Result, TokenCategory
from tests.faults.load import Rates
from tests.faults.population import ClientToken, Population
from tests.support.processes import Child, Server
from tests.support.sidegate import Sidegate

ADA = ClientToken("sgw_x", 1, "s1", "ada")


def make_population(hot: int = 2) -> Population:
    return Population(Random(1), users=3, hot=hot)


def make_token(number: int) -> ClientToken:
    return ClientToken(f"sgw_{number}", number, f"s{number}", "ada")


# --- The population


def test_first_tokens_are_hot_and_the_rest_warm() -> None:
    population = make_population(hot=2)
    for number in range(5):
        population.add(make_token(number))
    assert (len(population.hot), len(population.warm)) == (2, 3)


def test_taken_token_is_in_no_group() -> None:
    population = make_population(hot=2)
    for number in range(5):
        population.add(make_token(number))
    taken = population.take()
    assert taken is not None
    assert taken not in population.active
    assert len(population) == 4


def test_take_leaves_one_hot_and_one_warm_token() -> None:
    population = make_population(hot=2)
    for number in range(20):
        population.add(make_token(number))
    taken = [population.take() for _ in range(18)]
    assert None not in taken
    assert len(population.hot) == 1
    assert len(population.warm) == 1
    assert population.take() is None


def test_take_uncached_skips_recently_checked_tokens() -> None:
    population = make_population(hot=0)
    for number in range(5):
        population.add(make_token(number))
    for token in population.active[:4]:
        population.mark_checked(token)
    unseen = population.active[4]
    taken = {population.take_uncached() for _ in range(5)} - {None}
    assert taken == {unseen}
    assert len(population.warm) == 4


def test_same_token_has_the_same_number() -> None:
    population = make_population()
    first = population.issue("sgw_a", "s1", "ada")
    assert population.issue("sgw_a", "s1", "ada") is first
    assert population.issue("sgw_b", "s1", "ada").number != first.number


def test_repr_hides_the_token() -> None:
    assert "sgw_" not in repr(ADA)


def test_full_load_is_about_a_thousand_checks_a_second() -> None:
    assert 1000 < Rates.scaled(1.0).checks < 1100
    assert Rates.scaled(0.3).creates == Rates.scaled(1.0).creates


# --- The gateway


class FakeInstance:
    """A server that answers every request with a status, or with nothing if it is 0."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.requests = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            self.requests += 1
            if self.status:
                writer.write(
                    b"HTTP/1.1 %d X\r\nX-Auth-User: ada\r\nX-Auth-Session: s1\r\n"
                    b"Content-Length: 0\r\n\r\n" % self.status
                )
        writer.close()


@asynccontextmanager
async def start_gateway(
    *instances: FakeInstance, recorder: HistoryRecorder
) -> AsyncIterator[SimulatedGateway]:
    """Yield a gateway in front of some instances with a timeout of 50 ms."""
    async with AsyncExitStack() as stack:
        upstreams = []
        for number, instance in enumerate(instances):
            server = await asyncio.start_server(instance, "127.0.0.1", 0)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            child = Child("none", [], Path(), lambda: True)
            sidegate = Sidegate(Server("instance", port, "", child), port, port, "")
            upstreams.append(Upstream(str(number), sidegate))
            stack.push_async_callback(upstreams[-1].close)
        yield SimulatedGateway(upstreams, recorder, Random(1), timeout=0.05)


@pytest.fixture
async def recorder(tmp_path: Path) -> AsyncIterator[HistoryRecorder]:
    with HistoryRecorder(tmp_path / "history.jsonl") as recorder:
        yield recorder


def recorded_checks(recorder: HistoryRecorder) -> list[tuple[str, Result, int, bool]]:
    return [
        (entry.instance, entry.result, entry.status, entry.retried)
        for entry in recorder.entries
        if isinstance(entry, Check)
    ]


async def test_check_is_recorded_with_the_returned_identity(recorder: HistoryRecorder) -> None:
    async with start_gateway(FakeInstance(200), FakeInstance(200), recorder=recorder) as gateway:
        assert await gateway.check(ADA, TokenCategory.HOT) is Result.OK
    [check] = recorder.entries
    assert isinstance(check, Check)
    assert (check.returned_user, check.returned_session, check.token) == ("ada", "s1", 1)


@pytest.mark.parametrize(
    ("status", "result"), [(401, Result.FAIL), (403, Result.FAIL), (503, Result.INFO)]
)
async def test_denial_and_unavailable_have_different_results(
    status: int, result: Result, recorder: HistoryRecorder
) -> None:
    async with start_gateway(
        FakeInstance(status), FakeInstance(status), recorder=recorder
    ) as gateway:
        assert await gateway.check(ADA, TokenCategory.HOT) is result


async def test_instance_without_response_is_avoided(recorder: HistoryRecorder) -> None:
    silent, healthy = FakeInstance(0), FakeInstance(200)
    async with start_gateway(silent, healthy, recorder=recorder) as gateway:
        for _ in range(20):
            assert await gateway.check(ADA, TokenCategory.HOT) is Result.OK
    assert silent.requests < 10
    assert healthy.requests == 20


async def test_attempt_without_response_is_recorded_when_it_ends(recorder: HistoryRecorder) -> None:
    async with start_gateway(FakeInstance(0), FakeInstance(200), recorder=recorder) as gateway:
        while ("0", Result.INFO, 0, True) not in recorded_checks(recorder):
            await gateway.check(ADA, TokenCategory.HOT)
            for upstream in gateway.upstreams:
                await upstream.gate.close()
            await asyncio.sleep(0)


async def test_probe_checks_every_instance_without_retry(recorder: HistoryRecorder) -> None:
    async with start_gateway(FakeInstance(200), FakeInstance(401), recorder=recorder) as gateway:
        await gateway.probe(ADA, TokenCategory.ENDED)
    assert sorted(recorded_checks(recorder)) == [
        ("0", Result.OK, 200, False),
        ("1", Result.FAIL, 401, False),
    ]


async def test_unready_instance_is_used_only_if_none_is_ready(recorder: HistoryRecorder) -> None:
    first, other = FakeInstance(200), FakeInstance(200)
    async with start_gateway(first, other, recorder=recorder) as gateway:
        gateway.upstreams[0].ready = False
        for _ in range(10):
            await gateway.check(ADA, TokenCategory.HOT)
        assert (first.requests, other.requests) == (0, 10)
        gateway.upstreams[1].ready = False
        assert await gateway.check(ADA, TokenCategory.HOT) is Result.OK


async def test_aborted_checks_are_recorded_as_aborted(recorder: HistoryRecorder) -> None:
    async with start_gateway(FakeInstance(0), FakeInstance(0), recorder=recorder) as gateway:
        gateway.abort_share = 1.0
        await gateway.check(ADA, TokenCategory.HOT)
    [check] = recorder.entries
    assert isinstance(check, Check)
    assert (check.aborted, check.status) == (True, 0)
