"""ingress-nginx, Envoy Gateway, Istio, Contour and APISIX: what `sidegate gateway` prints for them.

The manifests, and what their proxies do with them: control_planes.py translates them for a real
nginx and a real Envoy. APISIX is not run.
"""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml
from click.testing import CliRunner

from sidegate.cli.main import main
from tests.gateways.conftest import OPEN_HOST
from tests.gateways.control_planes import CONTROL_PLANES, Tree, Wiring, read_objects
from tests.gateways.http_client import HeaderLine, send, send_over_websocket
from tests.gateways.launch import start_with_files
from tests.gateways.test_access_rules import is_anonymous
from tests.gateways.test_gateways import IDENTITY, bearer, cookie, identity_in, is_denied
from tests.gateways.test_token_removal import find_token
from tests.support.processes import Server, temporary_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.support.sidegate import Created, Sidegate

    StartProduct = Callable[[str, str], Server]

GATE = "sidegate.default.svc.cluster.local:7080"
APP = "http://shop.shop.svc.cluster.local:8000"
PRODUCTS = [*CONTROL_PLANES, "apisix"]
# Settings that change every name.
RENAMED = {
    "SIDEGATE_GATE__IDENTITY__USER": "Remote-User",
    "SIDEGATE_GATE__HEADER": "X-Session-Token",
    "SIDEGATE_GATE__WEBSOCKET_PROTOCOL": "true",
    "SIDEGATE_GATE__COOKIE": "null",
    "SIDEGATE_BINDING__HEADER__NAME": "X-Device",
    "SIDEGATE_GATE__DEADLINE": "1s",
}

every_product = pytest.mark.parametrize("name", PRODUCTS)
every_proxy = pytest.mark.parametrize("name", list(CONTROL_PLANES))


def run(*arguments: str, **settings: str) -> tuple[int, str]:
    result = CliRunner(env=settings).invoke(main, ["gateway", *arguments])
    return result.exit_code, result.output


def write_files(
    name: str, directory: Path, *, gate: str = GATE, **settings: str
) -> Mapping[str, str]:
    """Return the files of a product by name."""
    options = ["--gate", gate, "--upstream", APP, "--directory", str(directory)]
    code, output = run(name, *options, **settings)
    assert code == 0, output
    return {path.name: path.read_text("utf-8") for path in directory.iterdir()}


# The manifests


@pytest.mark.parametrize("name", ["ingress-nginx", "envoy-gateway", "istio", "contour"])
def test_files_are_objects_of_kubernetes(name: str, tmp_path: Path) -> None:
    for kind, each in read_objects(write_files(name, tmp_path)).items():
        if not kind:  # values of a Helm chart
            assert set(each) == {"meshConfig"}
        elif each["apiVersion"] in ("v1", "networking.k8s.io/v1"):
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
        else:
            assert each["metadata"]["name"]
            assert each["metadata"]["namespace"]


def read_names(name: str, files: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the headers sent to Sidegate and those taken from its answer, lower case."""
    match name:
        case "ingress-nginx":
            (ingress,) = [each for each in read_all(files) if each["kind"] == "Ingress"]
            annotations = ingress["metadata"]["annotations"]
            taken = annotations["nginx.ingress.kubernetes.io/auth-response-headers"].split(", ")
            return [], [each.lower() for each in taken]
        case "envoy-gateway":
            policy = read_objects(files)["SecurityPolicy"]["spec"]["extAuth"]
            sent, taken = policy["headersToExtAuth"], policy["http"]["headersToBackend"]
        case "istio":
            (provider,) = read_objects(files)[""]["meshConfig"]["extensionProviders"]
            settings = provider["envoyExtAuthzHttp"]
            sent = settings["includeRequestHeadersInCheck"] + ["x-real-ip"]
            taken = settings["headersToUpstreamOnAllow"]
        case "contour":
            proxy = read_objects(files)["HTTPProxy"]["spec"]
            settings = proxy["virtualhost"]["authorization"]["httpSettings"]
            sent = [each["exact"] for each in settings["allowedAuthorizationHeaders"]]
            taken = [each["exact"] for each in settings["allowedUpstreamHeaders"]]
        case _:
            plugin = json.loads(files["route.json"])["plugins"]["forward-auth"]
            sent, taken = plugin["request_headers"], plugin["upstream_headers"]
    return [each.lower() for each in sent], [each.lower() for each in taken]


def read_all(files: Mapping[str, str]) -> list[Tree]:
    return [each for text in files.values() for each in yaml.safe_load_all(text)]


@every_product
def test_headers_are_those_of_the_default_settings(name: str, tmp_path: Path) -> None:
    sent, taken = read_names(name, write_files(name, tmp_path))

    expected = {"cookie", "authorization", "user-agent", "accept-language"}
    assert set(sent) - {"x-real-ip"} in (expected, set())  # ingress-nginx sends all
    assert taken == [*map(str.lower, IDENTITY), "cookie", "authorization"]


@every_product
def test_headers_come_from_the_settings(name: str, tmp_path: Path) -> None:
    sent, taken = read_names(name, write_files(name, tmp_path, **RENAMED))

    carried = ["authorization", "sec-websocket-protocol", "x-session-token"]
    assert taken == ["remote-user", *map(str.lower, IDENTITY[1:]), *carried]
    assert not sent or {*carried, "x-device"} < set(sent)
    assert "cookie" not in sent


@every_product
def test_timeout_is_longer_than_the_deadline_of_the_settings(name: str, tmp_path: Path) -> None:
    text = "".join(write_files(name, tmp_path, **RENAMED).values())

    assert "1350" in text or "1.35s" in text


@every_product
def test_missing_answer_does_not_let_a_request_pass(name: str, tmp_path: Path) -> None:
    text = "".join(write_files(name, tmp_path).values())

    assert "failOpen: true" not in text
    assert '"allow_degradation": true' not in text
    assert "/auth-cache-key" not in text


@pytest.mark.parametrize(
    ("gates", "products"),
    [
        (["unix:/run/sidegate/gate.sock"], PRODUCTS),
        ([GATE, "sidegate.other.svc.cluster.local:7080"], PRODUCTS),
        (["10.0.0.5:7080"], ["envoy-gateway", "istio", "contour"]),
        (["sidegate.example.com:7080"], ["envoy-gateway", "istio", "contour"]),
        (["sidegate.default.svc:7080"], ["envoy-gateway", "istio", "contour", "ingress-nginx"]),
        (["sidegate:7080"], ["envoy-gateway", "istio", "contour", "ingress-nginx"]),
        ([], ["envoy-gateway", "istio", "contour"]),
    ],
)
def test_address_that_a_product_cannot_reach_is_refused(
    gates: list[str], products: list[str]
) -> None:
    for name in PRODUCTS:
        options = [option for gate in gates for option in ("--gate", gate)]
        code, output = run(name, *options)

        assert (code == 78) == (name in products), output
        assert code == 0 or "--gate" in output


@every_product
@pytest.mark.parametrize(
    ("setting", "header"),
    [("GATE__IDENTITY__USER", "X~User"), ("GATE__HEADER", "X_Token")],
)
def test_odd_header_name_is_refused(name: str, setting: str, header: str) -> None:
    code, output = run(name, "--gate", GATE, **{f"SIDEGATE_{setting}": header})

    assert code == 78
    assert header in output


def test_other_namespace_is_granted_the_reference(tmp_path: Path) -> None:
    grant = read_objects(write_files("envoy-gateway", tmp_path))["ReferenceGrant"]

    assert grant["metadata"]["namespace"] == "default"
    assert grant["spec"]["from"][0]["namespace"] == "shop"
    assert grant["spec"]["to"][0]["name"] == "sidegate"


def test_apisix_removes_every_variant_that_reaches_it(tmp_path: Path) -> None:
    """Its nginx drops names with other separators than `-` and `_`."""
    plugins = json.loads(write_files("apisix", tmp_path)["route.json"])["plugins"]
    removed = plugins["proxy-rewrite"]["headers"]["remove"]

    assert {"x_auth_user", "x-auth_user", "x_auth-user", "x_auth_expires"} <= set(removed)
    assert len(removed) == len(set(removed)) == 3 * len(IDENTITY)
    assert not {each.lower() for each in IDENTITY} & set(removed)  # it runs after the check


def test_apisix_takes_a_failure_for_an_outage(tmp_path: Path) -> None:
    plugin = json.loads(write_files("apisix", tmp_path)["route.json"])["plugins"]["forward-auth"]

    assert plugin["uri"] == f"http://{GATE}/forward-auth"
    assert (plugin["status_on_error"], plugin["timeout"]) == (503, 500)


# Their proxies


@pytest.fixture(scope="module")
def start_product(upstream: Server) -> Iterator[StartProduct]:
    """Return a function that starts the proxy of a product, or returns the one that is running."""
    with ExitStack() as stack:

        @cache
        def start(name: str, gate: str) -> Server:
            files = write_files(name, stack.enter_context(temporary_directory()))

            def render(port: int) -> Mapping[str, str]:
                wiring = Wiring(f"127.0.0.1:{port}", gate, upstream.url.removeprefix("http://"))
                return CONTROL_PLANES[name](files, wiring)

            program = "nginx" if name == "ingress-nginx" else "envoy"
            directory = stack.enter_context(temporary_directory())
            server = start_with_files(program, directory, render=render)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def proxy(name: str, sidegate: Sidegate, start_product: StartProduct) -> int:
    """The port of the proxy of a product."""
    return start_product(name, sidegate.address).port


@every_proxy
@pytest.mark.parametrize("credential", [bearer, cookie])
def test_application_gets_the_identity_and_no_token(
    proxy: int, alice: Created, credential: Callable[[str], list[HeaderLine]]
) -> None:
    response = send(proxy, "GET", "/page?x=1", credential(alice.token))

    assert response.status == 200
    assert response.upstream_values("X-Auth-User") == ["alice"]
    assert response.upstream_values("X-Auth-Session") == [alice.session_id]
    assert all(len(response.upstream_values(name)) == 1 for name in IDENTITY)
    assert find_token(response, alice.token) == []
    others = ["theme=dark; lang=en"] if credential is cookie else []
    assert response.upstream_values("Cookie") == others
    assert not identity_in(response)


@every_proxy
def test_target_of_access_rules_is_stated_by_the_gateway(
    name: str, sidegate_with_rules: Sidegate, start_product: StartProduct
) -> None:
    port = start_product(name, sidegate_with_rules.address).port
    stated = [
        (f"X-{prefix}-{part}", value)
        for prefix in ("Forwarded", "Original")
        for part, value in (("Host", OPEN_HOST), ("Uri", "/page/open"), ("Method", "GET"))
    ]

    assert is_anonymous(send(port, "GET", "/page/open"))
    assert is_anonymous(send(port, "GET", "/x", host=OPEN_HOST))
    assert is_denied(send(port, "POST", "/page/open", stated))
    assert is_denied(send(port, "GET", "/page/other", stated))
    assert is_denied(send(port, "GET", "/page/open", stated, host="other.example.test"))
    assert not send(port, "GET", "/page/open%2f..%2f..%2fadmin", stated).reached_upstream


@every_proxy
def test_application_of_another_host_is_not_reached_by_an_absolute_target(
    name: str, sidegate_with_rules: Sidegate, start_product: StartProduct
) -> None:
    port = start_product(name, sidegate_with_rules.address).port

    for target, host in (
        (f"http://{OPEN_HOST}/x", "app.example.test"),
        ("http://app.example.test/x", OPEN_HOST),
    ):
        response = send(port, "GET", target, host=host)
        if response.reached_upstream:
            assert response.upstream_values("Host") == [OPEN_HOST]


@every_proxy
def test_long_cookie_is_forwarded_without_the_token(proxy: int, alice: Created) -> None:
    """7 KB: the line of ingress-nginx ends at 8 KB."""
    line = f"a={'x' * 7000}; __Host-session={alice.token}"

    response = send(proxy, lines=[("Cookie", line)])

    assert response.status == 200
    assert response.upstream_values("Cookie") == [f"a={'x' * 7000}"]


@every_proxy
def test_missing_and_revoked_tokens_are_denied(proxy: int, sidegate: Sidegate) -> None:
    revoked = sidegate.create_session()
    sidegate.revoke_session(revoked.session_id)

    assert is_denied(send(proxy, "POST", "/page", body=b"x"))
    assert is_denied(send(proxy, lines=bearer(revoked.token)))


@every_proxy
@pytest.mark.parametrize("path", ["/page", "/public/page"])
@pytest.mark.parametrize(
    "header", ["X-Auth-User", "x_auth_user", "X.Auth.User", "X-Auth_User", "X~Auth~User"]
)
def test_identity_of_the_client_does_not_reach_the_application(
    name: str, proxy: int, alice: Created, *, header: str, path: str
) -> None:
    response = send(proxy, "GET", path, [(header, "root"), *bearer(alice.token)])

    if response.status != 200:
        assert response.status == 400
        return
    passed = "root" in {value for _, value in response.upstream_request["headers"]}
    # Contour removes headers by name only.
    assert passed == ((name, header) == ("contour", "X~Auth~User"))


@every_proxy
def test_route_without_a_check_is_open(proxy: int) -> None:
    assert send(proxy, "GET", "/public/page").reached_upstream


@every_proxy
def test_websocket_needs_a_token(proxy: int, alice: Created) -> None:
    assert send_over_websocket(proxy, bearer(alice.token), "hello") == (101, "alice: hello")
    assert send_over_websocket(proxy, [], "hello") == (401, "")


@every_proxy
def test_other_upgrades_do_not_reach_the_application(proxy: int, alice: Created) -> None:
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "h2c")]

    response = send(proxy, lines=[*upgrade, *bearer(alice.token)])

    assert not response.reached_upstream or response.upstream_values("Upgrade") == []


@every_proxy
def test_no_connection_to_sidegate_is_an_outage(
    name: str, closed_address: str, start_product: StartProduct, alice: Created
) -> None:
    response = send(start_product(name, closed_address).port, lines=bearer(alice.token))

    assert response.status == (403 if name == "contour" else 503)
    retries = {"ingress-nginx": "1", "istio": "1", "envoy-gateway": None, "contour": None}
    assert response.headers["Retry-After"] == retries[name]
    assert not response.reached_upstream


@every_proxy
def test_sidegate_that_does_not_answer_is_an_outage(
    name: str, silent_address: str, start_product: StartProduct, alice: Created
) -> None:
    """The client waits five seconds, the proxies' own timeouts are ten and more."""
    response = send(start_product(name, silent_address).port, lines=bearer(alice.token))

    assert response.status == (403 if name == "contour" else 503)
    assert not response.reached_upstream


@pytest.fixture(scope="module")
def silent_address() -> Iterator[str]:
    """The address of a listener that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@every_proxy
def test_long_identity_beside_a_long_cookie_passes(
    name: str, proxy: int, sidegate: Sidegate
) -> None:
    """The answer has both, in the buffers of nginx."""
    user_id, scopes = chr(0x6F22) * 200, [f"{number:02}{'x' * 100}" for number in range(19)]
    created = sidegate.create_session(user_id=user_id, scopes=scopes)
    line = f"a={'x' * 7000}; __Host-session={created.token}"

    response = send(proxy, lines=[("Cookie", line)])

    assert response.status == 200, name
    assert response.upstream_values("X-Auth-User") == [quote(user_id)]
    assert response.upstream_values("X-Auth-Scopes") == [" ".join(scopes)]


@pytest.mark.parametrize("name", ["ingress-nginx", "envoy-gateway", "istio"])
def test_address_is_the_connections(proxy: int, sidegate: Sidegate) -> None:
    here = sidegate.create_session(binding={"ip": "127.0.0.1"})
    elsewhere = sidegate.create_session(binding={"ip": "192.0.2.7"})
    forged = [("X-Real-IP", "192.0.2.7"), ("X-Forwarded-For", "192.0.2.7")]

    assert send(proxy, lines=bearer(here.token)).status == 200
    assert is_denied(send(proxy, lines=[*forged, *bearer(elsewhere.token)]))


def test_contour_does_not_pass_an_address(sidegate: Sidegate, start_product: StartProduct) -> None:
    proxy = start_product("contour", sidegate.address).port
    bound = sidegate.create_session(binding={"ip": "192.0.2.7"})

    lines = [("X-Real-IP", "192.0.2.7"), *bearer(bound.token)]
    assert is_denied(send(proxy, lines=lines))
