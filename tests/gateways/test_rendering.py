"""The whole configurations, for many settings, in the judgement of each gateway's own program."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from sidegate.core.errors import SettingsError
from sidegate.gateway_config.products import PRODUCTS
from sidegate.gateway_config.render import render_files
from tests.gateways.http_client import send
from tests.gateways.launch import GATEWAYS, build_test_deployment, start_gateway
from tests.support.processes import Server, temporary_directory
from tests.support.sidegate import start_sidegate

if TYPE_CHECKING:
    from pathlib import Path

# What makes a gateway check the files in its working directory, and exit.
VALIDATE: Mapping[str, Sequence[str]] = {
    "nginx": ["-t", "-p", "./", "-c", "nginx.conf", "-e", "stderr"],
    "envoy": ["--mode", "validate", "--log-level", "error", "-c", "envoy.yaml"],
    "haproxy": ["-c", "-f", "haproxy.cfg"],
    "caddy": ["validate", "--adapter", "caddyfile", "--config", "Caddyfile"],
}


@dataclass(frozen=True)
class Case:
    gates: Sequence[str] = ("127.0.0.1:7080",)
    upstream: str = "http://127.0.0.1:9000"
    settings: Mapping[str, str] = field(default_factory=dict)


ALL_SOURCES = {
    "SIDEGATE_GATE__BASIC": "true",
    "SIDEGATE_GATE__WEBSOCKET_PROTOCOL": "true",
    "SIDEGATE_GATE__HEADER": "X-App_Token",
}
# Header names may have all of these characters; `_` makes a name that Envoy's file must not drop.
RENAMED = {
    "SIDEGATE_GATE__IDENTITY__USER": "Remote-User",
    "SIDEGATE_GATE__IDENTITY__SCOPES": "My_Scopes",
    "SIDEGATE_GATE__IDENTITY__TYPE": "Type",
    "SIDEGATE_GATE__IDENTITY__TIME": "x!#$%&'*+.^`|~time",
}

CASES = {
    "defaults": Case(),
    "TLS to the application": Case(upstream="https://localhost:8443"),
    "TLS to an address": Case(upstream="https://127.0.0.1"),
    "TLS to an IPv6 address": Case(upstream="https://[::1]:8443"),
    "application by name": Case(upstream="http://localhost:9000"),
    "application on IPv6": Case(upstream="http://[::1]:9000"),
    "three instances": Case(gates=["127.0.0.1:7080", "127.0.0.2:7080", "127.0.0.3:7081"]),
    "Sidegate on IPv6": Case(gates=["[::1]:7080"]),
    "Sidegate by name": Case(gates=["localhost:7080", "127.0.0.1:7081"]),
    "Sidegate on a socket": Case(gates=["unix:/run/sidegate/gate.sock"]),
    "no cookie": Case(settings={"SIDEGATE_GATE__COOKIE": "null"}),
    "only a cookie": Case(settings={"SIDEGATE_GATE__BEARER": "false"}),
    "cookie of special characters": Case(settings={"SIDEGATE_GATE__COOKIE": "!#$%&'*+.^_`|~-a"}),
    "all sources": Case(settings=ALL_SOURCES),
    "only the header": Case(
        settings={
            "SIDEGATE_GATE__COOKIE": "null",
            "SIDEGATE_GATE__BEARER": "false",
            "SIDEGATE_GATE__HEADER": "X-App-Token",
        }
    ),
    "renamed identity headers": Case(settings=RENAMED),
    "bound header": Case(settings={"SIDEGATE_BINDING__HEADER__NAME": "X-Device"}),
    "largest identity": Case(settings={"SIDEGATE_GATE__MAX_IDENTITY": "16KiB"}),
    "long deadline": Case(settings={"SIDEGATE_GATE__DEADLINE": "2s"}),
}


# What a gateway cannot do: Traefik connects to no socket, and nginx, Traefik and Caddy remove or
# do not see headers with such names.
REFUSED = {
    ("traefik", "Sidegate on a socket"),
    ("nginx", "all sources"),
    ("nginx", "renamed identity headers"),
    ("traefik", "all sources"),
    ("caddy", "all sources"),
    ("caddy", "renamed identity headers"),
}


# Those in which the lines of Traefik differ from each other: a start takes two seconds.
STARTED = [
    "TLS to an IPv6 address",
    "three instances",
    "only the header",
    "renamed identity headers",
]


def list_cases(*names: str) -> Sequence[tuple[str, str]]:
    return [(name, case) for name in names for case in CASES if (name, case) not in REFUSED]


def write_files(name: str, case: Case, *, directory: Path) -> None:
    deployment = build_test_deployment(
        8080, case.gates, upstream=case.upstream, settings=case.settings
    )
    for file, text in render_files(PRODUCTS[name], deployment).items():
        (directory / file).write_text(text, "utf-8")


@pytest.mark.parametrize(("name", "case"), list_cases(*VALIDATE))
def test_gateway_accepts_the_configuration(name: str, case: str, tmp_path: Path) -> None:
    write_files(name, CASES[case], directory=tmp_path)

    result = subprocess.run(
        [GATEWAYS[name].program(), *VALIDATE[name]], cwd=tmp_path, capture_output=True, check=False
    )

    assert result.returncode == 0, result.stderr.decode() + result.stdout.decode()
    assert b"WARNING" not in result.stderr, result.stderr.decode()


PLAIN_HEADER = {"SIDEGATE_GATE__HEADER": "X-App-Token"}
PLAIN_TIME = {"SIDEGATE_GATE__IDENTITY__TIME": "Auth.Time"}


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("envoy", {}),
        ("haproxy", {}),
        ("traefik", PLAIN_HEADER),
        ("caddy", PLAIN_HEADER | PLAIN_TIME),
    ],
)
def test_settings_are_in_the_configuration(
    name: str, plain: Mapping[str, str], upstream: Server
) -> None:
    """Renamed identity headers replace those of the client, and a configured header is read."""
    settings = {**ALL_SOURCES, **RENAMED, **plain, "SIDEGATE_DRAIN__DELAY": "0s"}
    header = settings["SIDEGATE_GATE__HEADER"]
    with temporary_directory() as one, temporary_directory() as other:
        sidegate = start_sidegate(one, admin_key=None, wait_until_ready=True, **settings)
        gateway = start_gateway(
            name, other, gates=[sidegate.address], upstream=upstream.url, **settings
        )
        token = sidegate.create_session(user_id="alice", scopes=["read"]).token
        forged = [("Remote-User", "root"), ("my-scopes", "all"), ("TYPE", "root")]

        response = send(
            gateway.port, lines=[*forged, (header, token), ("X-Auth-User", "the site's")]
        )
        gateway.stop()
        sidegate.server.stop()

    assert response.status == 200
    names = ["Remote-User", "My_Scopes", "Type", header, "X-Auth-User"]
    assert [response.upstream_values(name) for name in names] == [
        ["alice"],
        ["read"],
        ["web"],
        [],
        ["the site's"],
    ]


@pytest.mark.parametrize("case", STARTED)
def test_traefik_starts_with_the_configuration(case: str) -> None:
    """It answers 404 if a router or a middleware is not valid, and would not be ready."""
    row = CASES[case]
    with temporary_directory() as directory:
        start_gateway(
            "traefik", directory, gates=row.gates, upstream=row.upstream, **row.settings
        ).stop()


@pytest.mark.parametrize(("name", "case"), sorted(REFUSED))
def test_setting_that_a_gateway_cannot_have_is_refused(name: str, case: str) -> None:
    row = CASES[case]
    deployment = build_test_deployment(
        8080, row.gates, upstream=row.upstream, settings=row.settings
    )

    with pytest.raises(SettingsError):
        PRODUCTS[name].check(deployment)
