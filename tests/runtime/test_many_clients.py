"""Clients of ops and admin that hold connections or ask without end: the others are served."""

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path

import pytest

from sidegate.core.address import Address
from tests.stores.waiting import wait_until_async
from tests.support.processes import START_TIMEOUT
from tests.support.sidegate import Created, Sidegate, start_sidegate
from tests.web.raw_http import RawConnection, connect, send_request

IDLE_CONNECTIONS = 1_500
ASKING_CONNECTIONS = 24  # before there was a limit, one check in three got 503 beside these
CHECKS = 400
# A probe takes milliseconds. Time is not counted in which a busy machine lets the instance, or this
# process, wait for a CPU.
PROBE_TIMEOUT = 1.0
# Seconds of such a wait after which a check may be too late: half of the deadline of the gate.
STARVED = 0.075


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """Allow this process the sockets that it holds."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture(scope="module")
def sidegate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidegate]:
    sidegate = start_sidegate(tmp_path_factory.mktemp("sidegate"))
    yield sidegate
    sidegate.server.stop()


def build_request(path: str, *lines: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *lines, "", "")).encode()


def read_cpu_wait(sidegate: Sidegate) -> float:
    """Return for how many seconds the instance and this process have waited for a CPU."""
    pids = (sidegate.server.process.pid, os.getpid())
    waits = (Path(f"/proc/{pid}/schedstat").read_text().split()[1] for pid in pids)
    return sum(map(int, waits)) / 1e9


async def probe(sidegate: Sidegate, path: str, *, port: int | None = None) -> int:
    """Return the status of a request on a new connection, by default to the ops listener.

    It must come in time.
    """
    address = Address("127.0.0.1", port or sidegate.ops_port)
    began, waited = time.monotonic(), read_cpu_wait(sidegate)
    async with asyncio.timeout(START_TIMEOUT):
        response = await send_request(address, build_request(path))
    waited = read_cpu_wait(sidegate) - waited
    assert time.monotonic() - began - waited < PROBE_TIMEOUT
    return response.status


async def check(gate: RawConnection, session: Created) -> int:
    await gate.send(build_request("/forward-auth", f"Authorization: Bearer {session.token}"))
    return (await gate.read_response()).status


@pytest.mark.parametrize("after_a_request", [False, True])
async def test_probe_is_answered_while_idle_connections_are_held(
    sidegate: Sidegate, after_a_request: bool
) -> None:
    session = sidegate.create_session()
    async with AsyncExitStack() as stack:
        for port, path in ((sidegate.ops_port, "/livez"), (sidegate.admin_port, "/v1/sessions")):
            for _ in range(IDLE_CONNECTIONS):
                held = await stack.enter_async_context(connect(Address("127.0.0.1", port)))
                if after_a_request and port == sidegate.ops_port:
                    await held.send(build_request(path))
                    await held.read_response()

        for _ in range(3):
            assert await probe(sidegate, "/livez") == HTTPStatus.OK
            assert await probe(sidegate, "/readyz") == HTTPStatus.OK
            assert await probe(sidegate, "/metrics") == HTTPStatus.OK
            status = await probe(sidegate, "/v1/sessions", port=sidegate.admin_port)
            assert status == HTTPStatus.UNAUTHORIZED
        another = await asyncio.to_thread(sidegate.create_session)
        gate = await stack.enter_async_context(connect(Address("127.0.0.1", sidegate.server.port)))
        assert await check(gate, session) == await check(gate, another) == HTTPStatus.OK


async def ask_for_ever(port: int, request: bytes) -> None:
    while True:
        with suppress(EOFError, ConnectionError):
            async with connect(Address("127.0.0.1", port)) as connection:
                while True:
                    await connection.send(request)
                    await connection.read_response()


@asynccontextmanager
async def many_asking(port: int, request: bytes) -> AsyncIterator[None]:
    """Send a request on many connections, again as soon as it is answered."""
    tasks = [asyncio.create_task(ask_for_ever(port, request)) for _ in range(ASKING_CONNECTIONS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


# As many as fit into one read: each costs as much as a chunk of any size.
TINY_CHUNKS = b"1\r\nx\r\n" * 40_000 + b"0\r\n\r\n"
CHUNKED = build_request("/livez", "Transfer-Encoding: chunked") + TINY_CHUNKS
OTHER_HOST = b"GET /v1/sessions HTTP/1.1\r\nHost: other.example\r\n\r\n"


@pytest.mark.parametrize(
    ("listener", "request_"),
    [
        ("ops", build_request("/readyz")),
        ("ops", build_request("/metrics")),
        ("ops", CHUNKED),
        ("admin", build_request("/v1/sessions")),
        ("admin", OTHER_HOST),
        ("admin", CHUNKED),
    ],
    ids=["readyz", "metrics", "ops chunks", "admin", "admin other host", "admin chunks"],
)
async def test_checks_are_answered_beside_many_requests_without_a_key(
    sidegate: Sidegate, listener: str, request_: bytes
) -> None:
    sessions = [await asyncio.to_thread(sidegate.create_session) for _ in range(20)]
    port = sidegate.ops_port if listener == "ops" else sidegate.admin_port
    gate_address = Address("127.0.0.1", sidegate.server.port)
    async with many_asking(port, request_), connect(gate_address) as gate:
        statuses = list[int]()
        for number in range(2 * CHECKS):
            waited = read_cpu_wait(sidegate)
            status = await check(gate, sessions[number % 20])
            if status == HTTPStatus.OK or read_cpu_wait(sidegate) - waited < STARVED:
                statuses.append(status)
            if len(statuses) == CHECKS:
                break
        assert await probe(sidegate, "/readyz") == HTTPStatus.OK

    assert set(statuses) <= {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}
    assert statuses.count(HTTPStatus.OK) >= 0.98 * CHECKS


@pytest.mark.parametrize("lines", [[], ["Content-Length: 0"]], ids=["fast path", "handed over"])
async def test_gate_refuses_a_peer_at_its_limit(workdir: Path, lines: list[str]) -> None:
    sidegate = start_sidegate(workdir, SIDEGATE_GATE__MAX_CONNECTIONS_PER_PEER="3")
    request = build_request("/forward-auth", *lines)
    address = Address("127.0.0.1", sidegate.server.port)
    try:
        for _ in range(3):  # closed connections do not count
            async with AsyncExitStack() as stack:
                held = [await stack.enter_async_context(connect(address)) for _ in range(3)]
                for connection in held:
                    await connection.send(request)
                    assert (await connection.read_response()).status == HTTPStatus.UNAUTHORIZED
                refused = await send_request(address, request)
                assert refused.status == HTTPStatus.SERVICE_UNAVAILABLE
                other = await send_request(address, request, source="127.0.0.2")
                assert other.status == HTTPStatus.UNAUTHORIZED

            async def is_admitted() -> bool:
                return (await send_request(address, request)).status == HTTPStatus.UNAUTHORIZED

            await wait_until_async(is_admitted)
    finally:
        await asyncio.to_thread(sidegate.server.stop)


async def test_number_of_closed_connections_is_exported(workdir: Path) -> None:
    sidegate = start_sidegate(workdir, SIDEGATE_OPS__MAX_CONNECTIONS_PER_PEER="3")
    try:
        address = Address("127.0.0.1", sidegate.ops_port)
        async with AsyncExitStack() as stack:
            for _ in range(10):
                await stack.enter_async_context(connect(address))
            page = (await send_request(address, build_request("/metrics"))).body.decode()
    finally:
        await asyncio.to_thread(sidegate.server.stop)

    name = 'sidegate_connections_over_limit_total{listener="ops",outcome="evicted"} '
    [line] = [line for line in page.splitlines() if line.startswith(name)]
    assert float(line.removeprefix(name)) >= 7
