"""The OpenAPI document, from a running door."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web


class DocumentRoutes:
    """One route. The document is made when somebody asks for it first, and stays the same."""

    def __init__(self, make: Callable[[], Mapping[str, Any]]) -> None:
        self._make = make
        self._written: bytes | None = None

    async def show(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's
        """Show this document, in OpenAPI 3.1."""
        if self._written is None:
            # In a thread: it takes some dozens of milliseconds, and the gate answers meanwhile.
            self._written = await asyncio.to_thread(self._write)
        return web.Response(body=self._written, content_type="application/json")

    def _write(self) -> bytes:
        return json.dumps(self._make()).encode("ascii")
