"""Readiness and metrics of several worker processes, for the supervisor's ops listener."""

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

import aiohttp
from prometheus_client import CollectorRegistry

# Seconds; less than the default timeout of a Kubernetes probe (1 s) and of a scrape (10 s).
_REQUEST_TIMEOUT: Final = 0.8


class WorkerAggregator:
    """Queries the ops listener of each worker. Workers that do not respond are left out."""

    def __init__(
        self,
        paths: Mapping[str, str],
        *,
        merge: Callable[[Mapping[str, str]], CollectorRegistry],
        is_draining: Callable[[], bool],
    ) -> None:
        """`paths` are the Unix sockets by worker number. `merge` combines metrics by number."""
        self._paths = paths
        self._merge = merge
        self._is_draining = is_draining

    async def report(self) -> tuple[bool, str]:
        """Return whether any worker is ready, and a line per worker. False while draining."""
        responses = await self._get_all("/readyz")
        ready = {
            number: response is not None and response[0] == HTTPStatus.OK
            for number, response in responses.items()
        }
        lines = [f"[{'+' if ok else '-'}]worker {number}" for number, ok in ready.items()]
        passed = any(ready.values()) and not self._is_draining()
        lines.append(f"readyz check {'passed' if passed else 'failed'}")
        return passed, "\n".join(lines) + "\n"

    async def collect(self) -> CollectorRegistry:
        """Return the merged metrics of the workers that respond."""
        responses = await self._get_all("/metrics")
        return self._merge(
            {number: response[1] for number, response in responses.items() if response is not None}
        )

    async def _get_all(self, path: str) -> dict[str, tuple[int, str] | None]:
        requests = (_get(socket, path) for socket in self._paths.values())
        return dict(zip(self._paths, await asyncio.gather(*requests), strict=True))


async def _get(socket: str, path: str) -> tuple[int, str] | None:
    timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT)
    connector = aiohttp.UnixConnector(socket)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as client,
            client.get(f"http://worker{path}") as response,
        ):
            return response.status, await response.text()
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None
