"""/readyz?verbose of several workers names the stores of each."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sidegate.core.address import Address
from sidegate.core.errors import StoreUnavailable
from sidegate.web.ops.app import Readiness, build_ops_handler, collect_from
from sidegate.web.ops.workers import WorkerAggregator
from sidegate.web.server.listener import Listener

Ping = Callable[[], Awaitable[None]]


async def succeeds() -> None: ...


async def fails() -> None:
    raise StoreUnavailable("redis", "down on purpose")


async def hangs() -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def open_worker(path: Path, **stores: Ping) -> AsyncIterator[None]:
    readiness = Readiness(stores, is_draining=lambda: False, is_listening=lambda: True)
    handler = build_ops_handler(readiness, collect_from(CollectorRegistry()))
    listener = Listener("ops", handler, on_bad_request=lambda: None)
    await listener.open(Address(path=str(path)))
    yield
    await listener.close(drain_timeout=0.2)


async def report(
    directory: Path, workers: dict[str, dict[str, Ping]], *, draining: bool = False
) -> tuple[bool, list[str]]:
    """Return the report about these workers, and about one that does not run."""
    paths = {number: directory / f"{number}.sock" for number in (*workers, "9")}
    async with AsyncExitStack() as stack:
        for number, stores in workers.items():
            await stack.enter_async_context(open_worker(paths[number], **stores))
        aggregator = WorkerAggregator(
            {number: str(path) for number, path in paths.items()},
            merge=lambda _: CollectorRegistry(),
            is_draining=lambda: draining,
        )
        passed, text = await aggregator.report()
    return passed, text.splitlines()


async def test_stores_of_each_worker_are_named(tmp_path: Path) -> None:
    passed, lines = await report(
        tmp_path,
        {
            "0": {"redis": succeeds, "postgres": succeeds},
            "1": {"redis": fails, "postgres": succeeds},
            "2": {"redis": fails, "postgres": fails},
        },
    )
    assert passed
    assert lines == [
        "[+]worker 0",
        "[+]worker 0: store redis ok",
        "[+]worker 0: store postgres ok",
        "[+]worker 0: listeners open ok",
        "[+]worker 0: not draining ok",
        "[+]worker 1",
        "[-]worker 1: store redis failed",
        "[+]worker 1: store postgres ok",
        "[+]worker 1: listeners open ok",
        "[+]worker 1: not draining ok",
        "[-]worker 2",
        "[-]worker 2: store redis failed",
        "[-]worker 2: store postgres failed",
        "[+]worker 2: listeners open ok",
        "[+]worker 2: not draining ok",
        "[-]worker 9",
        "readyz check passed",
    ]


@pytest.mark.parametrize(
    ("workers", "draining"), [({"0": {"redis": fails}}, False), ({"0": {"redis": succeeds}}, True)]
)
async def test_report_fails_without_a_ready_worker_and_while_draining(
    tmp_path: Path, workers: dict[str, dict[str, Ping]], draining: bool
) -> None:
    passed, lines = await report(tmp_path, workers, draining=draining)
    assert not passed
    assert lines[-1] == "readyz check failed"


async def test_store_that_hangs_makes_no_worker_unready(tmp_path: Path) -> None:
    passed, lines = await report(tmp_path, {"0": {"redis": hangs, "postgres": succeeds}})
    assert passed
    assert lines[:3] == [
        "[+]worker 0",
        "[-]worker 0: store redis failed",
        "[+]worker 0: store postgres ok",
    ]
