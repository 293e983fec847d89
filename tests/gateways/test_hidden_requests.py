"""What a request can carry past the check: another request in its body, headers behind it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.gateways.conftest import cache_gateways
from tests.gateways.http2 import send_http2
from tests.gateways.http_client import HOST, HeaderLine, send
from tests.gateways.launch import GATEWAYS, start_gateway
from tests.gateways.recorder import Recorder, run_recorder
from tests.gateways.site import start_site
from tests.gateways.test_gateways import bearer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.gateways.conftest import StartGateway
    from tests.support.sidegate import Created, Sidegate

HIDDEN = b"GET /admin HTTP/1.1\r\nHost: app.example.test\r\nX-Auth-User: mallory\r\n\r\n"
TARGET = f"{HOST}:80"
TRAILERS = [("x-auth-user", "mallory"), ("x-other", "1")]
# The file for HAProxy drops trailers with HAProxy 3.1 or later; docs/gateways/haproxy.md says so.
WITHOUT_TRAILERS = [name for name in GATEWAYS if name != "haproxy"]


@pytest.fixture(scope="module")
def shared_recorder() -> Iterator[Recorder]:
    with run_recorder() as recorder:
        yield recorder


@pytest.fixture(scope="module")
def start_whole(shared_recorder: Recorder) -> Iterator[StartGateway]:
    with cache_gateways(
        lambda name, directory, gate: start_gateway(
            name, directory, gates=[gate], upstream=shared_recorder.url
        )
    ) as start:
        yield start


@pytest.fixture(scope="module")
def start_recorded_site(shared_recorder: Recorder) -> Iterator[StartGateway]:
    with cache_gateways(
        lambda name, directory, gate: start_site(
            name, directory, gate=gate, upstream=shared_recorder.url
        )
    ) as start:
        yield start


@pytest.fixture
def site(gateway_name: str, sidegate: Sidegate, start_recorded_site: StartGateway) -> int:
    """The port of a site in front of the recorder."""
    return start_recorded_site(gateway_name, sidegate.address).port


@pytest.fixture(params=["whole", "site"])
def gateway(
    request: pytest.FixtureRequest,
    gateway_name: str,
    site: int,
    sidegate: Sidegate,
    start_whole: StartGateway,
) -> int:
    """The port of a whole configuration, or of a site, in front of the recorder."""
    is_site = request.param == "site"
    return site if is_site else start_whole(gateway_name, sidegate.address).port


@pytest.fixture
def recorder(shared_recorder: Recorder, site: int) -> Recorder:  # noqa: ARG001  # starts first
    """The application, which has received nothing yet."""
    shared_recorder.requests.clear()
    return shared_recorder


def assert_nothing_hidden(recorder: Recorder) -> None:
    for request in recorder.requests:
        assert request.method != "CONNECT"
        assert b"mallory" not in request.head + request.trailers


def with_session(token: str) -> list[HeaderLine]:
    return bearer(token)


def without_session(_: str) -> list[HeaderLine]:
    return []


@pytest.mark.parametrize("credential", [with_session, without_session])
@pytest.mark.parametrize("target", [TARGET, "/public/page", f"http://{HOST}/public/page"])
def test_connect_does_not_reach_the_application(
    gateway: int,
    recorder: Recorder,
    alice: Created,
    target: str,
    credential: Callable[[str], list[HeaderLine]],
) -> None:
    lines = credential(alice.token)

    for framed in (None, HIDDEN):
        send(gateway, "CONNECT", target, lines, framed, chunked=True, host=TARGET)

    assert_nothing_hidden(recorder)


@pytest.mark.parametrize("credential", [with_session, without_session])
def test_http2_connect_does_not_reach_the_application(
    gateway: int,
    recorder: Recorder,
    alice: Created,
    credential: Callable[[str], list[HeaderLine]],
) -> None:
    fields = [(":method", "CONNECT"), (":authority", TARGET)]
    fields += [(name.lower(), value) for name, value in credential(alice.token)]

    send_http2(gateway, fields, body=HIDDEN, ends=False)

    assert_nothing_hidden(recorder)


@pytest.mark.parametrize("path", ["/page", "/public/page"])
@pytest.mark.parametrize("gateway_name", WITHOUT_TRAILERS)
def test_trailers_do_not_reach_the_application(
    site: int, recorder: Recorder, alice: Created, path: str
) -> None:
    trailers = "".join(f"{name}: {value}\r\n" for name, value in TRAILERS)
    lines = [("Trailer", "X-Auth-User"), ("TE", "trailers"), *bearer(alice.token)]

    send_chunked(site, path, lines, body=f"3\r\nabc\r\n0\r\n{trailers}\r\n".encode())

    assert [request.method for request in recorder.requests] == ["POST"]
    assert_nothing_hidden(recorder)


def send_chunked(port: int, path: str, lines: list[HeaderLine], *, body: bytes) -> None:
    """Send a chunked body, of any bytes, and wait for the response."""
    head = "".join(f"{name}: {value}\r\n" for name, value in [("Host", HOST), *lines])
    request = f"POST {path} HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(request + body)
        assert connection.recv(12)[-3:] == b"200"


@pytest.mark.parametrize("path", ["/page", "/public/page"])
@pytest.mark.parametrize("gateway_name", WITHOUT_TRAILERS)
def test_http2_trailers_do_not_reach_the_application(
    gateway_name: str, site: int, recorder: Recorder, alice: Created, path: str
) -> None:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", HOST)]
    fields += [("te", "trailers"), *((name.lower(), value) for name, value in bearer(alice.token))]

    send_http2(site, fields, body=b"abc", trailers=TRAILERS)

    expected = [] if gateway_name == "nginx" else ["POST"]  # nginx closes the connection
    assert [request.method for request in recorder.requests] == expected
    assert_nothing_hidden(recorder)
