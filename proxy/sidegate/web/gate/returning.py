"""A check whose 200 also has lines that depend on the headers of its own request.

They are built for each request: the cached reply of a session is the same for all of its clients.
"""

from collections.abc import Callable
from dataclasses import replace

from sidegate.core.protocols import Prefetched
from sidegate.web.gateways.base import GatewayProtocol
from sidegate.web.server.handler import RequestHandler
from sidegate.web.server.messages import Head, Response
from sidegate.web.server.response_bytes import EncodedResponse


def return_headers(check: RequestHandler, gateway: GatewayProtocol) -> RequestHandler:
    """Return the check with the request lines of the gateway, if it has any."""
    build_lines = gateway.build_request_lines
    return check if build_lines is None else ReturningCheck(check, build_lines)


class ReturningCheck:
    """The request handler `check`, with `build_lines(head)` in each 200."""

    def __init__(self, check: RequestHandler, build_lines: Callable[[Head], bytes]) -> None:
        self.route = check.route
        self.roles = check.roles
        self.plain_forms = check.plain_forms._replace(all_cookies=True)
        self.prefetch = check.prefetch
        self._check = check
        self._try_fast, self._conclude = check.try_fast, check.conclude
        self._build_lines = build_lines

    def try_fast(self, head: Head) -> EncodedResponse | None:
        """Return the response of the check with the lines."""
        return self._add_lines(self._try_fast(head), head)

    def conclude(self, head: Head, found: Prefetched, *, elapsed: float) -> EncodedResponse | None:
        """Return the response of the check with the lines."""
        return self._add_lines(self._conclude(head, found, elapsed=elapsed), head)

    def _add_lines(self, response: EncodedResponse | None, head: Head) -> EncodedResponse | None:
        if response is None or not response.identity_lines:  # only a 200 has identity headers
            return response
        lines = self._build_lines(head)
        if not lines:
            return response
        return EncodedResponse(response.shared_head, response.identity_lines + lines, response.body)

    async def handle(self, head: Head, elapsed: float | None = None) -> Response:
        """Return the response of the check with the lines."""
        response = await self._check.handle(head, elapsed)
        if not response.identity:
            return response
        return replace(response, request_lines=self._build_lines(head))
