"""What only a site of Traefik has: routers on every entry point, and upgrades by answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gateways.http_client import send, send_over_websocket
from tests.gateways.test_gateways import bearer

if TYPE_CHECKING:
    from tests.gateways.conftest import StartGateway
    from tests.support.sidegate import Created, Sidegate


@pytest.fixture
def site(sidegate: Sidegate, start_site: StartGateway) -> int:
    return start_site("traefik", sidegate.address).port


def test_error_of_the_application_stays_the_sites_own(site: int, alice: Created) -> None:
    response = send(site, "GET", "/broken/page", bearer(alice.token))

    assert response.status == 502
    assert "Retry-After" not in response.headers


def test_upgrade_of_a_route_without_protection_is_as_before(site: int) -> None:
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "other")]

    response = send(site, "GET", "/public/page", upgrade)

    assert response.upstream_values("Upgrade") == ["other"]


def test_websocket_handshake_with_another_upgrade_is_to_a_websocket(
    site: int, alice: Created
) -> None:
    lines = [("Upgrade", "h2c"), *bearer(alice.token)]

    assert send_over_websocket(site, lines, "hello") == (101, "alice: hello")
