"""The ops door: what probes and Prometheus are told."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from sidegate.core.address import Address
from sidegate.core.errors import StoreUnavailable
from sidegate.observability.metrics import Metrics, registry
from sidegate.web.ops.app import Ping, Readiness, always, ops_handler
from sidegate.web.server.fast_path import HeadTimeouts
from sidegate.web.server.listener import DEFAULT_MAX_CONNECTIONS, Listener, closed_handler
from tests.stores.waiting import until
from tests.web.raw_http import Reply, ask, wire
from tests.web.tape import Tape


async def answers() -> None: ...


async def is_down() -> None:
    raise StoreUnavailable("postgres", "told to be down")


async def hangs() -> None:
    await asyncio.Event().wait()


def get(target: str, *lines: bytes, method: bytes = b"GET") -> bytes:
    start = b"%s %s HTTP/1.1" % (method, target.encode())
    return b"\r\n".join((start, b"Host: ops.test", *lines, b"", b""))


@asynccontextmanager
async def open_ops(
    *,
    draining: Callable[[], bool] = lambda: False,
    opened: Callable[[], bool] = lambda: True,
    told: CollectorRegistry | None = None,
    **pings: Ping,
) -> AsyncIterator[Address]:
    handler = ops_handler(Readiness(pings, draining, opened), always(told or CollectorRegistry()))
    door = Listener("ops", handler, on_bad_request=lambda: None)
    yield await door.open(Address("127.0.0.1", 0))
    await door.close(patience=0.2)


async def test_livez_asks_no_store() -> None:
    async def unasked() -> None:
        raise AssertionError("livez asked a store")

    async with open_ops(redis=unasked, postgres=unasked) as address:
        reply = await ask(address, get("/livez"))

    assert (reply.status, reply.body) == (200, b"ok\n")


async def test_healthz_is_livez() -> None:
    async with open_ops(postgres=is_down) as address:
        assert (await ask(address, get("/healthz"))).status == 200


async def test_livez_is_well_while_draining() -> None:
    async with open_ops(draining=lambda: True) as address:
        assert (await ask(address, get("/livez"))).status == 200


@pytest.mark.parametrize(
    ("redis", "postgres", "status"),
    [
        (answers, answers, 200),
        (answers, is_down, 200),
        (is_down, answers, 200),
        (is_down, is_down, 503),
    ],
)
async def test_one_store_that_answers_is_enough(redis: Ping, postgres: Ping, status: int) -> None:
    async with open_ops(redis=redis, postgres=postgres) as address:
        assert (await ask(address, get("/readyz"))).status == status


async def test_a_ready_house_says_only_ok() -> None:
    async with open_ops(postgres=answers) as address:
        assert (await ask(address, get("/readyz"))).body == b"ok\n"


@pytest.mark.parametrize("target", ["/readyz?verbose", "/readyz?verbose=1", "/readyz?a=b&verbose"])
async def test_verbose_readyz_has_a_line_for_each_component(target: str) -> None:
    async with open_ops(redis=is_down, postgres=answers) as address:
        reply = await ask(address, get(target))

    assert reply.status == 200
    assert reply.body.decode().splitlines() == [
        "[-]store redis failed",
        "[+]store postgres ok",
        "[+]doors open ok",
        "[+]not draining ok",
        "readyz check passed",
    ]


async def test_a_house_that_is_not_ready_says_why_unasked() -> None:
    async with open_ops(postgres=is_down) as address:
        reply = await ask(address, get("/readyz"))

    assert reply.status == 503
    assert reply.body.decode().splitlines() == [
        "[-]store postgres failed",
        "[+]doors open ok",
        "[+]not draining ok",
        "readyz check failed",
    ]


async def test_a_draining_house_is_not_ready() -> None:
    async with open_ops(draining=lambda: True, postgres=answers) as address:
        reply = await ask(address, get("/readyz"))

    assert reply.status == 503
    assert b"[-]not draining failed\n" in reply.body


async def test_a_house_whose_doors_are_not_all_open_is_not_ready() -> None:
    async with open_ops(opened=lambda: False, postgres=answers) as address:
        reply = await ask(address, get("/readyz"))

    assert reply.status == 503
    assert b"[-]doors open failed\n" in reply.body


async def test_a_ping_that_hangs_is_a_store_that_does_not_answer() -> None:
    async with open_ops(redis=hangs, postgres=hangs) as address:
        start = time.monotonic()
        reply = await ask(address, get("/readyz"))
        took = time.monotonic() - start

    assert reply.status == 503
    assert took < 1  # Kubernetes waits no longer


async def test_a_ping_that_hangs_hides_no_store_that_answers() -> None:
    async with open_ops(redis=hangs, postgres=answers) as address:
        assert (await ask(address, get("/readyz"))).status == 200


async def test_while_readyz_waits_livez_answers() -> None:
    async with open_ops(postgres=hangs) as address, wire(address) as waiting:
        await waiting.send(get("/readyz"))
        assert (await ask(address, get("/livez"))).status == 200


def some_gauge() -> CollectorRegistry:
    """Return what reads the same at every scrape."""
    told = CollectorRegistry()
    Gauge("sidegate_test", "For tests.", registry=told).set(1)
    return told


def some_metrics() -> CollectorRegistry:
    metrics = Metrics(version="1.2.3", revocation_bound=5)
    metrics.check("ext-authz", "allow", "ok", 0.0003)
    return registry(metrics)


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain;version=0.0.4"])
async def test_metrics_are_plain_text_unless_more_is_asked(accept: str) -> None:
    async with open_ops(told=some_metrics()) as address:
        reply = await ask(address, get("/metrics", b"Accept: " + accept.encode()))

    assert reply.status == 200
    assert reply.only("Content-Type").startswith("text/plain; version=")
    assert "sidegate_checks" in {family.name for family in plain(reply.body.decode())}


async def test_metrics_are_openmetrics_for_who_asks() -> None:
    wish = b"Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1"
    async with open_ops(told=some_metrics()) as address:
        reply = await ask(address, get("/metrics", wish))

    assert reply.only("Content-Type").startswith("application/openmetrics-text; version=1.")
    assert reply.body.endswith(b"# EOF\n")
    families = openmetrics(reply.body.decode())  # type: ignore[no-untyped-call]  # it has none
    assert "sidegate_checks" in {family.name for family in families}


async def test_metrics_are_told_when_no_store_answers() -> None:
    async with open_ops(told=some_metrics(), redis=hangs, postgres=is_down) as address:
        assert (await ask(address, get("/metrics"))).status == 200


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/metrics"])
async def test_head_is_answered_like_get_but_without_a_body(target: str) -> None:
    async with (
        open_ops(told=some_gauge(), postgres=answers) as address,
        wire(address) as line,
    ):
        await line.send(get(target, method=b"HEAD"))
        to_head = await line.reply(to_head=True)
        await line.send(get(target))
        to_get = await line.reply()

    assert meaning(to_head) == meaning(to_get)
    assert to_get.status == 200


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PROPFIND"])
async def test_nothing_can_be_done_here(target: str, method: bytes) -> None:
    async with open_ops(postgres=answers) as address:
        assert (await ask(address, get(target, method=method))).status == 405


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/livez/",
        "/metrics/../debug/pprof",
        "/debug/pprof",
        "//livez",
        "/%6civez",
        "http://ops.test/livez",
        "/auth-request",
        "/v1/sessions",
    ],
)
async def test_there_is_nothing_else_here(target: str) -> None:
    async with open_ops(postgres=answers) as address:
        assert (await ask(address, get(target))).status == 404


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/metrics", "/x"])
async def test_no_answer_may_be_kept_or_names_a_version(target: str) -> None:
    async with open_ops() as address:
        reply = await ask(address, get(target))

    assert (reply.only("Cache-Control"), reply.only("Server")) == ("no-store", "sidegate")


def meaning(reply: Reply) -> tuple[int, list[tuple[str, str]]]:
    return reply.status, [field for field in reply.fields if field[0] != "Date"]


async def test_a_door_has_room_for_a_thousand_unless_it_says_otherwise() -> None:
    door = Listener("ops", closed_handler, on_bad_request=lambda: None)
    within = [Tape(door) for _ in range(DEFAULT_MAX_CONNECTIONS)]
    beyond = Tape(door)
    beyond.feed(get("/livez"))
    within[0].abort()
    await until(lambda: sum(door.lanes().values()) < DEFAULT_MAX_CONNECTIONS)
    again = Tape(door)
    again.feed(get("/livez"))
    await again.until_it_has_ended()
    await door.close(patience=0)

    assert beyond.sent.startswith(b"HTTP/1.1 503 ")
    assert again.sent.startswith(b"HTTP/1.1 401 ")


async def test_who_connects_and_asks_nothing_does_not_stay() -> None:
    door = Listener(
        "ops", closed_handler, on_bad_request=lambda: None, patience=HeadTimeouts(head=0.05)
    )
    address = await door.open(Address("127.0.0.1", 0))
    async with wire(address) as line:
        assert await line.until_closed() == b""
    await door.close(patience=0)
