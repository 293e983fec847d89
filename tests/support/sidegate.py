"""Sidegate as a process, and operations through its admin API."""

from __future__ import annotations

import http.client
import json
import os
import socket
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp

from tests.support.processes import Child, Server, module_command, start_on_free_port

ROOT = Path(__file__).parents[2]

# "false": every Sidegate that a test starts uses the aiohttp path only.
FAST_PATH: Final = os.environ.get("TESTS_FAST_PATH", "true")


class Created(NamedTuple):
    """A new session with its token, which the admin API returns only once."""

    token: str
    session_id: str


@dataclass(frozen=True)
class Sidegate:
    """A running Sidegate with its admin and ops listeners. `server` is the gate listener."""

    server: Server
    admin_port: int
    ops_port: int
    admin_key: str

    @property
    def address(self) -> str:
        """The address of the gate listener."""
        return self.server.address

    def create_session(self, **fields: object) -> Created:
        """Create a session; `fields` are those of the admin API."""
        request = {"user_id": "alice", "type": "web", "scopes": ["read", "write"]} | fields
        status, created = self._call("POST", "/v1/sessions", request)
        assert status == HTTPStatus.CREATED, created
        return Created(created["token"], created["session"]["id"])

    def show_session(self, session_id: str) -> dict[str, Any]:
        status, session = self._call("GET", f"/v1/sessions/{session_id}")
        assert status == HTTPStatus.OK, session
        return dict(session)

    def revoke_session(self, session_id: str) -> None:
        status, response = self._call("POST", f"/v1/sessions/{session_id}/revoke", {})
        assert status == HTTPStatus.OK, response

    async def get_ops_status(self, http: aiohttp.ClientSession, path: str) -> int:
        """Return the status of a request to the ops listener."""
        async with http.get(f"http://127.0.0.1:{self.ops_port}{path}") as response:
            return response.status

    def _call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.admin_key}", "Content-Type": "application/json"}
        with closing(
            http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        ) as connection:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")


def start_sidegate(
    directory: Path,
    *,
    admin_key: str | None = None,
    wait_until_ready: bool = True,
    config: str | None = None,
    module: str = "sidegate",
    **settings: str,
) -> Sidegate:
    """Start Sidegate, by default with the embedded stores.
    `settings` are environment variables, `config` is a configuration file, and `module` is what
    runs. With SIDEGATE_DATABASE_URL and SIDEGATE_REDIS_URL it is a full deployment, whose
    `admin_key` the settings must contain. Without `wait_until_ready` it only has to be live, and to
    listen.
    """

    def launch(port: int) -> Server:
        admin_port, ops_port = port + 1, port + 2
        environment = {
            "PYTHONPATH": str(ROOT),
            "SIDEGATE_DATA_DIR": str(directory / "data"),
            "SIDEGATE_GATE__LISTEN": f"127.0.0.1:{port}",
            "SIDEGATE_ADMIN__LISTEN": f"127.0.0.1:{admin_port}",
            "SIDEGATE_OPS__LISTEN": f"127.0.0.1:{ops_port}",
            "SIDEGATE_GATE__FAST_PATH": FAST_PATH,
        }
        child = Child(
            "sidegate",
            module_command(module, "serve", *(["--config", config] if config else [])),
            directory,
            lambda: (
                _is_ok(ops_port, "/readyz")
                if wait_until_ready
                else _is_ok(ops_port, "/livez") and _is_listening(port)  # which opens last
            ),
            environment=environment | settings,
            unprivileged=False,  # this Python may be readable only by root
        )
        return Server("sidegate", port, f"http://127.0.0.1:{port}", child)

    server = start_on_free_port(launch, None, 1, 2)
    key = admin_key or (directory / "data/admin.key").read_text().strip()
    return Sidegate(server, server.port + 1, server.port + 2, key)


def _is_ok(ops_port: int, path: str) -> bool:
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", ops_port, timeout=1)) as connection:
            connection.request("GET", path)
            return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False


def _is_listening(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
