"""The gate: gateways ask here, and nobody else. Who answers depends on the path.

A front end asks here too, through its gateway, how long its session lasts.
"""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final

from aiohttp import web

from sidegate.core.clock import Clock
from sidegate.services.binding import ClientBinding
from sidegate.services.validator import Validator
from sidegate.web.gate.check import Check, CheckEvents
from sidegate.web.gate.session_status import SessionStatus
from sidegate.web.gateways.auth_request import AuthRequest
from sidegate.web.gateways.base import GatewayPolicy, GatewayProtocol
from sidegate.web.gateways.ext_authz import ExtAuthz
from sidegate.web.gateways.forward_auth import ForwardAuth
from sidegate.web.server.handler import RequestHandler, handler_for
from sidegate.web.server.header_lines import Roles, gather
from sidegate.web.server.listener import Handler, refusal
from sidegate.web.server.messages import Head, Response
from sidegate.web.server.trusted_peers import TrustedPeers

GATEWAYS: Final = (AuthRequest, ForwardAuth, ExtAuthz)


def build_handlers(
    validator: Validator,
    manners: GatewayPolicy,
    *,
    events: CheckEvents,
    clock: Clock,
    binding: ClientBinding | None = None,
) -> tuple[RequestHandler, ...]:
    """Return whoever answers at the gate."""
    gateways: Iterable[GatewayProtocol] = (gateway(manners) for gateway in GATEWAYS)
    checks = (
        Check(gateway, manners, validator, events=events, clock=clock, binding=binding)
        for gateway in gateways
    )
    return (*checks, SessionStatus(validator, manners))


def gate_handler(among: Sequence[RequestHandler], peers: TrustedPeers) -> Handler:
    """Return aiohttp's lane to the desks."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        peername = _peername(request)
        if not peers.trust(peername):
            if peername is not None:
                peers.refused()
            return refusal(HTTPStatus.FORBIDDEN)
        asked = handler_for(request.raw_path, among)
        if asked is None:
            return refusal(HTTPStatus.NOT_FOUND)
        return _response(request, await asked.answer(_head(request, asked.roles)))

    return handle


def _peername(request: web.BaseRequest) -> object:
    return None if request.transport is None else request.transport.get_extra_info("peername")


def _head(request: web.BaseRequest, roles: Roles) -> Head:
    target = request.raw_path.encode("utf-8", "surrogateescape")
    return gather(request.method.encode("ascii"), target, request.raw_headers, roles)


def _response(request: web.BaseRequest, answer: Response) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body, headers=answer.headers)
    response.headers["Server"] = "sidegate"
    if request.can_read_body:
        # The body may never come (nginx announces what it then does not send). Reading it would
        # hang, and on a connection that stays open its absence would swallow the next request.
        response.force_close()
    return response
