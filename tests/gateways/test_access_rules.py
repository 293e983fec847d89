"""Access rules behind every gateway: they apply to what it routes, whatever clients send."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidegate.core.target import StatedTarget, read_target
from tests.core.test_target import HOSTILE
from tests.gateways.conftest import OPEN_HOST
from tests.gateways.http_client import Client, Response, send
from tests.gateways.test_gateways import IDENTITY, bearer, cookie, is_denied, is_unavailable

if TYPE_CHECKING:
    from tests.gateways.conftest import StartGateway
    from tests.gateways.http_client import HeaderLine
    from tests.support.sidegate import Created, Sidegate


@pytest.fixture
def gateway_with_rules(
    gateway_name: str, sidegate_with_rules: Sidegate, start: StartGateway
) -> int:
    """The port of a gateway in front of a Sidegate with access rules."""
    return start(gateway_name, sidegate_with_rules.address).port


def is_anonymous(response: Response) -> bool:
    """Return whether the application was reached, with no value in an identity header."""
    assert response.status == 200, (response.status, response.body)
    return not any("".join(response.upstream_values(name)) for name in IDENTITY)


@pytest.mark.parametrize("credential", ["none", "forged", "junk", "valid"])
def test_public_path_needs_no_session(
    gateway_with_rules: int, alice_with_rules: Created, credential: str
) -> None:
    token = alice_with_rules.token
    lines = {
        "none": [],
        "forged": bearer(token[:-1] + ("A" if token[-1] != "A" else "B")),
        "junk": [("Authorization", "Bearer junk"), ("Cookie", "__Host-session=junk")],
        "valid": cookie(token),
    }[credential]
    own = [("X-Auth-User", "mallory")] if credential == "none" else []

    response = send(gateway_with_rules, "GET", "/public/style.css?x=1", [*own, *lines])

    if own and response.status == 400:  # nginx
        response = send(gateway_with_rules, "GET", "/public/style.css?x=1", lines)
    assert is_anonymous(response)
    assert response.upstream_request["path"] == "/public/style.css?x=1"
    received = str(response.upstream_request["headers"])
    assert token not in received
    assert "mallory" not in received


def test_other_methods_and_paths_need_a_session(
    gateway_with_rules: int, alice_with_rules: Created
) -> None:
    assert is_denied(send(gateway_with_rules, "POST", "/public/x"))
    assert is_denied(send(gateway_with_rules, "GET", "/publicity"))
    response = send(gateway_with_rules, "POST", "/public/x", bearer(alice_with_rules.token))
    assert response.upstream_values("X-Auth-User") == ["alice"]


def test_optional_session_gives_its_identity(
    gateway_with_rules: int, alice_with_rules: Created
) -> None:
    with_session = send(gateway_with_rules, "GET", "/home", cookie(alice_with_rules.token))

    assert with_session.upstream_values("X-Auth-User") == ["alice"]
    assert is_anonymous(send(gateway_with_rules, "GET", "/home"))
    assert is_anonymous(send(gateway_with_rules, "GET", "/home", bearer("junk")))


def test_missing_scope_is_forbidden(
    gateway_with_rules: int, alice_with_rules: Created, sidegate_with_rules: Sidegate
) -> None:
    admin = sidegate_with_rules.create_session(user_id="admin", scopes=["admin"])

    forbidden = send(gateway_with_rules, "GET", "/admin/users", bearer(alice_with_rules.token))
    allowed = send(gateway_with_rules, "GET", "/admin/users", bearer(admin.token))

    assert (forbidden.status, forbidden.reached_upstream) == (403, False)
    assert allowed.upstream_values("X-Auth-User") == ["admin"]
    assert is_denied(send(gateway_with_rules, "GET", "/admin/users"))


def test_other_tenant_is_forbidden(
    gateway_with_rules: int, alice_with_rules: Created, sidegate_with_rules: Sidegate
) -> None:
    other = sidegate_with_rules.create_session(user_id="bob", tenant="other")

    assert send(gateway_with_rules, "GET", "/acme/x", bearer(alice_with_rules.token)).status == 200
    assert send(gateway_with_rules, "GET", "/acme/x", bearer(other.token)).status == 403


def test_old_authentication_gets_its_challenge(
    gateway_with_rules: int, alice_with_rules: Created
) -> None:
    response = send(gateway_with_rules, "GET", "/pay", bearer(alice_with_rules.token))

    assert is_denied(response)
    assert 'error="insufficient_user_authentication"' in response.headers["WWW-Authenticate"]


def test_preflight_needs_no_session(gateway_with_rules: int) -> None:
    asked = [("Origin", "https://app.test"), ("Access-Control-Request-Method", "POST")]

    assert is_anonymous(send(gateway_with_rules, "OPTIONS", "/api/orders", asked))
    assert is_denied(send(gateway_with_rules, "POST", "/api/orders", asked))
    assert is_denied(send(gateway_with_rules, "OPTIONS", "/other", asked))


def test_host_that_is_open_needs_no_session(gateway_with_rules: int) -> None:
    assert is_anonymous(send(gateway_with_rules, path="/x", host=OPEN_HOST))
    assert is_anonymous(send(gateway_with_rules, path="/x", host=f"{OPEN_HOST.upper()}:80"))
    assert is_denied(send(gateway_with_rules, path="/x", host=f"{OPEN_HOST}.evil.test"))


HOSTILE_PATHS = [uri for uri, readings in HOSTILE if "/admin" in readings and uri[0] == "/"]


def test_protected_path_is_not_reached_by_any_hostile_form(
    gateway_with_rules: int, alice_with_rules: Created
) -> None:
    """Whether the gateway refuses, changes or passes it."""
    with Client(gateway_with_rules) as client:
        for path in (*HOSTILE_PATHS, "/admin%00/../public/x", "/public/%00/../../admin"):
            for lines in ([], bearer(alice_with_rules.token)):
                response = client.send("GET", path, lines)
                if response.reached_upstream:  # the gateway has made a plain path of it
                    passed = read_paths(response.upstream_request["path"])
                    assert not any(each.startswith("/admin") for each in passed), path
                    assert lines or all(each.startswith("/public/") for each in passed), path
                else:
                    assert response.status in {400, 401, 403, 404}, (path, response.status)


def read_paths(path: str) -> list[str]:
    paths = read_target(StatedTarget(None, path.encode("latin-1"), None)).paths
    assert paths is not None
    return [each.decode("latin-1") for each in paths]


# Headers in which some gateway states a target.
STATED = {
    "Host": OPEN_HOST,
    "URI": "/public/x",
    "Uri": "/public/x",
    "Url": f"http://{OPEN_HOST}/public/x",
    "Method": "OPTIONS",
    "Path": "/public/x",
    "Prefix": "/public",
}


@pytest.mark.parametrize("form", ["{}-{}", "{}_{}", "{}.{}"])
@pytest.mark.parametrize("times", [1, 2])
def test_client_cannot_state_the_target(gateway_with_rules: int, form: str, times: int) -> None:
    lines: list[HeaderLine] = [
        (form.format(prefix, name).replace("-", form[2]), value)
        for prefix in ("X-Original", "X-Forwarded", "X-Envoy-Original", "X-Rewrite", "X-Real")
        for name, value in STATED.items()
    ]
    lines += [("X-HTTP-Method-Override", "OPTIONS"), ("Forwarded", f"host={OPEN_HOST}")]

    with Client(gateway_with_rules) as client:
        for path in ("/other", "/api/x"):
            for line in (*([each] for each in lines), lines):
                response = client.send("GET", path, line * times)
                assert is_denied(response) or response.status == 400, (path, line)
                assert not response.reached_upstream


def test_client_cannot_remove_what_states_the_target(gateway_with_rules: int) -> None:
    names = "X-Original-URI, X-Original-Host, X-Original-Method"
    forwarded = "X-Forwarded-Uri, X-Forwarded-Host, X-Forwarded-Method"
    nominated = [("Connection", f"close, {names}, {forwarded}")]

    denied = send(gateway_with_rules, "GET", "/other", nominated)
    allowed = send(gateway_with_rules, "GET", "/public/x", nominated)

    if allowed.status == denied.status == 400:  # Envoy
        return
    assert is_denied(denied)
    assert is_anonymous(allowed)


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (f"http://{OPEN_HOST}/x", "app.example.test"),
        ("http://app.example.test/x", OPEN_HOST),
        (f"http://{OPEN_HOST}@app.example.test/x", OPEN_HOST),
        ("//app.example.test/x", "app.example.test"),
        (f"//{OPEN_HOST}/x", "app.example.test"),
    ],
)
def test_application_of_another_host_is_not_reached_by_an_absolute_target(
    gateway_with_rules: int, target: str, host: str
) -> None:
    response = send(gateway_with_rules, "GET", target, host=host)

    if response.reached_upstream:  # then the gateway has chosen the open host for all
        assert response.upstream_values("Host") == [OPEN_HOST]
        assert "app.example.test" not in response.upstream_request["path"]
    else:
        assert response.status in {400, 401, 404, 421}


def test_second_host_is_not_used(gateway_with_rules: int) -> None:
    for first, second in (
        (OPEN_HOST, "app.example.test"),
        ("app.example.test", OPEN_HOST),
    ):
        response = send(gateway_with_rules, "GET", "/x", [("Host", second)], host=first)
        assert response.status in {400, 401}
        assert not response.reached_upstream


@pytest.mark.parametrize("location", ["/page", "/inherits"])
def test_parts_in_a_site_state_host_path_and_method(
    gateway_name: str, sidegate_with_rules: Sidegate, start_site: StartGateway, location: str
) -> None:
    port = start_site(gateway_name, sidegate_with_rules.address).port

    assert is_anonymous(send(port, "GET", f"{location}/open"))
    assert is_denied(send(port, "GET", f"{location}/other"))
    assert is_denied(send(port, "GET", f"{location}/open/../other"))
    assert is_denied(send(port, "GET", f"{location}/other", [("X-Original-URI", "/page/open")]))


def test_public_path_is_unavailable_without_an_answer_of_sidegate(
    gateway_without_sidegate: int,
) -> None:
    assert is_unavailable(send(gateway_without_sidegate, "GET", "/public/x"))
