"""The route that serves the OpenAPI document."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web


class OpenApiRoutes:
    """Serves the document, which is built on the first request and kept."""

    def __init__(self, build: Callable[[], Mapping[str, Any]]) -> None:
        self._build = build
        self._encoded: bytes | None = None

    async def show(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's
        """Return this document (OpenAPI 3.1)."""
        if self._encoded is None:
            # In a thread: it takes tens of milliseconds, which gate requests must not wait for.
            self._encoded = await asyncio.to_thread(self._encode)
        return web.Response(body=self._encoded, content_type="application/json")

    def _encode(self) -> bytes:
        return json.dumps(self._build()).encode("ascii")
