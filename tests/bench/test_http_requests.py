"""The requests, as the gate listener reads them."""

import json

from sidegate.core.binding import Signal
from sidegate.core.token import KeyRing, TokenKey
from sidegate.web.gateways.auth_request import AuthRequest
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.server.header_lines import build_head
from sidegate.web.server.messages import Head, Subrequest
from tests.bench.http_requests import (
    build_bearer_request,
    build_cookie_request,
    build_create_request,
    build_refresh_request,
    build_subrequest,
)
from tests.bench.sessions import make_session

KNOWN = make_session(7, KeyRing([TokenKey.generate()]))
SIGNALS = SignalSources(enabled=(Signal.IP, Signal.USER_AGENT, Signal.ACCEPT_LANGUAGE))


def lines_of(request: str) -> list[tuple[bytes, bytes]]:
    _, *lines = request.removesuffix("\r\n\r\n").encode().split(b"\r\n")
    pairs = (line.partition(b": ") for line in lines)
    return [(name, value) for name, _, value in pairs]


GATEWAY = AuthRequest(GatewayPolicy(signals=SIGNALS))


def head_of(request: str) -> Head:
    return build_head(b"GET", b"/", fields=lines_of(request), roles=GATEWAY.roles)


def read(request: str) -> Subrequest:
    return GATEWAY.read(head_of(request))


def test_token_is_read_among_other_cookies() -> None:
    request = build_subrequest(KNOWN, path="/auth-request")

    assert read(request).credential == KNOWN.token.text.encode("ascii")
    assert dict(lines_of(request))[b"Cookie"].count(b"; ") == 5


def test_bearer_token_is_read() -> None:
    assert read(
        build_bearer_request(KNOWN, path="/decisions/shop")
    ).credential == KNOWN.token.text.encode("ascii")


def test_signals_match_the_bound_client() -> None:
    head = head_of(build_subrequest(KNOWN, path="/auth-request"))

    assert GATEWAY.policy.signals.read(head) == KNOWN.signals


def test_cookie_of_another_product_replaces_the_session_cookie() -> None:
    request = build_cookie_request(KNOWN, "_oauth2_proxy=abc", path="/oauth2/auth")

    assert b"; _oauth2_proxy=abc; " in dict(lines_of(request))[b"Cookie"]
    assert KNOWN.token.text not in request


def test_subrequest_has_ten_header_lines() -> None:
    assert len(lines_of(build_subrequest(KNOWN, path="/auth-request"))) == 10


def test_admin_requests_have_the_right_content_length() -> None:
    for request in (
        build_create_request(7, "sgk_key"),
        build_refresh_request("sgw_token", "sgk_key"),
    ):
        head, body = request.split("\r\n\r\n")
        assert head.endswith(f"Content-Length: {len(body)}")
        assert isinstance(json.loads(body), dict)
