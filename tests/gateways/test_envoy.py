"""What only Envoy's filters can get wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gateways.http_client import Response, send
from tests.gateways.test_gateways import bearer, is_denied

if TYPE_CHECKING:
    from tests.gateways.conftest import StartGateway
    from tests.support.sidegate import Created, Sidegate

# Bytes of a head, as docs/gateways/envoy.md has it, with a small identity and with the largest.
LIMIT = 59_000
LIMIT_WITH_LARGEST_IDENTITY = 56_000


@pytest.fixture
def site(sidegate: Sidegate, start_site: StartGateway) -> int:
    return start_site("envoy", sidegate.address).port


@pytest.fixture
def envoy(sidegate: Sidegate, start: StartGateway) -> int:
    return start("envoy", sidegate.address).port


def send_headers(port: int, count: int, *, token: str) -> Response:
    return send(port, lines=[*((f"X-{number}", "1") for number in range(count)), *bearer(token)])


def test_request_with_many_headers_is_allowed(envoy: int, alice: Created) -> None:
    """The default limit is 100, and those that ext_authz adds count."""
    statuses = {
        count: send_headers(envoy, count, token=alice.token).status for count in range(84, 104)
    }

    assert set(statuses.values()) == {200}, statuses


@pytest.mark.parametrize("count", [*range(191, 202), 250])
def test_too_many_headers_are_431(envoy: int, alice: Created, count: int) -> None:
    response = send_headers(envoy, count, token=alice.token)

    assert response.status == 431
    assert not response.reached_upstream


def test_head_of_the_stated_limit_is_allowed(envoy: int, alice: Created) -> None:
    for name in ("Cookie", "X-Padding"):
        line = (name, "x" * (LIMIT - 200))
        assert send(envoy, lines=[line, *bearer(alice.token)]).status == 200


def test_larger_head_is_431(envoy: int, alice: Created) -> None:
    """Also a head that exceeds the limit only with the identity headers."""
    statuses = [
        send(envoy, lines=[("X-Padding", "x" * size), *bearer(alice.token)]).status
        for size in range(LIMIT, LIMIT + 4000, 100)
    ]

    assert set(statuses) == {200, 431}
    assert statuses == sorted(statuses)


@pytest.mark.parametrize("name", ["Cookie", "X-Padding"])
def test_largest_identity_counts_as_a_part_of_the_head(
    envoy: int, sidegate: Sidegate, name: str
) -> None:
    scopes = [f"{number:02d}{',' * 14}" for number in range(64)]  # each comma takes three bytes
    created = sidegate.create_session(user_id="\U0001f600" * 80, scopes=scopes)

    def status(size: int) -> int:
        return send(envoy, lines=[(name, "x" * (size - 200)), *bearer(created.token)]).status

    assert status(LIMIT_WITH_LARGEST_IDENTITY) == 200
    assert {status(size) for size in range(58_000, 62_000, 500)} == {431}


@pytest.mark.parametrize(
    "path", ["/public/..\\page", "/public/..%5Cpage", "/public/..%2fpage", "/public/%2E%2E/page"]
)
def test_path_that_leaves_an_open_route_is_checked(site: int, path: str) -> None:
    response = send(site, "GET", path)

    assert response.status in {400, 401}
    assert not response.reached_upstream


def test_denial_is_not_changed_by_mappers_of_the_site(site: int) -> None:
    """The site turns its own 401 into a 403."""
    assert is_denied(send(site, "GET", "/page"))


def test_preflight_of_an_open_method_reaches_the_application(site: int) -> None:
    lines = [("Origin", "https://x.example.test"), ("Access-Control-Request-Method", "PUT")]

    assert send(site, "OPTIONS", "/page", lines).upstream_request["method"] == "OPTIONS"
    assert is_denied(send(site, "PUT", "/page"))


def test_path_without_a_route_is_the_404_of_the_site(site: int) -> None:
    response = send(site, "GET", "/page", host="sparse.example.test")

    assert (response.status, response.body) == (404, b"page of the site")
    assert is_denied(send(site, "GET", "/only", host="sparse.example.test"))
