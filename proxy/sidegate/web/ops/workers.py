"""The ops door of several workers: ready while one of them is, and one page for all."""

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

import aiohttp
from prometheus_client import CollectorRegistry

# A probe waits a second by default, a scrape ten.
_PATIENCE: Final = 0.8


class Workers:
    """Asks each worker's own ops door, a Unix socket. One that does not answer says nothing."""

    def __init__(
        self,
        paths: Mapping[str, str],
        *,
        merge: Callable[[Mapping[str, str]], CollectorRegistry],
        draining: Callable[[], bool],
    ) -> None:
        """`paths`: the socket of each worker, by its number. `merge` makes one page of theirs."""
        self._paths = paths
        self._merge = merge
        self._draining = draining

    async def report(self) -> tuple[bool, str]:
        """Return whether any of them is ready while we do not drain, and a line for each."""
        answers = await self._ask("/readyz")
        ready = {
            number: answer is not None and answer[0] == HTTPStatus.OK
            for number, answer in answers.items()
        }
        lines = [f"[{'+' if ok else '-'}]worker {number}" for number, ok in ready.items()]
        passed = any(ready.values()) and not self._draining()
        lines.append(f"readyz check {'passed' if passed else 'failed'}")
        return passed, "\n".join(lines) + "\n"

    async def scraped(self) -> CollectorRegistry:
        """Return what the workers that answer tell a scrape."""
        answers = await self._ask("/metrics")
        return self._merge(
            {number: answer[1] for number, answer in answers.items() if answer is not None}
        )

    async def _ask(self, path: str) -> dict[str, tuple[int, str] | None]:
        asked = (_answer(socket, path) for socket in self._paths.values())
        return dict(zip(self._paths, await asyncio.gather(*asked), strict=True))


async def _answer(socket: str, path: str) -> tuple[int, str] | None:
    patience = aiohttp.ClientTimeout(total=_PATIENCE)
    connector = aiohttp.UnixConnector(socket)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=patience) as client,
            client.get(f"http://worker{path}") as answer,
        ):
            return answer.status, await answer.text()
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None
