"""The gate: gateways ask here, and nobody else. Routes name the gateway's protocol.

`Gate.answer` is the whole road from a head to an answer; the lane that read the bytes only carries
it there and back.
"""

import logging
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, assert_never

from aiohttp import web

from proxy.core.verdict import Allow, Deny, Unavailable, Verdict
from proxy.service.binding import ClientBinding
from proxy.service.validator import Further, Validator
from proxy.web import session_status
from proxy.web.door import Handler, refusal
from proxy.web.gateways.auth_request import AuthRequest
from proxy.web.gateways.base import Gateway, Manners
from proxy.web.gateways.ext_authz import ExtAuthz
from proxy.web.gateways.forward_auth import ForwardAuth
from proxy.web.messages import Answer, Head, Subrequest
from proxy.web.session_status import SessionStatus

Network = IPv4Network | IPv6Network

Checked = Callable[[str, str, str, float], None]
"""Told of each check: gateway, result, reason, seconds."""

_log: Final = logging.getLogger("sidegate.gate")


class Gate:
    """Every gateway protocol behind one door."""

    def __init__(
        self,
        validator: Validator,
        manners: Manners,
        *,
        checked: Checked,
        binding: ClientBinding | None = None,
    ) -> None:
        """`binding` judges the signals that `manners` have read."""
        self._validator = validator
        self._checked = checked
        self._binding = binding
        self._exact: dict[str, Gateway] = {
            "/auth-request": AuthRequest(manners),
            "/forward-auth": ForwardAuth(manners),
            "/ext-authz": ExtAuthz(manners),
        }
        self._prefixed: dict[str, Gateway] = {"/ext-authz/": self._exact["/ext-authz"]}

    def gateway(self, target: str) -> Gateway | None:
        """Return who asks on this request target. The query is the client's and says nothing."""
        path = target.partition("?")[0]
        found = self._exact.get(path)
        if found is not None:
            return found
        for prefix, gateway in self._prefixed.items():
            if path.startswith(prefix):
                return gateway
        return None

    async def answer(self, gateway: Gateway, head: Head) -> Answer:
        """Read, validate, count, write."""
        start = time.perf_counter()
        subrequest = gateway.read(head)
        verdict = await self._verdict(subrequest)
        result, reason = _labels(verdict)
        self._checked(gateway.name, result, reason, time.perf_counter() - start)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("checked", extra=_facts(gateway, subrequest, result, reason))
        return gateway.write(verdict)

    async def _verdict(self, subrequest: Subrequest) -> Verdict:
        match subrequest.credential:
            case Deny() as no:
                return no
            case credential:
                return await self._validator.validate(
                    credential, budget=subrequest.budget, further=self._further(subrequest)
                )

    def _further(self, subrequest: Subrequest) -> Further | None:
        binding, signals = self._binding, subrequest.signals
        if binding is None or signals is None:
            return None
        return lambda session: binding.judge(session, signals)


class Peers:
    """Who may ask: the listed networks, and whoever can open our Unix socket."""

    def __init__(self, trusted: Iterable[Network], *, refused: Callable[[], None]) -> None:
        self._trusted = tuple(trusted)
        self._refused = refused
        # Gateways are few and ask often.
        self._trusts_host = lru_cache(maxsize=1024)(self._look_up)

    def trust(self, request: web.BaseRequest) -> bool:
        """Say whether the connection comes from a trusted peer; count it if not."""
        match _peer(request):
            case None:  # has left, and who it was cannot be told any more
                return False
            case (str(host), *_):
                trusted = self._trusts_host(host)
            case _:
                trusted = True  # through our Unix socket
        if not trusted:
            self._refused()
        return trusted

    def _look_up(self, host: str) -> bool:
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        trusted = any(address in network for network in self._trusted)
        if not trusted:  # once per host, as long as it is remembered
            _log.warning("%s is refused: it is not in gate.trusted_peers", host)
        return trusted


def _peer(request: web.BaseRequest) -> object:
    """Return what the socket calls its other end: a tuple, but for a Unix socket a path."""
    return None if request.transport is None else request.transport.get_extra_info("peername")


def gate_handler(gate: Gate, peers: Peers, *, status: SessionStatus) -> Handler:
    """Return the aiohttp lane to `gate`, and to `status` beside it."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if not peers.trust(request):
            return refusal(HTTPStatus.FORBIDDEN)
        head = Head(request.method, request.raw_path, request.raw_headers)
        gateway = gate.gateway(head.target)
        if gateway is not None:
            return _response(request, await gate.answer(gateway, head))
        if head.target.partition("?")[0] == session_status.PATH:
            return _response(request, await status.answer(head))
        return refusal(HTTPStatus.NOT_FOUND)

    return handle


def _response(request: web.BaseRequest, answer: Answer) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body, headers=answer.fields)
    response.headers["Server"] = "sidegate"
    if request.can_read_body:
        # The body may never come (nginx announces what it then does not send). Reading it would
        # hang, and on a connection that stays open its absence would swallow the next request.
        response.force_close()
    return response


def _labels(verdict: Verdict) -> tuple[str, str]:
    match verdict:
        case Allow():
            return "allow", "ok"
        case Deny(reason):
            return "deny", reason.value
        case Unavailable(store):
            return "unavailable", store
        case never:
            assert_never(never)


def _facts(
    gateway: Gateway, subrequest: Subrequest, result: str, reason: str
) -> dict[str, str | None]:
    """What may be logged of a check. A query may hold anything, tokens too."""
    path = None if subrequest.uri is None else subrequest.uri.partition("?")[0]
    return {
        "gateway": gateway.name,
        "result": result,
        "reason": reason,
        "method": subrequest.method,
        "path": path,
        "client": subrequest.client,
    }
