"""What only nginx can get wrong in a site of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.gateways.http_client import HeaderLine, send
from tests.gateways.launch import run_upstream, start_gateway
from tests.gateways.site import start_pasted
from tests.gateways.test_gateways import bearer, cookie, is_denied
from tests.support.processes import temporary_directory
from tests.support.sidegate import start_sidegate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.gateways.conftest import StartGateway
    from tests.support.processes import Server
    from tests.support.sidegate import Created, Sidegate


@pytest.fixture
def site(sidegate: Sidegate, start_site: StartGateway) -> int:
    """The port of the site, whose server has `underscores_in_headers on`."""
    return start_site("nginx", sidegate.address).port


@pytest.mark.parametrize("name", ["X-Auth-User", "X_Auth_User", "x-auth_user", "X-Auth-Scopes"])
def test_location_without_the_part_gets_no_forged_identity(
    site: int, alice: Created, name: str
) -> None:
    """It would inherit none of our proxy_set_header lines: the server refuses the request."""
    response = send(site, "GET", "/forgotten/", [(name, "root"), *bearer(alice.token)])

    assert response.status == 400
    assert not response.reached_upstream
    assert send(site, "GET", "/forgotten/", bearer(alice.token)).status == 200
    assert is_denied(send(site, "GET", "/forgotten/"))


def test_empty_identity_header_beside_another_is_refused(site: int, alice: Created) -> None:
    lines = [("X-Auth-User", ""), ("X_Auth_User", "root"), *bearer(alice.token)]

    assert send(site, "GET", "/forgotten/", lines).status == 400


@pytest.mark.parametrize("count", [3, 5, 40])
def test_more_session_cookies_than_the_maps_remove_leave_no_cookie(
    site: int, alice: Created, count: int
) -> None:
    junk = "; ".join(f"__Host-session=junk{number}" for number in range(count - 1))
    line = f"a=1; {junk}; __Host-session={alice.token}; b=2"

    response = send(site, "GET", "/page", [("Cookie", line)])

    assert response.status == 200
    assert response.upstream_values("Cookie") == []


def test_rewrite_of_the_server_does_not_answer_the_check(site: int, alice: Created) -> None:
    """It would apply to the subrequest, and the site's own 200 would let the request pass."""
    assert is_denied(send(site, "GET", "/rewritten/path"))
    allowed = send(site, "GET", "/rewritten/path", bearer(alice.token))
    assert allowed.upstream_values("X-Auth-User") == ["alice"]


@pytest.mark.parametrize("credential", [bearer, cookie])
def test_capture_of_a_location_is_its_own(
    site: int, alice: Created, credential: Callable[[str], list[HeaderLine]]
) -> None:
    """A map with a regular expression that is evaluated later would replace $1."""
    response = send(site, "GET", "/user/bob/", credential(alice.token))

    assert response.upstream_values("X-Site") == ["bob"]
    assert alice.token not in response.body.decode()


def test_error_of_a_location_without_protection_is_not_an_outage(site: int) -> None:
    for path in ("/boom", "/public/status/500"):
        response = send(site, "GET", path)

        assert response.status == 500
        assert "Retry-After" not in response.headers


@pytest.mark.parametrize("name", ["Cookie", "Authorization", "User-Agent"])
def test_control_character_is_a_bad_request_and_no_outage(
    site: int, alice: Created, name: str
) -> None:
    response = send(site, "GET", "/page", [(name, "a\x01b"), *bearer(alice.token)])

    assert response.status == 400
    assert "Retry-After" not in response.headers


def test_renamed_identity_headers_are_those_of_the_settings(upstream: Server) -> None:
    names = {
        "SIDEGATE_GATE__IDENTITY__USER": "Remote-User",
        "SIDEGATE_GATE__IDENTITY__SCOPES": "My_Scopes",
        "SIDEGATE_GATE__HEADER": "X-App-Token",
        "SIDEGATE_DRAIN__DELAY": "0s",
    }
    with temporary_directory() as one, temporary_directory() as other:
        sidegate = start_sidegate(one, admin_key=None, wait_until_ready=True, **names)
        gateway = start_gateway(
            "nginx", other, gates=[sidegate.address], upstream=upstream.url, **names
        )
        token = sidegate.create_session(user_id="alice", scopes=["read"]).token
        own = [("X-App-Token", token), ("X-Auth-User", "the site's")]

        response = send(gateway.port, lines=own)
        forged = send(gateway.port, lines=[*own, ("remote-user", "root")])
        gateway.stop()
        sidegate.server.stop()

    assert forged.status == 400
    received = ["Remote-User", "My_Scopes", "X-App-Token", "X-Auth-User"]
    assert [response.upstream_values(name) for name in received] == [
        ["alice"],
        ["read"],
        [],
        ["the site's"],
    ]


FASTCGI_SITE = """daemon off;
pid nginx.pid;
events {}
http {
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    access_log off;
    <part http>
    server {
        listen 127.0.0.1:8080;
        <part server>
        location / {
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_pass 127.0.0.1:9000;
            <part fastcgi>
        }
    }
}
"""


def test_fastcgi_application_gets_the_identity_and_no_token(
    sidegate: Sidegate, alice: Created, workdir: Path
) -> None:
    with run_upstream("tests.gateways.fastcgi_application") as application:
        site = start_pasted(
            "nginx",
            workdir,
            texts={"nginx.conf": FASTCGI_SITE},
            gate=sidegate.address,
            upstream=application.url,
        )
        own = [("Cookie", f"a=1; __Host-session={alice.token}"), ("Authorization", "Basic YTpi")]
        denied = send(site.port)
        allowed = send(site.port, lines=own)
        bearer_only = send(site.port, lines=bearer(alice.token))
        site.stop()

    assert is_denied(denied)
    received = json.loads(allowed.body)
    assert received["HTTP_X_AUTH_USER"] == "alice"
    assert received["HTTP_COOKIE"] == "a=1"
    assert received["HTTP_AUTHORIZATION"] == "Basic YTpi"
    assert not {"HTTP_COOKIE", "HTTP_AUTHORIZATION"} & set(json.loads(bearer_only.body))
    assert alice.token not in (allowed.body + bearer_only.body).decode()
