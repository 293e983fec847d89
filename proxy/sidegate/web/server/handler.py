"""Request handlers of the gate, for the fast path and the aiohttp path."""

from collections.abc import Sequence
from typing import Protocol

from sidegate.core.protocols import OnPrefetched, Prefetched
from sidegate.web.server.header_lines import PlainForms, Roles
from sidegate.web.server.messages import Head, Response
from sidegate.web.server.response_bytes import EncodedResponse


class RequestHandler(Protocol):
    """Serves its route and, if the route ends in a slash, every path below."""

    @property
    def route(self) -> str: ...

    @property
    def roles(self) -> Roles:
        """Return the headers to gather into its Head."""
        ...

    @property
    def plain_forms(self) -> PlainForms:
        """Return what the fast path captures of credentials."""
        ...

    def try_fast(self, head: Head) -> EncodedResponse | None:
        """Return the response if memory decides it, or None."""
        ...

    def prefetch(self, head: Head, on_done: OnPrefetched) -> bool:
        """Start to fetch what `try_fast` lacked, and call `on_done` later, never before returning.

        It is called with what `conclude` takes, and must not raise. Return False if that cannot
        help; `on_done` is not called.
        """
        ...

    def conclude(self, head: Head, found: Prefetched, *, elapsed: float) -> EncodedResponse | None:
        """Return the response if what was prefetched in `elapsed` seconds decides it, or None."""
        ...

    async def handle(self, head: Head, elapsed: float | None = None) -> Response:
        """Query the stores and respond.

        `elapsed`: the seconds of a prefetch that did not decide; None: there was none.
        """
        ...


def find_handler(target: str, handlers: Sequence[RequestHandler]) -> RequestHandler | None:
    """Return the handler of a request target, or None. The query is ignored."""
    path = target.partition("?")[0]
    for handler in handlers:
        if path == handler.route.rstrip("/"):
            return handler
        if handler.route.endswith("/") and path.startswith(handler.route):
            return handler
    return None
