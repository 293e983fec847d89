"""One suite for all gateways, with the parts of `sidegate gateway` inside a site of its own.

Each site has: `/` and `/inherits/`, protected, of which the latter takes its settings from a level
above where the gateway has such; `/public/`, not protected; `/missing`, which the gateway answers
with the site's own 404 page; a second virtual host, other.example.test, not protected; compression,
HTTP/2 and WebSockets.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.gateways.http_client import HeaderLine, Response, send, send_over_websocket
from tests.gateways.launch import GATEWAYS
from tests.gateways.site import SITES
from tests.gateways.test_gateways import IDENTITY, bearer, cookie, is_denied, is_unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gateways.conftest import StartGateway
    from tests.support.sidegate import Created, Sidegate

PROTECTED = ["/page", "/inherits/page"]


@pytest.fixture
def site(gateway_name: str, sidegate: Sidegate, start_site: StartGateway) -> int:
    """The port of a site whose gateway asks Sidegate."""
    return start_site(gateway_name, sidegate.address).port


@pytest.fixture
def site_without_sidegate(gateway_name: str, closed_address: str, start_site: StartGateway) -> int:
    """The port of a site whose Sidegate address refuses connections."""
    return start_site(gateway_name, closed_address).port


def site_header(response: Response) -> list[str]:
    """Return the header that the site itself sets for the application."""
    return response.upstream_values("X-Site")


@pytest.mark.parametrize("path", PROTECTED)
def test_protected_location_needs_a_session(site: int, alice: Created, path: str) -> None:
    allowed = send(site, "GET", path, bearer(alice.token))

    assert is_denied(send(site, "GET", path))
    assert [allowed.upstream_values(name) for name in IDENTITY[:2]] == [
        ["alice"],
        [alice.session_id],
    ]


@pytest.mark.parametrize("path", PROTECTED)
def test_site_keeps_its_own_headers(site: int, alice: Created, path: str) -> None:
    response = send(site, "GET", path, bearer(alice.token))

    assert len(site_header(response)) == 1
    assert response.upstream_values("Host") == ["app.example.test"]


@pytest.mark.parametrize("path", [*PROTECTED, "/public/page"])
@pytest.mark.parametrize("name", ["X-Auth-User", "x_auth_user", "X~Auth~User"])
def test_identity_of_the_client_does_not_reach_the_application(
    site: int, alice: Created, path: str, name: str
) -> None:
    response = send(site, "GET", path, [(name, "root"), *bearer(alice.token)])

    if response.status != 200:
        assert response.status == 400
        assert not response.reached_upstream
        return
    assert "root" not in {value for _, value in response.upstream_request["headers"]}


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_error_of_the_application_is_not_an_outage(site: int, alice: Created, status: int) -> None:
    response = send(site, "GET", f"/page/status/{status}", bearer(alice.token))

    assert response.status == status
    assert "Retry-After" not in response.headers


def test_location_without_protection_is_open(site: int) -> None:
    response = send(site, "GET", "/public/page")

    assert response.status == 200
    assert not any(response.upstream_values(name) for name in IDENTITY)


def test_second_virtual_host_is_as_before(site: int, alice: Created) -> None:
    lines: list[HeaderLine] = [("X-Other", "kept"), *cookie(alice.token)]

    response = send(site, "GET", "/page", lines, host="other.example.test")

    assert response.upstream_values("X-Other") == ["kept"]
    assert response.upstream_values("Cookie") == [cookie(alice.token)[0][1]]


def test_missing_page_is_the_sites_own(site: int, site_without_sidegate: int) -> None:
    for port in (site, site_without_sidegate):
        response = send(port, "GET", "/missing")

        assert (response.status, response.body) == (404, b"page of the site")


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize("credential", [bearer, cookie])
def test_application_does_not_see_the_token(
    site: int, alice: Created, path: str, credential: Callable[[str], list[HeaderLine]]
) -> None:
    response = send(site, "GET", path, credential(alice.token))

    assert response.status == 200
    assert alice.token not in response.body.decode()


def test_response_is_compressed_as_before(site: int, alice: Created) -> None:
    response = send(site, lines=[("Accept-Encoding", "gzip"), *bearer(alice.token)])

    assert response.headers["Content-Encoding"] == "gzip"


def test_http2_request_is_checked(site: int, alice: Created) -> None:
    assert http2_status(site) == 401
    assert http2_status(site, f"Cookie: a=1; __Host-session={alice.token}; b=2") == 200


def http2_status(port: int, *lines: str) -> int:
    """Return the status of a cleartext HTTP/2 request with these header lines."""
    command = ["curl", "--silent", "--http2-prior-knowledge", "--max-time", "10"]
    command += ["--output", "/dev/null", "--write-out", "%{http_version} %{http_code}"]
    for line in ("Host: app.example.test", *lines):
        command += ["--header", line]
    result = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/page"], capture_output=True, text=True, check=True
    )
    version, status = result.stdout.split()
    assert version == "2"
    return int(status)


def test_websocket_is_checked(site: int, alice: Created) -> None:
    assert send_over_websocket(site, bearer(alice.token), "hello") == (101, "alice: hello")
    assert send_over_websocket(site, [], "hello") == (401, "")


@pytest.mark.parametrize("path", PROTECTED)
def test_outage_is_503_where_a_session_is_needed(
    site_without_sidegate: int, alice: Created, path: str
) -> None:
    assert is_unavailable(send(site_without_sidegate, "GET", path, bearer(alice.token)))
    assert send(site_without_sidegate, "GET", "/public/page").status == 200
    assert send(site_without_sidegate, "GET", "/page", host="other.example.test").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/public/../page",
        "/public/./../page",
        "/public/%2e%2e/page",
        "/public/.%2E/page",
        "/public/%2E./page",
        "/public//../../page",
        "/public%2f..%2fpage",
    ],
)
def test_path_that_leaves_an_open_location_needs_a_session(site: int, path: str) -> None:
    response = send(site, "GET", path)

    # Some gateways answer with a redirect to the normalized path.
    assert response.status in {301, 302, 307, 308, 400, 401, 404}
    assert not response.reached_upstream


def test_every_gateway_has_a_site() -> None:
    assert {path.name for path in SITES.iterdir()} == set(GATEWAYS)
