"""What only HAProxy's rules and script can get wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gateways.http_client import send
from tests.gateways.test_gateways import bearer, is_denied

if TYPE_CHECKING:
    from tests.gateways.conftest import StartGateway
    from tests.support.sidegate import Created, Sidegate

# Bytes of a head, as docs/gateways/haproxy.md has it.
LIMIT = 27_000


@pytest.fixture
def site(sidegate: Sidegate, start_site: StartGateway) -> int:
    return start_site("haproxy", sidegate.address).port


@pytest.fixture
def haproxy(sidegate: Sidegate, start: StartGateway) -> int:
    return start("haproxy", sidegate.address).port


@pytest.mark.parametrize(
    "path",
    [
        "/public/..\\page",
        "/public/..%5Cpage",
        "/public/..%2fpage",
        "/public/%2E%2E/page",
        "/public/..;a=b/page",
        "/public/..",
        "/public//page",
    ],
)
def test_path_that_may_leave_an_open_one_is_checked(site: int, alice: Created, path: str) -> None:
    assert is_denied(send(site, "GET", path))
    assert send(site, "GET", path, bearer(alice.token)).upstream_request["path"] == path


@pytest.mark.parametrize(
    "path", ["/public/", "/public/a.b/..c", "/public/a..b?x=/../y", "/public/.well-known"]
)
def test_path_with_dots_in_names_is_open(site: int, path: str) -> None:
    assert send(site, "GET", path).upstream_request["path"] == path


@pytest.mark.parametrize("target", ["app.example.test:80", "app.example.test:443"])
def test_connect_opens_no_tunnel(haproxy: int, alice: Created, target: str) -> None:
    """An application that answers 200 would get all that follows without a check."""
    response = send(haproxy, "CONNECT", target, bearer(alice.token), host=target)

    assert response.status == 405


def test_cookie_lines_without_the_session_are_not_touched(haproxy: int, alice: Created) -> None:
    lines = ["a=1;; b", "c; x__Host-session=2;", '__Host-session2="d']

    response = send(haproxy, lines=[*(("Cookie", line) for line in lines), *bearer(alice.token)])

    assert response.upstream_values("Cookie") == lines


def test_largest_identity_fits_beside_the_largest_head(haproxy: int, sidegate: Sidegate) -> None:
    scopes = [f"{number:02d}{',' * 14}" for number in range(64)]  # each comma takes three bytes
    created = sidegate.create_session(user_id="\U0001f600" * 80, scopes=scopes)
    line = f"__Host-session={created.token}; padding={'x' * (LIMIT - 200)}"

    response = send(haproxy, lines=[("Cookie", line)])

    assert response.status == 200
    identity = "".join(
        response.upstream_values("X-Auth-User") + response.upstream_values("X-Auth-Scopes")
    )
    assert len(identity) > 3800


def test_larger_head_is_refused(haproxy: int, alice: Created) -> None:
    response = send(haproxy, lines=[("X-Padding", "x" * (LIMIT + 2000)), *bearer(alice.token)])

    assert response.status == 400
    assert not response.reached_upstream


def test_head_at_the_limit_is_no_outage(haproxy: int, alice: Created) -> None:
    """With what the subrequest adds, it may exceed the limit."""
    statuses = [
        send(haproxy, lines=[("Cookie", "x" * size), *bearer(alice.token)]).status
        for size in range(28_200, 28_600, 10)
    ]

    assert set(statuses) == {200, 400}
    assert statuses == sorted(statuses)


@pytest.mark.parametrize("filler", [" ", "\t", "=", ":", "Ojo6", "a ", "a,"])
@pytest.mark.parametrize(
    "line", ["Cookie: a{}b=1;c", "Cookie: {}", "Authorization: X a{}b", "Authorization: Basic {}b"]
)
def test_long_values_do_not_occupy_the_script(
    start_with_all_sources: StartGateway,
    sidegate_with_all_sources: Sidegate,
    alice_with_all_sources: Created,
    line: str,
    filler: str,
) -> None:
    """HAProxy ends itself after seconds in one pattern."""
    port = start_with_all_sources("haproxy", sidegate_with_all_sources.address).port
    name, value = line.split(": ")
    own = (name, value.format(filler * (26_000 // len(filler))))
    session = ("Cookie", f"__Host-session={alice_with_all_sources.token}")

    response = send(port, lines=[own, session])

    assert response.status == 200


def test_preflight_of_an_open_method_reaches_the_application(site: int) -> None:
    lines = [("Origin", "https://x.example.test"), ("Access-Control-Request-Method", "PUT")]

    assert send(site, "OPTIONS", "/page", lines).upstream_request["method"] == "OPTIONS"
    assert is_denied(send(site, "PUT", "/page"))
