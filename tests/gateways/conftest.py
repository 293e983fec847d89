"""One Sidegate, one upstream and one of each gateway, shared by all tests."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from sidegate.core.token import TokenKey
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.gateways import site
from tests.gateways.launch import GATEWAYS, run_upstream, start_gateway
from tests.support.processes import (
    Server,
    find_free_port,
    temporary_directory,
)
from tests.support.servers import copy_postgres, start_postgres
from tests.support.sidegate import Created, Sidegate, start_sidegate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    StartGateway = Callable[[str, str], Server]
    """Return a running gateway by its name and the address of the gate it asks."""


@pytest.fixture(scope="session")
def sidegate() -> Iterator[Sidegate]:
    with temporary_directory() as directory:
        # The policies apply only to bound sessions; most here are not bound.
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
    with run_upstream() as server:
        yield server


@pytest.fixture(scope="session")
def start(upstream: Server) -> Iterator[StartGateway]:
    with cache_gateways(
        lambda name, directory, gate: start_gateway(
            name, directory, gates=[gate], upstream=upstream.url
        )
    ) as start:
        yield start


@pytest.fixture(scope="session")
def start_site(upstream: Server) -> Iterator[StartGateway]:
    with cache_gateways(
        lambda name, directory, gate: site.start_site(
            name, directory, gate=gate, upstream=upstream.url
        )
    ) as start:
        yield start


@contextmanager
def cache_gateways(launch: Callable[[str, Path, str], Server]) -> Iterator[StartGateway]:
    """Yield a function that starts a gateway, or returns the one that is running.

    Not a parametrized fixture: pytest caches one value of those, and tests run in random order.
    """
    with ExitStack() as stack:

        @cache
        def start(name: str, gate: str) -> Server:
            server = launch(name, stack.enter_context(temporary_directory()), gate)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture(params=list(GATEWAYS))
def gateway_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gateway(gateway_name: str, sidegate: Sidegate, start: StartGateway) -> int:
    """The port of a gateway in front of Sidegate."""
    return start(gateway_name, sidegate.address).port


@pytest.fixture
def gateway_without_sidegate(gateway_name: str, closed_address: str, start: StartGateway) -> int:
    """The port of a gateway whose Sidegate address refuses connections."""
    return start(gateway_name, closed_address).port


@pytest.fixture(scope="session")
def closed_address() -> str:
    return f"127.0.0.1:{find_free_port()}"


@pytest.fixture(scope="session")
def alice(sidegate: Sidegate) -> Created:
    """A session of user alice that is valid for the whole run."""
    return sidegate.create_session(user_id="alice", scopes=["read", "write"])


@pytest.fixture(scope="session")
def expiring_session(sidegate: Sidegate) -> Created:
    """A session that expires after a second; the first test that uses it waits for that."""
    return sidegate.create_session(user_id="expiring", expires_in=1)


# Every source of a token, in Sidegate and in the gateway's file.
ALL_SOURCES = {
    "SIDEGATE_GATE__BASIC": "true",
    "SIDEGATE_GATE__WEBSOCKET_PROTOCOL": "true",
    "SIDEGATE_GATE__HEADER": "X-Session-Token",
}


@pytest.fixture(scope="session")
def sidegate_with_all_sources() -> Iterator[Sidegate]:
    with temporary_directory() as directory:
        sidegate = start_sidegate(
            directory, wait_until_ready=True, SIDEGATE_DRAIN__DELAY="0s", **ALL_SOURCES
        )
        yield sidegate
        sidegate.server.stop()


@pytest.fixture(scope="session")
def alice_with_all_sources(sidegate_with_all_sources: Sidegate) -> Created:
    return sidegate_with_all_sources.create_session(user_id="alice")


@pytest.fixture(scope="session")
def start_with_all_sources(upstream: Server) -> Iterator[StartGateway]:
    with cache_gateways(
        lambda name, directory, gate: start_gateway(
            name, directory, gates=[gate], upstream=upstream.url, **ALL_SOURCES
        )
    ) as start:
        yield start


@pytest.fixture
def gateway_with_all_sources(
    gateway_name: str, sidegate_with_all_sources: Sidegate, start_with_all_sources: StartGateway
) -> int:
    """The port of a gateway in front of a Sidegate that reads every source."""
    return start_with_all_sources(gateway_name, sidegate_with_all_sources.address).port


# Where access rules need no session.
OPEN_HOST = "open.example.test"
RULES = [
    {"paths": "/public/**", "methods": "GET", "access": "public"},
    {"paths": "/home", "access": "optional"},
    {"paths": "/admin/**", "scopes": "admin"},
    {"paths": "/pay", "authenticated_within": "1ms"},
    {"paths": "/api/**", "preflight": True},
    {"paths": "/acme/**", "tenants": "acme"},
    {
        "hosts": "app.example.test",
        "paths": ["/page/open", "/inherits/open"],
        "methods": "GET",
        "access": "public",
    },
    {"hosts": OPEN_HOST, "access": "public"},
]


@pytest.fixture(scope="session")
def sidegate_with_rules() -> Iterator[Sidegate]:
    with temporary_directory() as directory:
        sidegate = start_sidegate(
            directory,
            wait_until_ready=True,
            SIDEGATE_DRAIN__DELAY="0s",
            SIDEGATE_RULES=json.dumps(RULES),
        )
        yield sidegate
        sidegate.server.stop()


@pytest.fixture(scope="session")
def alice_with_rules(sidegate_with_rules: Sidegate) -> Created:
    return sidegate_with_rules.create_session(user_id="alice", scopes=["read"], tenant="acme")


@pytest.fixture(scope="session")
def sidegate_on_a_socket() -> Iterator[Sidegate]:
    with temporary_directory() as directory:
        listen = f"unix:{directory}/gate.sock"
        sidegate = start_sidegate(
            directory,
            SIDEGATE_GATE__LISTEN=listen,
            SIDEGATE_GATE__SOCKET_MODE="0666",  # the gateways run as another user
            SIDEGATE_DRAIN__DELAY="0s",
        )
        yield sidegate
        sidegate.server.stop()


@pytest.fixture(scope="session")
def alice_on_a_socket(sidegate_on_a_socket: Sidegate) -> Created:
    return sidegate_on_a_socket.create_session(user_id="alice")


@pytest.fixture
def gateway_on_a_socket(
    gateway_name: str, sidegate_on_a_socket: Sidegate, start: StartGateway
) -> int:
    """The port of a gateway that connects to Sidegate through a Unix socket."""
    directory = sidegate_on_a_socket.server.directory
    return start(gateway_name, f"unix:{directory}/gate.sock").port


@dataclass(frozen=True)
class Outage:
    """A Sidegate whose database is unavailable, and a session that is not cached."""

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
            "SIDEGATE_TOKEN__KEYS": TokenKey.generate().format(),
            "SIDEGATE_ADMIN__KEYS": json.dumps([known]),
            "SIDEGATE_DRAIN__DELAY": "0s",
        }
        healthy = start_sidegate(before, admin_key=key, wait_until_ready=True, **settings)
        unreachable = healthy.create_session(user_id="carol")
        healthy.server.stop()
        postgres.kill()
        sidegate = start_sidegate(after, admin_key=key, wait_until_ready=False, **settings)
        stack.callback(sidegate.server.stop)
        yield Outage(sidegate, unreachable)


@pytest.fixture
def gateway_in_an_outage(gateway_name: str, outage: Outage, start: StartGateway) -> int:
    """The port of a gateway whose Sidegate responds with unavailable."""
    return start(gateway_name, outage.sidegate.address).port
