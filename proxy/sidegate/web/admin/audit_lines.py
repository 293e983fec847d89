"""One line in the log for each change somebody made through the admin door."""

import logging
from typing import Final

from aiohttp import web

from sidegate.core.actor import Actor
from sidegate.web.admin.middleware import CALLER, REQUEST_ID

_log: Final = logging.getLogger("sidegate.admin")


def actor(request: web.Request) -> Actor:
    """Return who is calling, as stores and logs name them, and the address they call from."""
    return Actor(f"key:{request[CALLER].name}", request.remote or None)


def log_change(
    request: web.Request, action: str, *, by: Actor | None = None, **about: str | int
) -> None:
    """Log that the caller, or `by`, has done `action`. `about` holds ids and counts, no token."""
    fields: dict[str, str | int] = {
        "actor": (by or actor(request)).name,
        "action": action,
        "request_id": request[REQUEST_ID],
    }
    _log.info("admin change", extra=fields | about)
