"""The ops door: /livez, /readyz and /metrics, for probes and Prometheus.

/livez asks no store: restarting us mends nobody else. /readyz stays true while any store answers:
a Redis that is away makes us slower, not useless, and as a sidecar we would take the application's
pod with us.
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
from sidegate.web.server.listener import Handler, refusal

Ping = Callable[[], Awaitable[None]]
"""Returns when the store answers; StoreUnavailable when it does not."""

Scraped = Callable[[], Awaitable[CollectorRegistry]]
"""Returns everything there is to tell."""

# A probe waits a second by default (Kubernetes' timeoutSeconds).
_PATIENCE: Final = 0.8
_HEADERS: Final = {"Cache-Control": "no-store", "Server": "sidegate"}


@dataclass(frozen=True, slots=True)
class Readiness:
    """What a probe is told: each component's state, and whether we can be asked."""

    stores: Mapping[str, Ping]
    draining: Callable[[], bool]
    opened: Callable[[], bool]

    async def report(self) -> tuple[bool, str]:
        """Return whether we are ready, and a line per component as kube-apiserver writes them."""
        answered = dict(
            zip(
                self.stores,
                await asyncio.gather(*(_answers(ping) for ping in self.stores.values())),
                strict=True,
            )
        )
        opened, draining = self.opened(), self.draining()
        ready = any(answered.values()) and opened and not draining
        lines = [_line(f"store {name}", ok) for name, ok in answered.items()]
        lines.append(_line("doors open", opened))
        lines.append(_line("not draining", not draining))
        lines.append(f"readyz check {'passed' if ready else 'failed'}")
        return ready, "\n".join(lines) + "\n"


class Reporting(Protocol):
    """Whoever knows whether we can be asked."""

    async def report(self) -> tuple[bool, str]:
        """Return whether we are ready, and a line per component."""
        ...


def ops_handler(readiness: Reporting, scraped: Scraped) -> Handler:
    """Return the handler of the ops door. `scraped` says what a scrape is told."""

    async def livez(_: web.BaseRequest) -> web.Response:
        return _text(HTTPStatus.OK, "ok\n")

    async def readyz(request: web.BaseRequest) -> web.Response:
        ready, report = await readiness.report()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _text(status, report if "verbose" in request.query or not ready else "ok\n")

    async def metrics(request: web.BaseRequest) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        headers = {**_HEADERS, "Content-Type": content_type}
        return web.Response(body=encode(await scraped()), headers=headers)

    routes = {"/livez": livez, "/healthz": livez, "/readyz": readyz, "/metrics": metrics}

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        route = routes.get(request.raw_path.partition("?")[0])
        if route is None:
            return refusal(HTTPStatus.NOT_FOUND)
        if request.method not in ("GET", "HEAD"):
            return refusal(HTTPStatus.METHOD_NOT_ALLOWED)
        return await route(request)

    return handle


def always(registry: CollectorRegistry) -> Scraped:
    """Return how to tell every scrape what is in `registry`."""

    async def scraped() -> CollectorRegistry:
        return registry

    return scraped


async def _answers(ping: Ping) -> bool:
    with suppress(StoreUnavailable, TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            await ping()
            return True
    return False


def _line(component: str, ok: bool) -> str:
    return f"[+]{component} ok" if ok else f"[-]{component} failed"


def _text(status: HTTPStatus, text: str) -> web.Response:
    return web.Response(status=status, text=text, headers=_HEADERS)
