"""What only a site of Caddy has: a check in the site block, and error pages by status codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gateways.http_client import send
from tests.gateways.test_gateways import bearer, is_denied, is_unavailable

if TYPE_CHECKING:
    from tests.gateways.conftest import StartGateway
    from tests.support.sidegate import Created, Sidegate

WHOLE = "whole.example.test"


@pytest.fixture
def site(sidegate: Sidegate, start_site: StartGateway) -> int:
    return start_site("caddy", sidegate.address).port


@pytest.fixture
def site_without_sidegate(closed_address: str, start_site: StartGateway) -> int:
    return start_site("caddy", closed_address).port


@pytest.mark.parametrize("path", ["/page", "/broken", "/other"])
def test_check_in_the_site_block_comes_before_every_route(site: int, path: str) -> None:
    assert is_denied(send(site, "GET", path, [("X-Auth-User", "root")], host=WHOLE))


@pytest.mark.parametrize("path", ["/page", "/other"])
def test_check_in_the_site_block_keeps_the_verified_identity(
    site: int, alice: Created, path: str
) -> None:
    lines = [("X-Auth-User", "root"), *bearer(alice.token)]

    response = send(site, "GET", path, lines, host=WHOLE)

    assert response.upstream_values("X-Auth-User") == ["alice"]


def test_check_in_the_site_block_can_have_a_matcher(site: int, alice: Created) -> None:
    host, forged = "partly.example.test", [("X-Auth-User", "root")]
    public = send(site, "GET", "/public/page", forged, host=host)
    closed = send(site, "GET", "/page", [*forged, *bearer(alice.token)], host=host)

    assert public.upstream_values("X-Auth-User") == []
    assert closed.upstream_values("X-Auth-User") == ["alice"]
    assert is_denied(send(site, "GET", "/page", host=host))


def test_outage_is_503_although_the_site_has_pages_for_5xx(site_without_sidegate: int) -> None:
    assert is_unavailable(send(site_without_sidegate, "GET", "/page", host=WHOLE))
    assert is_unavailable(send(site_without_sidegate, "GET", "/broken", host=WHOLE))


def test_error_of_the_application_stays_the_sites_own(
    site: int, site_without_sidegate: int, alice: Created
) -> None:
    protected = send(site, "GET", "/broken/page", bearer(alice.token))
    by_status = send(site, "GET", "/broken", bearer(alice.token), host=WHOLE)

    assert (protected.status, protected.body) == (200, b"broken, says the site")
    assert (by_status.status, by_status.body) == (502, b"broken, says the site")
    for port in (site, site_without_sidegate):
        public = send(port, "GET", "/broken-public/page")
        assert (public.status, public.body) == (200, b"broken, says the site")


def test_route_that_strips_a_prefix_is_checked(site: int, alice: Created) -> None:
    allowed = send(site, "GET", "/stripped/page?x=1", bearer(alice.token))

    assert allowed.upstream_request["path"] == "/page?x=1"
    assert is_denied(send(site, "GET", "/stripped/page?x=1"))


def test_error_of_the_site_after_the_check_stays_its_own(site: int, alice: Created) -> None:
    response = send(site, "GET", "/failed", bearer(alice.token), host=WHOLE)

    assert (response.status, response.body) == (500, b"broken, says the site")
