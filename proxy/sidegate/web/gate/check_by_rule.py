"""Choose the check of a request by the access rules for its target.

The target is what the gateway states of it. What the rules say about one is remembered.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Final

from sidegate.core.protocols import OnPrefetched, Prefetched
from sidegate.core.rules import Decision, RuleTable
from sidegate.core.target import StatedTarget, read_target
from sidegate.web.gateways.base import GatewayProtocol
from sidegate.web.server.handler import RequestHandler
from sidegate.web.server.messages import Head, Response
from sidegate.web.server.response_bytes import EncodedResponse

# Targets that are remembered, without their queries; at most about 3 MB for each gateway protocol.
_MAX_TARGETS: Final = 4096
_MAX_TARGET_SIZE: Final = 500
# Checks of targets to which several rules apply. Those of an attack may be many.
_MAX_COMBINATIONS: Final = 256


class CheckByRule:
    """The request handler that passes each head to the check for its target."""

    def __init__(
        self,
        gateway: GatewayProtocol,
        table: RuleTable,
        *,
        build_check: Callable[[Decision], RequestHandler],
    ) -> None:
        # Of a tuple, and without a Python frame: it is called for each request.
        self._get_stated = itemgetter(*map(Head._fields.index, gateway.target_fields))
        self._prefix = gateway.target_prefix
        self._table = table
        self._build_check = build_check
        self._strictest = build_check(table.strictest)
        self._checks = {each: build_check(each) for each in table.list_simple()}
        self._max_checks = len(self._checks) + _MAX_COMBINATIONS
        self._remembered: dict[tuple[bytes | None, ...], RequestHandler] = {}
        self.route = self._strictest.route
        self.roles = self._strictest.roles
        self.plain_forms = self._strictest.plain_forms

    def try_fast(self, head: Head) -> EncodedResponse | None:
        """Return what the check for the target returns."""
        return self._select(head).try_fast(head)

    def prefetch(self, head: Head, on_done: OnPrefetched) -> bool:
        """Return what the check for the target returns."""
        return self._select(head).prefetch(head, on_done)

    def conclude(self, head: Head, found: Prefetched, *, elapsed: float) -> EncodedResponse | None:
        """Return what the check for the target returns."""
        return self._select(head).conclude(head, found, elapsed=elapsed)

    async def handle(self, head: Head, elapsed: float | None = None) -> Response:
        """Return what the check for the target returns."""
        return await self._select(head).handle(head, elapsed)

    def _select(self, head: Head) -> RequestHandler:
        host, uri, method = self._get_stated(head)
        # A header that is repeated has to be seen whole: its first line may have a query.
        if uri is not None and b"?" in uri and b"\r" not in uri:
            uri = uri.partition(b"?")[0]
        return self._remembered.get((host, uri, method)) or self._find(host, uri, method=method)

    def _find(
        self, host: bytes | None, uri: bytes | None, *, method: bytes | None
    ) -> RequestHandler:
        """Return the check for a target, and remember it."""
        target = None if uri is None else uri.removeprefix(self._prefix)
        check = self._get_check(self._table.find(read_target(StatedTarget(host, target, method))))
        if sum(map(len, filter(None, (host, uri, method)))) <= _MAX_TARGET_SIZE:
            if len(self._remembered) >= _MAX_TARGETS:
                self._remembered.clear()
            self._remembered[host, uri, method] = check
        return check

    def _get_check(self, decision: Decision) -> RequestHandler:
        """Return the check for rules.

        If there are too many combinations: without the rules in shadow, or the strictest.
        """
        check = self._checks.get(decision)
        if check is None:
            if len(self._checks) >= self._max_checks:
                return self._checks.get(Decision(decision.rules), self._strictest)
            check = self._checks[decision] = self._build_check(decision)
        return check
