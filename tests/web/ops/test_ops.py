"""The ops listener: liveness, readiness and metrics."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from sidegate.core.address import Address
from sidegate.core.errors import StoreUnavailable
from sidegate.observability.metrics import Metrics, build_registry
from sidegate.services.store_monitor import Ping
from sidegate.web.ops.app import Readiness, build_ops_handler, collect_from
from sidegate.web.server.fast_path import ConnectionTimeouts
from sidegate.web.server.listener import DEFAULT_MAX_CONNECTIONS, Listener, deny_all
from tests.stores.waiting import wait_until
from tests.support.clock import NOON
from tests.web.fake_transport import FakeTransport
from tests.web.raw_http import RawResponse, connect, send_request


async def succeeds() -> None: ...


async def fails() -> None:
    raise StoreUnavailable("postgres", "down on purpose")


async def hangs() -> None:
    await asyncio.Event().wait()


def get(target: str, *lines: bytes, method: bytes = b"GET") -> bytes:
    start = b"%s %s HTTP/1.1" % (method, target.encode())
    return b"\r\n".join((start, b"Host: ops.test", *lines, b"", b""))


@asynccontextmanager
async def open_ops(
    *,
    is_draining: Callable[[], bool] = lambda: False,
    is_listening: Callable[[], bool] = lambda: True,
    restored_since: Callable[[], datetime | None] = lambda: None,
    registry: CollectorRegistry | None = None,
    **pings: Ping,
) -> AsyncIterator[Address]:
    handler = build_ops_handler(
        Readiness(pings, is_draining, is_listening, restored_since),
        collect_from(registry or CollectorRegistry()),
    )
    listener = Listener("ops", handler, on_bad_request=lambda: None)
    yield await listener.open(Address("127.0.0.1", 0))
    await listener.close(drain_timeout=0.2)


async def test_livez_pings_no_store() -> None:
    async def unexpected() -> None:
        raise AssertionError("livez pinged a store")

    async with open_ops(redis=unexpected, postgres=unexpected) as address:
        reply = await send_request(address, get("/livez"))

    assert (reply.status, reply.body) == (200, b"ok\n")


async def test_healthz_is_an_alias_of_livez() -> None:
    async with open_ops(postgres=fails) as address:
        assert (await send_request(address, get("/healthz"))).status == 200


async def test_livez_succeeds_while_draining() -> None:
    async with open_ops(is_draining=lambda: True) as address:
        assert (await send_request(address, get("/livez"))).status == 200


@pytest.mark.parametrize(
    ("redis", "postgres", "status"),
    [
        (succeeds, succeeds, 200),
        (succeeds, fails, 200),
        (fails, succeeds, 200),
        (fails, fails, 503),
    ],
)
async def test_readyz_needs_one_available_store(redis: Ping, postgres: Ping, status: int) -> None:
    async with open_ops(redis=redis, postgres=postgres) as address:
        assert (await send_request(address, get("/readyz"))).status == status


async def test_readyz_body_is_ok() -> None:
    async with open_ops(postgres=succeeds) as address:
        assert (await send_request(address, get("/readyz"))).body == b"ok\n"


@pytest.mark.parametrize("target", ["/readyz?verbose", "/readyz?verbose=1", "/readyz?a=b&verbose"])
async def test_verbose_readyz_has_a_line_per_component(target: str) -> None:
    async with open_ops(redis=fails, postgres=succeeds) as address:
        reply = await send_request(address, get(target))

    assert reply.status == 200
    assert reply.body.decode().splitlines() == [
        "[-]store redis failed",
        "[+]store postgres ok",
        "[+]listeners open ok",
        "[+]not draining ok",
        "readyz check passed",
    ]


async def test_failed_readyz_is_verbose() -> None:
    async with open_ops(postgres=fails) as address:
        reply = await send_request(address, get("/readyz"))

    assert reply.status == 503
    assert reply.body.decode().splitlines() == [
        "[-]store postgres failed",
        "[+]listeners open ok",
        "[+]not draining ok",
        "readyz check failed",
    ]


async def test_readyz_fails_while_draining() -> None:
    async with open_ops(is_draining=lambda: True, postgres=succeeds) as address:
        reply = await send_request(address, get("/readyz"))

    assert reply.status == 503
    assert b"[-]not draining failed\n" in reply.body


async def test_readyz_fails_until_listeners_are_open() -> None:
    async with open_ops(is_listening=lambda: False, postgres=succeeds) as address:
        reply = await send_request(address, get("/readyz"))

    assert reply.status == 503
    assert b"[-]listeners open failed\n" in reply.body


async def test_verbose_readyz_tells_of_a_restored_database() -> None:
    async with open_ops(restored_since=lambda: NOON, postgres=succeeds) as address:
        reply = await send_request(address, get("/readyz?verbose"))

    assert reply.status == 200  # the instance is as ready as before
    assert reply.body.decode().splitlines() == [
        "[+]store postgres ok",
        "[+]listeners open ok",
        "[+]not draining ok",
        "[!]database restored: changes since 2026-03-04T12:00:00+00:00 are lost",
        "readyz check passed",
    ]


async def test_hanging_ping_counts_as_unavailable() -> None:
    async with open_ops(redis=hangs, postgres=hangs) as address:
        started_at = time.monotonic()
        reply = await send_request(address, get("/readyz"))
        elapsed = time.monotonic() - started_at

    assert reply.status == 503
    assert elapsed < 1  # the default timeout of Kubernetes probes


async def test_hanging_ping_does_not_hide_an_available_store() -> None:
    async with open_ops(redis=hangs, postgres=succeeds) as address:
        assert (await send_request(address, get("/readyz"))).status == 200


async def test_livez_responds_while_readyz_waits() -> None:
    async with open_ops(postgres=hangs) as address, connect(address) as waiting:
        await waiting.send(get("/readyz"))
        assert (await send_request(address, get("/livez"))).status == 200


def build_constant_registry() -> CollectorRegistry:
    """Return a registry whose metrics never change."""
    registry = CollectorRegistry()
    Gauge("sidegate_test", "For tests.", registry=registry).set(1)
    return registry


def build_metrics_registry() -> CollectorRegistry:
    metrics = Metrics(version="1.2.3", revocation_bound=5)
    metrics.record_check("ext-authz", "allow", reason="ok", seconds=0.0003)
    return build_registry(metrics)


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain;version=0.0.4"])
async def test_metrics_are_plain_text_by_default(accept: str) -> None:
    async with open_ops(registry=build_metrics_registry()) as address:
        reply = await send_request(address, get("/metrics", b"Accept: " + accept.encode()))

    assert reply.status == 200
    assert reply.get_one("Content-Type").startswith("text/plain; version=")
    assert "sidegate_checks" in {family.name for family in plain(reply.body.decode())}


async def test_metrics_are_openmetrics_if_accepted() -> None:
    accept = b"Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1"
    async with open_ops(registry=build_metrics_registry()) as address:
        reply = await send_request(address, get("/metrics", accept))

    assert reply.get_one("Content-Type").startswith("application/openmetrics-text; version=1.")
    assert reply.body.endswith(b"# EOF\n")
    families = openmetrics(reply.body.decode())  # type: ignore[no-untyped-call]  # has no types
    assert "sidegate_checks" in {family.name for family in families}


async def test_metrics_need_no_store() -> None:
    async with open_ops(registry=build_metrics_registry(), redis=hangs, postgres=fails) as address:
        assert (await send_request(address, get("/metrics"))).status == 200


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/metrics"])
async def test_head_has_the_headers_of_get_without_a_body(target: str) -> None:
    async with (
        open_ops(registry=build_constant_registry(), postgres=succeeds) as address,
        connect(address) as connection,
    ):
        await connection.send(get(target, method=b"HEAD"))
        to_head = await connection.read_response(to_head=True)
        await connection.send(get(target))
        to_get = await connection.read_response()

    assert status_and_fields(to_head) == status_and_fields(to_get)
    assert to_get.status == 200


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PROPFIND"])
async def test_other_methods_are_405(target: str, method: bytes) -> None:
    async with open_ops(postgres=succeeds) as address:
        assert (await send_request(address, get(target, method=method))).status == 405


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/livez/",
        "/metrics/../debug/pprof",
        "/debug/pprof",
        "//livez",
        "/%6civez",
        "/auth-request",
        "/v1/sessions",
    ],
)
async def test_other_paths_are_404(target: str) -> None:
    async with open_ops(postgres=succeeds) as address:
        assert (await send_request(address, get(target))).status == 404


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/metrics", "http://ops.test/livez"])
async def test_responses_are_not_cacheable_and_hide_the_version(target: str) -> None:
    async with open_ops() as address:
        reply = await send_request(address, get(target))

    assert (reply.get_one("Cache-Control"), reply.get_one("Server")) == ("no-store", "sidegate")


def status_and_fields(reply: RawResponse) -> tuple[int, list[tuple[str, str]]]:
    return reply.status, [field for field in reply.fields if field[0] != "Date"]


async def test_listener_refuses_connections_above_the_default_limit() -> None:
    listener = Listener("ops", deny_all, on_bad_request=lambda: None)
    accepted = [FakeTransport(listener) for _ in range(DEFAULT_MAX_CONNECTIONS)]
    refused = FakeTransport(listener)
    refused.feed(get("/livez"))
    accepted[0].abort()
    await wait_until(lambda: sum(listener.count_connections().values()) < DEFAULT_MAX_CONNECTIONS)
    later = FakeTransport(listener)
    later.feed(get("/livez"))
    await later.wait_for_end()
    await listener.close(drain_timeout=0)

    assert refused.sent.startswith(b"HTTP/1.1 503 ")
    assert later.sent.startswith(b"HTTP/1.1 401 ")


async def test_idle_connection_is_closed() -> None:
    listener = Listener(
        "ops", deny_all, on_bad_request=lambda: None, timeouts=ConnectionTimeouts(head=0.05)
    )
    address = await listener.open(Address("127.0.0.1", 0))
    async with connect(address) as connection:
        assert await connection.read_until_closed() == b""
    await listener.close(drain_timeout=0)
