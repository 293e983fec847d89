"""Sidegate as a process of its own, and what an operator does with it."""

from __future__ import annotations

import http.client
import json
import os
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp

from tests.support.processes import Child, Server, python_module, start_on_a_free_port

ROOT = Path(__file__).parents[2]

# "false": every Sidegate that a test starts has aiohttp's lane only.
FAST_PATH: Final = os.environ.get("SIDEGATE_TESTS_FAST_PATH", "true")


class Created(NamedTuple):
    """What the admin API tells of a new session, and tells once."""

    token: str
    session_id: str


@dataclass(frozen=True)
class Sidegate:
    """A running Sidegate with its admin door. `server` is the gate, and may be hurt."""

    server: Server
    admin_port: int
    ops_port: int
    admin_key: str

    @property
    def address(self) -> str:
        """Where gateways ask."""
        return self.server.address

    def create_session(self, **fields: object) -> Created:
        """Create a session; `fields` are those of the admin API."""
        asked = {"user_id": "alice", "type": "web", "scopes": ["read", "write"]} | fields
        status, created = self._call("POST", "/v1/sessions", asked)
        assert status == HTTPStatus.CREATED, created
        return Created(created["token"], created["session"]["id"])

    def show_session(self, session_id: str) -> dict[str, Any]:
        status, session = self._call("GET", f"/v1/sessions/{session_id}")
        assert status == HTTPStatus.OK, session
        return dict(session)

    def revoke_session(self, session_id: str) -> None:
        status, answer = self._call("POST", f"/v1/sessions/{session_id}/revoke", {})
        assert status == HTTPStatus.OK, answer

    async def ops(self, http: aiohttp.ClientSession, path: str) -> int:
        """Ask the ops door for its status."""
        async with http.get(f"http://127.0.0.1:{self.ops_port}{path}") as answer:
            return answer.status

    def _call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.admin_key}", "Content-Type": "application/json"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)) as door:
            door.request(method, path, None if body is None else json.dumps(body), headers)
            answer = door.getresponse()
            return answer.status, json.loads(answer.read() or b"null")


def start_sidegate(
    directory: Path,
    *,
    admin_key: str | None = None,
    wait: bool = True,
    config: str | None = None,
    module: str = "sidegate",
    **settings: str,
) -> Sidegate:
    """Start Sidegate on the embedded default; `settings` are further environment variables, and
    `config` is a file of more.

    With SIDEGATE_DATABASE_URL and SIDEGATE_REDIS_URL it is a full deployment, whose `admin_key`
    the settings must know. Without `wait` it need not be ready, only alive. `module` is what runs.
    """
    path = "/readyz" if wait else "/livez"

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
            python_module(module, "serve", *(["--config", config] if config else [])),
            directory,
            lambda: _says_yes(ops_port, path),
            environment=environment | settings,
            demoted=False,  # this Python may lie where only root can read
        )
        return Server("sidegate", port, f"http://127.0.0.1:{port}", child)

    server = start_on_a_free_port(launch, None, 1, 2)
    key = admin_key or (directory / "data/admin.key").read_text().strip()
    return Sidegate(server, server.port + 1, server.port + 2, key)


def _says_yes(ops_port: int, path: str) -> bool:
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", ops_port, timeout=1)) as door:
            door.request("GET", path)
            return door.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
