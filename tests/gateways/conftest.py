"""One Sidegate, one upstream and one of each gateway serve the whole run."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from sidegate.core.token import TokenKey
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.gateways.launch import GATEWAYS, start_gateway
from tests.support.processes import (
    Child,
    Server,
    free_port,
    listens,
    python_module,
    start_on_a_free_port,
    temporary_directory,
)
from tests.support.servers import copy_postgres, start_postgres
from tests.support.sidegate import ROOT, Created, Sidegate, start_sidegate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def sidegate() -> Iterator[Sidegate]:
    with temporary_directory() as directory:
        # The policies concern sessions that are bound to something; most here are not.
        sidegate = start_sidegate(
            directory,
            SIDEGATE_DRAIN__DELAY="0s",
            SIDEGATE_BINDING__IP="deny",
            SIDEGATE_BINDING__USER_AGENT="deny",
            SIDEGATE_BINDING__ACCEPT_LANGUAGE="deny",
        )
        yield sidegate
        sidegate.server.stop()


@pytest.fixture(scope="session")
def upstream() -> Iterator[Server]:
    with temporary_directory() as directory:

        def launch(port: int) -> Server:
            command = python_module("tests.gateways.upstream", str(port))
            place = {"PYTHONPATH": str(ROOT)}
            child = Child(
                "upstream",
                command,
                directory,
                lambda: listens(port),
                environment=place,
                demoted=False,
            )
            return Server("upstream", port, f"http://127.0.0.1:{port}", child)

        server = start_on_a_free_port(launch, None)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def start(upstream: Server) -> Iterator[Callable[[str, str], Server]]:
    """Start a gateway by its name and Sidegate's address, or return the one that runs already.

    Not a parametrized fixture: pytest keeps one value of those, and tests come in any order.
    """
    with ExitStack() as stack:

        @cache
        def start(name: str, sidegate: str) -> Server:
            directory = stack.enter_context(temporary_directory())
            server = start_gateway(name, directory, sidegate=sidegate, upstream=upstream.address)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture(params=list(GATEWAYS))
def gateway_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gateway(gateway_name: str, sidegate: Sidegate, start: Callable[[str, str], Server]) -> int:
    """The port of a gateway that asks Sidegate."""
    return start(gateway_name, sidegate.address).port


@pytest.fixture
def bereft_gateway(gateway_name: str, start: Callable[[str, str], Server]) -> int:
    """The port of a gateway that asks where nobody listens."""
    return start(gateway_name, _nowhere()).port


@cache
def _nowhere() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="session")
def alice(sidegate: Sidegate) -> Created:
    """A session of alice's that opens for the whole run."""
    return sidegate.create_session(user_id="alice", scopes=["read", "write"])


@pytest.fixture(scope="session")
def one_second(sidegate: Sidegate) -> Created:
    """A session that lives for a second; the first test that needs it waits for its end."""
    return sidegate.create_session(user_id="mayfly", expires_in=1)


@pytest.fixture(scope="session")
def sidegate_on_a_socket() -> Iterator[Sidegate]:
    with temporary_directory() as directory:
        listen = f"unix:{directory}/gate.sock"
        sidegate = start_sidegate(
            directory,
            SIDEGATE_GATE__LISTEN=listen,
            SIDEGATE_GATE__SOCKET_MODE="0666",  # the gateways run as somebody else
            SIDEGATE_DRAIN__DELAY="0s",
        )
        yield sidegate
        sidegate.server.stop()


@pytest.fixture(scope="session")
def alice_on_a_socket(sidegate_on_a_socket: Sidegate) -> Created:
    return sidegate_on_a_socket.create_session(user_id="alice")


@pytest.fixture
def gateway_on_a_socket(
    gateway_name: str, sidegate_on_a_socket: Sidegate, start: Callable[[str, str], Server]
) -> int:
    """The port of a gateway that asks Sidegate through its Unix socket."""
    directory = sidegate_on_a_socket.server.directory
    return start(gateway_name, f"unix:{directory}/gate.sock").port


@dataclass(frozen=True)
class Outage:
    """A Sidegate whose database is gone, and a session that stands nowhere else."""

    sidegate: Sidegate
    unreachable: Created


@pytest.fixture(scope="session")
def outage(postgres_template: Path) -> Iterator[Outage]:
    key = f"sgk_{secrets.token_urlsafe(32)}"
    known = {"name": "tests", "sha256": sha256(key.encode()).hexdigest(), "scopes": ["write"]}
    with ExitStack() as stack:
        before, after, data = (stack.enter_context(temporary_directory()) for _ in range(3))
        copy_postgres(postgres_template, data)
        postgres = start_postgres(data)
        stack.callback(postgres.stop)
        asyncio.run(migrate_postgres(postgres.url))
        settings = {
            "SIDEGATE_DATABASE_URL": postgres.url,
            "SIDEGATE_TOKEN__KEYS": TokenKey.generate().formatted(),
            "SIDEGATE_ADMIN__KEYS": json.dumps([known]),
            "SIDEGATE_DRAIN__DELAY": "0s",
        }
        healthy = start_sidegate(before, admin_key=key, wait=True, **settings)
        unreachable = healthy.create_session(user_id="carol")
        healthy.server.stop()
        postgres.kill()
        sidegate = start_sidegate(after, admin_key=key, wait=False, **settings)
        stack.callback(sidegate.server.stop)
        yield Outage(sidegate, unreachable)


@pytest.fixture
def gateway_in_an_outage(
    gateway_name: str, outage: Outage, start: Callable[[str, str], Server]
) -> int:
    """The port of a gateway whose Sidegate answers, and cannot know."""
    return start(gateway_name, outage.sidegate.address).port
