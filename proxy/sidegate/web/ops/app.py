"""The handler of the ops listener: /livez, /readyz and /metrics, for probes and Prometheus.

/livez checks no store: a restart would not repair one. /readyz succeeds while any store responds:
without Redis requests are slower, but served, and a sidecar that is not ready would take the
application's pod out of service.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from sidegate.core.errors import StoreUnavailable
from sidegate.web.server.listener import Handler, build_error_response

Ping = Callable[[], Awaitable[None]]
"""Returns if the store responds. Raises StoreUnavailable if it does not."""

CollectMetrics = Callable[[], Awaitable[CollectorRegistry]]
"""Returns the registry to be scraped."""

# Seconds; less than the default timeout of a Kubernetes probe, which is 1 s.
_PING_TIMEOUT: Final = 0.8
_HEADERS: Final = {"Cache-Control": "no-store", "Server": "sidegate"}


@dataclass(frozen=True, slots=True)
class Readiness:
    """The readiness of this process, from the state of its components."""

    stores: Mapping[str, Ping]
    is_draining: Callable[[], bool]
    is_listening: Callable[[], bool]

    async def report(self) -> tuple[bool, str]:
        """Return whether the process is ready, and a line per component.

        The lines have the format of kube-apiserver's.
        """
        stores = dict(
            zip(
                self.stores,
                await asyncio.gather(*(_is_available(ping) for ping in self.stores.values())),
                strict=True,
            )
        )
        listening, draining = self.is_listening(), self.is_draining()
        ready = any(stores.values()) and listening and not draining
        lines = [_format_line(f"store {name}", ok) for name, ok in stores.items()]
        lines.append(_format_line("listeners open", listening))
        lines.append(_format_line("not draining", not draining))
        lines.append(f"readyz check {'passed' if ready else 'failed'}")
        return ready, "\n".join(lines) + "\n"


class ReadinessReporter(Protocol):
    """Reports whether this process, or its workers, are ready."""

    async def report(self) -> tuple[bool, str]:
        """Return whether requests can be served, and a line per component."""
        ...


def build_ops_handler(readiness: ReadinessReporter, collect: CollectMetrics) -> Handler:
    """Return the handler of the ops listener. `collect` returns the registry for /metrics."""

    async def livez(_: web.BaseRequest) -> web.Response:
        return _text_response(HTTPStatus.OK, "ok\n")

    async def readyz(request: web.BaseRequest) -> web.Response:
        ready, report = await readiness.report()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _text_response(status, report if "verbose" in request.query or not ready else "ok\n")

    async def metrics(request: web.BaseRequest) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        headers = {**_HEADERS, "Content-Type": content_type}
        return web.Response(body=encode(await collect()), headers=headers)

    routes = {"/livez": livez, "/healthz": livez, "/readyz": readyz, "/metrics": metrics}

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        route = routes.get(request.raw_path.partition("?")[0])
        if route is None:
            return build_error_response(HTTPStatus.NOT_FOUND)
        if request.method not in ("GET", "HEAD"):
            return build_error_response(HTTPStatus.METHOD_NOT_ALLOWED)
        return await route(request)

    return handle


def collect_from(registry: CollectorRegistry) -> CollectMetrics:
    """Return a function that returns `registry` for every scrape."""

    async def collect() -> CollectorRegistry:
        return registry

    return collect


async def _is_available(ping: Ping) -> bool:
    with suppress(StoreUnavailable, TimeoutError):
        async with asyncio.timeout(_PING_TIMEOUT):
            await ping()
            return True
    return False


def _format_line(component: str, ok: bool) -> str:
    return f"[+]{component} ok" if ok else f"[-]{component} failed"


def _text_response(status: HTTPStatus, text: str) -> web.Response:
    return web.Response(status=status, text=text, headers=_HEADERS)
