"""A rolling restart of two instances under load, without failed requests at the gateway."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from sidegate.core.token import TokenKey
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.gateways.http_client import Client
from tests.gateways.launch import start_gateway
from tests.support.processes import temporary_directory
from tests.support.sidegate import Sidegate, start_sidegate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import Server

TIMEOUT = 60.0


@pytest.fixture
def two_instances(database_url: str, redis_url: str) -> Iterator[tuple[Sidegate, Sidegate]]:
    asyncio.run(migrate_postgres(database_url))
    key = f"sgk_{secrets.token_urlsafe(32)}"
    scopes = ["read", "write", "revoke"]
    known = {"name": "tests", "sha256": sha256(key.encode()).hexdigest(), "scopes": scopes}
    settings = {
        "SIDEGATE_DATABASE_URL": database_url,
        "SIDEGATE_REDIS_URL": redis_url,
        "SIDEGATE_TOKEN__KEYS": TokenKey.generate().format(),
        "SIDEGATE_ADMIN__KEYS": json.dumps([known]),
    }
    with ExitStack() as stack:

        def start() -> Sidegate:
            directory = stack.enter_context(temporary_directory())
            sidegate = start_sidegate(directory, admin_key=key, wait_until_ready=True, **settings)
            stack.callback(sidegate.server.stop)
            return sidegate

        yield start(), start()


class Load:
    """Continuous requests on persistent connections, with the number of each status."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._lines = [("Authorization", f"Bearer {token}")]
        self._stopping = threading.Event()
        self.statuses = Counter[int | str]()

    def run(self) -> None:
        with Client(self._port) as client:
            while not self._stopping.is_set():
                try:
                    result: int | str = client.send(lines=self._lines).status
                except OSError as error:
                    result = type(error).__name__
                self.statuses[result] += 1

    def wait_for(self, more: int) -> None:
        """Return when so many more requests have a response."""
        enough, deadline = self.statuses.total() + more, time.monotonic() + TIMEOUT
        while self.statuses.total() < enough:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @contextmanager
    def running(self, clients: int = 4) -> Iterator[None]:
        threads = [threading.Thread(target=self.run) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("name", ["nginx", "envoy"])
def test_rolling_restart_fails_no_request(
    name: str, two_instances: tuple[Sidegate, Sidegate], upstream: Server
) -> None:
    one, other = two_instances
    token, _ = one.create_session()
    with temporary_directory() as directory:
        gateway = start_gateway(
            name,
            directory,
            gates=[one.address, other.address],
            upstream=upstream.url,
        )
        load = Load(gateway.port, token)
        with load.running():
            for sidegate in (one, other, one):
                load.wait_for(100)
                sidegate.server.restart()
            load.wait_for(100)
        gateway.stop()
    assert set(load.statuses) == {200}, load.statuses
