"""The gate: request handlers by path, and their handler on the aiohttp path.

Gateways send subrequests here. A front end gets its session's times here, through its gateway.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from aiohttp import web

from sidegate.core.clock import Clock
from sidegate.services.binding import ClientBinding
from sidegate.services.validator import Validator
from sidegate.web.gate.check import Check, CheckEvents, CheckServices, OnAllowed
from sidegate.web.gate.check_by_rule import CheckByRule
from sidegate.web.gate.own_session import OwnSession, SessionActions
from sidegate.web.gate.returning import return_headers
from sidegate.web.gate.rule_checks import AccessRules, GatewayType, RuleCheckBuilder
from sidegate.web.gateways.auth_request import AuthRequest
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.ext_authz import ExtAuthz
from sidegate.web.gateways.forward_auth import ForwardAuth
from sidegate.web.server.handler import RequestHandler, find_handler
from sidegate.web.server.header_lines import LINE_END, Roles, build_head
from sidegate.web.server.listener import AnonymousResponse, Handler, build_error_response
from sidegate.web.server.messages import Head, Response
from sidegate.web.server.trusted_peers import TrustedPeers

GATEWAYS: Final[tuple[GatewayType, ...]] = (AuthRequest, ForwardAuth, ExtAuthz)


def build_handlers(
    validator: Validator,
    policy: GatewayPolicy,
    *,
    events: CheckEvents,
    clock: Clock,
    on_allowed: OnAllowed = lambda _, __: None,
    binding: ClientBinding | None = None,
    rules: AccessRules | None = None,
    public_path: str = "/.sidegate",
    actions: SessionActions | None = None,
) -> tuple[RequestHandler, ...]:
    """Return the request handlers of the gate. Without `rules`, every request needs a session.

    Clients reach their own session at `/session`, and below `public_path`. Without `actions` they
    cannot change it.
    """
    services: CheckServices = {
        "validator": validator,
        "events": events,
        "clock": clock,
        "on_allowed": on_allowed,
        "binding": binding,
    }

    def build_check(gateway_type: GatewayType) -> RequestHandler:
        gateway = gateway_type(policy)
        if rules is None:
            return return_headers(Check(gateway, policy, **services), gateway)
        builder = RuleCheckBuilder(gateway_type, policy, rules=rules, services=services)
        return CheckByRule(gateway, rules.table, build_check=builder.build)

    checks = (build_check(gateway) for gateway in GATEWAYS)
    routes = ("/session", f"{public_path}/session")
    own = (OwnSession(route, policy, validator=validator, actions=actions) for route in routes)
    return (*checks, *own)


def build_gate_handler(handlers: Sequence[RequestHandler], peers: TrustedPeers) -> Handler:
    """Return the aiohttp handler that checks the peer and calls the request handler."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        peername = _read_peername(request)
        if not peers.is_trusted(peername):
            if peername is not None:
                peers.on_refused()
            return build_error_response(HTTPStatus.FORBIDDEN)
        handler = find_handler(request.raw_path, handlers)
        if handler is None:
            return build_error_response(HTTPStatus.NOT_FOUND)
        return _build_response(request, await handler.handle(_read_head(request, handler.roles)))

    return handle


class _GateResponse(AnonymousResponse):
    """A response of the gate on the aiohttp path."""

    def __init__(self, response: Response) -> None:
        super().__init__(status=response.status, body=response.body, headers=response.headers)
        self._request_lines = response.request_lines

    async def _write_headers(self) -> None:
        """Write a head with request lines as bytes: aiohttp would encode them as UTF-8."""
        if not self._request_lines:
            await super()._write_headers()
            return
        request, writer = self._req, self._payload_writer
        assert request is not None  # prepared
        assert writer is not None
        version, status = request.version, HTTPStatus(self.status)
        start = f"HTTP/{version.major}.{version.minor} {status.value} {status.phrase}"
        fields = (f"{name}: {value}" for name, value in self.headers.items())
        lines = "\r\n".join((start, *fields, "")).encode("ascii")
        writer.length = None  # of the body, which is empty
        await writer.write(lines + self._request_lines + LINE_END)


def _read_peername(request: web.BaseRequest) -> object:
    return None if request.transport is None else request.transport.get_extra_info("peername")


def _read_head(request: web.BaseRequest, roles: Roles) -> Head:
    target = request.raw_path.encode("utf-8", "surrogateescape")
    return build_head(
        request.method.encode("ascii"), target, fields=request.raw_headers, roles=roles
    )


def _build_response(request: web.BaseRequest, response: Response) -> web.Response:
    http_response = _GateResponse(response)
    if request.can_read_body:
        # The body may never come (nginx announces one and does not send it). Reading it would hang,
        # and on a persistent connection the next request would be taken for it.
        http_response.force_close()
    return http_response
