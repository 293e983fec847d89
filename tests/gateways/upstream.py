"""The application behind the gateway: returns requests as JSON. `python -m ... PORT`"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
from typing import Final

from aiohttp import WSMsgType, web

_STATUS: Final = re.compile(r"/status/(\d{3})$")


async def report_request(request: web.Request) -> web.StreamResponse:
    """Return the request as received; echo one message on a WebSocket.

    A path that ends with /status/N has that status.
    """
    is_websocket = request.headers.get("Upgrade", "").lower() == "websocket"
    if is_websocket and "Sec-WebSocket-Key" in request.headers:
        return await _echo_once(request)
    body = await request.read()
    status = _STATUS.search(request.path)
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "headers": _header_lines(request),
            "body_length": len(body),
            "body_sha256": hashlib.sha256(body).hexdigest(),
        },
        status=200 if status is None else int(status[1]),
        headers={"X-Upstream": "reached"},
        dumps=lambda document: json.dumps(document) + "\n",
    )


async def send_page(_: web.Request) -> web.StreamResponse:
    """Return an error page, for gateways that have none of their own."""
    return web.Response(text="page of the site")


def _header_lines(request: web.BaseRequest) -> list[list[str]]:
    return [
        [name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers
    ]


async def _echo_once(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse(protocols=["chat"])
    await socket.prepare(request)
    message = await socket.receive()
    if message.type is WSMsgType.TEXT:
        user = request.headers.get("X-Auth-User", "none")
        await socket.send_str(f"{user}: {message.data}")
    await socket.close()
    return socket


async def serve(port: int) -> None:
    application = web.Application(client_max_size=2**24)
    application.router.add_get("/pages/{name}", send_page)
    application.router.add_route("*", "/{anything:.*}", report_request)
    runner = web.AppRunner(application, max_line_size=65536, max_field_size=65536)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
