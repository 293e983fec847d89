"""The requests: what a gateway sends, as our gate reads it."""

import json

from sidegate.core.binding import Signal
from sidegate.core.token import KeyRing, TokenKey
from sidegate.web.gateways.auth_request import AuthRequest
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.server.header_lines import gather
from sidegate.web.server.messages import Head, Subrequest
from tests.bench.questions import bearing, carrying, creation, refreshment, subrequest
from tests.bench.sessions import new_known

KNOWN = new_known(7, KeyRing([TokenKey.generate()]))
SIGNALS = SignalSources(wanted=(Signal.IP, Signal.USER_AGENT, Signal.ACCEPT_LANGUAGE))


def lines_of(request: str) -> list[tuple[bytes, bytes]]:
    _, *lines = request.removesuffix("\r\n\r\n").encode().split(b"\r\n")
    pairs = (line.partition(b": ") for line in lines)
    return [(name, value) for name, _, value in pairs]


GATEWAY = AuthRequest(GatewayPolicy(signals=SIGNALS))


def head_of(request: str) -> Head:
    return gather(b"GET", b"/", lines_of(request), GATEWAY.roles)


def read(request: str) -> Subrequest:
    return GATEWAY.read(head_of(request))


def test_the_gate_reads_the_token_among_other_cookies() -> None:
    asked = subrequest(KNOWN, path="/auth-request")

    assert read(asked).credential == KNOWN.token.text
    assert dict(lines_of(asked))[b"Cookie"].count(b"; ") == 5


def test_the_gate_reads_the_token_of_a_bearer() -> None:
    assert read(bearing(KNOWN, path="/decisions/shop")).credential == KNOWN.token.text


def test_the_gate_reads_the_client_that_the_session_is_bound_to() -> None:
    assert GATEWAY.signals(head_of(subrequest(KNOWN, path="/auth-request"))) == KNOWN.signals


def test_somebody_elses_cookie_takes_the_place_of_ours() -> None:
    asked = carrying(KNOWN, "_oauth2_proxy=abc", path="/oauth2/auth")

    assert b"; _oauth2_proxy=abc; " in dict(lines_of(asked))[b"Cookie"]
    assert KNOWN.token.text not in asked


def test_a_subrequest_is_as_large_as_they_usually_are() -> None:
    assert len(lines_of(subrequest(KNOWN, path="/auth-request"))) == 10


def test_requests_to_the_admin_api_say_how_long_they_are() -> None:
    for request in (creation(7, "sgk_key"), refreshment("sgw_token", "sgk_key")):
        head, body = request.split("\r\n\r\n")
        assert head.endswith(f"Content-Length: {len(body)}")
        assert isinstance(json.loads(body), dict)
