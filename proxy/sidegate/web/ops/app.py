"""The handler of the ops listener: /livez, /readyz and /metrics, for probes and Prometheus.

/livez checks no store: a restart would not repair one. /readyz succeeds while any store responds:
without Redis requests are slower, but served, and a sidecar that is not ready would take the
application's pod out of service.

No request needs a key, so many of them must cost no more than few: each store is pinged once for
all that wait, a page of metrics is built once, and both are remembered for half a second.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Final, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from sidegate.services.store_monitor import Ping, is_available
from sidegate.web.ops.shared_result import SharedResult
from sidegate.web.server.listener import Handler, build_error_response

CollectMetrics = Callable[[], Awaitable[CollectorRegistry]]
"""Returns the registry to be scraped."""

# Formats of the metrics page to which clients may negotiate; more are not kept, but get plain text.
_MAX_FORMATS: Final = 8
_HEADERS: Final = {"Cache-Control": "no-store", "Server": "sidegate"}


@dataclass(slots=True)
class Readiness:
    """The readiness of this process, from the state of its components."""

    stores: Mapping[str, Ping]
    is_draining: Callable[[], bool]
    is_listening: Callable[[], bool]
    restored_since: Callable[[], datetime | None] = lambda: None
    monotonic: Callable[[], float] = time.monotonic
    _shared: Mapping[str, SharedResult[bool]] = field(init=False)

    def __post_init__(self) -> None:
        self._shared = {
            name: SharedResult(partial(is_available, ping), monotonic=self.monotonic)
            for name, ping in self.stores.items()
        }

    async def report(self) -> tuple[bool, str]:
        """Return whether the process is ready, and a line per component.

        The lines have the format of kube-apiserver's.
        """
        results = await asyncio.gather(*(shared.get() for shared in self._shared.values()))
        stores = dict(zip(self._shared, results, strict=True))
        listening, draining = self.is_listening(), self.is_draining()
        ready = any(stores.values()) and listening and not draining
        lines = [_format_line(f"store {name}", ok) for name, ok in stores.items()]
        lines.append(_format_line("listeners open", listening))
        lines.append(_format_line("not draining", not draining))
        restored_since = self.restored_since()
        if restored_since is not None:
            since = restored_since.isoformat(timespec="seconds")
            lines.append(f"[!]database restored: changes since {since} are lost")
        lines.append(f"readyz check {'passed' if ready else 'failed'}")
        return ready, "\n".join(lines) + "\n"


class ReadinessReporter(Protocol):
    """Reports whether this process, or its workers, are ready."""

    async def report(self) -> tuple[bool, str]:
        """Return whether requests can be served, and a line per component."""
        ...


class _MetricsPages:
    """The pages of metrics, one for each format in which a client wants them."""

    def __init__(self, collect: CollectMetrics, monotonic: Callable[[], float]) -> None:
        self._collect = collect
        self._monotonic = monotonic
        self._pages: dict[str, SharedResult[bytes]] = {}

    async def get(self, accept: str) -> tuple[str, bytes]:
        """Return the content type and the page for an Accept header."""
        encode, content_type = _choose_encoder(accept)
        if content_type not in self._pages and len(self._pages) >= _MAX_FORMATS:
            encode, content_type = _choose_encoder("")
        page = self._pages.get(content_type)
        if page is None:
            build = partial(self._build, encode)
            page = self._pages[content_type] = SharedResult(build, monotonic=self._monotonic)
        return content_type, await page.get()

    async def _build(self, encode: Callable[[CollectorRegistry], bytes]) -> bytes:
        return encode(await self._collect())


def _choose_encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is not a number
        encode, content_type = choose_encoder("")
    return encode, content_type


def build_ops_handler(
    readiness: ReadinessReporter,
    collect: CollectMetrics,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> Handler:
    """Return the handler of the ops listener. `collect` returns the registry for /metrics."""
    pages = _MetricsPages(collect, monotonic)

    async def livez(_: web.BaseRequest) -> web.Response:
        return _text_response(HTTPStatus.OK, "ok\n")

    async def readyz(request: web.BaseRequest) -> web.Response:
        ready, report = await readiness.report()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _text_response(status, report if "verbose" in request.query or not ready else "ok\n")

    async def metrics(request: web.BaseRequest) -> web.Response:
        content_type, page = await pages.get(request.headers.get("Accept", ""))
        return web.Response(body=page, headers={**_HEADERS, "Content-Type": content_type})

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


def _format_line(component: str, ok: bool) -> str:
    return f"[+]{component} ok" if ok else f"[-]{component} failed"


def _text_response(status: HTTPStatus, text: str) -> web.Response:
    return web.Response(status=status, text=text, headers=_HEADERS)
