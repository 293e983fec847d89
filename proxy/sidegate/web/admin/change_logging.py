"""The log line of each change made through the admin API, and the actor it names."""

import logging
from typing import Final

from aiohttp import web

from sidegate.core.actor import Actor
from sidegate.core.client_ip import normalize
from sidegate.web.admin.middleware import CALLER, REQUEST_ID

_log: Final = logging.getLogger("sidegate.admin")


def request_actor(request: web.Request) -> Actor:
    """Return the actor of an authenticated request: its API key and its address."""
    return Actor(f"key:{request[CALLER].name}", read_source(request))


def read_source(request: web.BaseRequest) -> str | None:
    """Return the address that a request came from, or None over a Unix socket."""
    return normalize(request.remote) if request.remote else None


def log_change(
    request: web.Request, action: str, *, actor: Actor | None = None, **fields: str | int
) -> None:
    """Log a change by `actor`, by default the caller. `fields` are ids and counts, never tokens."""
    _log.info(
        "admin change",
        extra={
            "actor": (actor or request_actor(request)).name,
            "action": action,
            "request_id": request[REQUEST_ID],
            **fields,
        },
    )
