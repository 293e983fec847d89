"""Sidegate as a process of its own, and what an operator does with it."""

from __future__ import annotations

import http.client
import json
import os
import sys
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.processes import Child, Server, free_port, python_module, start_on_a_free_port

ROOT = Path(__file__).parents[2]
STANDIN: list[str | Path] = (
    [sys.executable, *os.environ.get("SIDEGATE_STANDIN", "").split()][:9]
    if os.environ.get("SIDEGATE_STANDIN")
    else []
)


@dataclass(frozen=True)
class Sidegate:
    """A running Sidegate with its admin door. `server` is the gate, and may be hurt."""

    server: Server
    admin_port: int

    @property
    def address(self) -> str:
        """Where gateways ask."""
        return self.server.address

    def create_session(self, **fields: object) -> tuple[str, str]:
        """Create a session as the admin API takes it; return (token, session id)."""
        asked = {"user_id": "alice", "type": "web", "scopes": ["read", "write"]} | fields
        status, created = self._call("POST", "/v1/sessions", asked)
        assert status == HTTPStatus.CREATED, created
        return created["token"], created["session"]["id"]

    def revoke_session(self, session_id: str) -> None:
        status, answer = self._call("POST", f"/v1/sessions/{session_id}/revoke", {})
        assert status == HTTPStatus.OK, answer

    def _call(self, method: str, path: str, body: object) -> tuple[int, Any]:
        key = (self.server.directory / "data/admin.key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)) as door:
            door.request(method, path, json.dumps(body), headers)
            answer = door.getresponse()
            return answer.status, json.loads(answer.read() or b"null")


def start_sidegate(directory: Path, **settings: str) -> Sidegate:
    """Start Sidegate on the embedded default; `settings` are further environment variables.

    With SIDEGATE_DATABASE_URL and SIDEGATE_REDIS_URL it is a full deployment.
    """
    admin_port, ops_port = free_port(), free_port()

    def launch(port: int) -> Server:
        environment = {
            "PYTHONPATH": str(ROOT),
            "SIDEGATE_DATA_DIR": str(directory / "data"),
            "SIDEGATE_GATE__LISTEN": f"127.0.0.1:{port}",
            "SIDEGATE_ADMIN__LISTEN": f"127.0.0.1:{admin_port}",
            "SIDEGATE_OPS__LISTEN": f"127.0.0.1:{ops_port}",
        }
        child = Child(
            "sidegate",
            STANDIN or python_module("proxy", "serve"),
            directory,
            lambda: _is_ready(ops_port),
            environment=environment | settings,
            demoted=False,  # this Python may lie where only root can read
        )
        return Server("sidegate", port, f"http://127.0.0.1:{port}", child)

    return Sidegate(start_on_a_free_port(launch, None), admin_port)


def _is_ready(ops_port: int) -> bool:
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", ops_port, timeout=1)) as door:
            door.request("GET", "/readyz")
            return door.getresponse().status == HTTPStatus.OK
    except OSError:
        return False
