"""Readiness and metrics of several worker processes, for the supervisor's ops listener."""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Final

import aiohttp
from prometheus_client import CollectorRegistry

from sidegate.web.ops.shared_result import SharedResult

# Seconds; less than the default timeout of a Kubernetes probe (1 s) and of a scrape (10 s); more
# than a worker waits for a store: a store that hangs makes no worker unready.
_REQUEST_TIMEOUT: Final = 0.9


class WorkerAggregator:
    """Queries the ops listener of each worker. Workers that do not respond are left out."""

    def __init__(
        self,
        paths: Mapping[str, str],
        *,
        merge: Callable[[Mapping[str, str]], CollectorRegistry],
        is_draining: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`paths` are the Unix sockets by worker number. `merge` combines metrics by number."""
        self._paths = paths
        self._merge = merge
        self._is_draining = is_draining
        self._readiness = SharedResult(
            partial(self._get_all, "/readyz?verbose"), monotonic=monotonic
        )

    async def report(self) -> tuple[bool, str]:
        """Return whether any worker is ready, and the lines of each. False while draining.

        A worker's first line says whether it is ready; its components follow, each with its number.
        There are none of a worker that does not respond.
        """
        lines: list[str] = []
        any_ready = False
        for number, response in (await self._readiness.get()).items():
            status, report = response or (HTTPStatus.SERVICE_UNAVAILABLE, "")
            is_ready = status == HTTPStatus.OK
            lines.append(f"[{'+' if is_ready else '-'}]worker {number}")
            lines += (_add_number(line, number) for line in report.splitlines() if line[:1] == "[")
            any_ready |= is_ready
        passed = any_ready and not self._is_draining()
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


def _add_number(line: str, number: str) -> str:
    """Return a line of a worker's report, as `[+]worker 0: store redis ok`."""
    mark, _, component = line.partition("]")
    return f"{mark}]worker {number}: {component}"


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
