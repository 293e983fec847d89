"""What only nginx can get wrong in a site of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gateways.http_client import send
from tests.gateways.launch import start_gateway
from tests.gateways.test_gateways import bearer, is_denied
from tests.support.processes import temporary_directory
from tests.support.sidegate import start_sidegate

if TYPE_CHECKING:
    from tests.gateways.conftest import StartGateway
    from tests.support.processes import Server
    from tests.support.sidegate import Created, Sidegate


@pytest.fixture
def site(sidegate: Sidegate, start_site: StartGateway) -> int:
    """The port of the site, whose server has `underscores_in_headers on`."""
    return start_site("nginx", sidegate.address).port


@pytest.mark.parametrize("name", ["X-Auth-User", "X_Auth_User", "x-auth_user", "X-Auth-Scopes"])
def test_location_that_forgot_the_part_gets_no_forged_identity(
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
