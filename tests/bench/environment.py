"""Stores, databases and instances for the benchmarks, each started on first use."""

import asyncio
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest

from sidegate.core.token import KeyRing, TokenKey
from tests.bench.cores import Cores
from tests.bench.errors import NotMeasurable
from tests.bench.http_requests import build_subrequest, write_requests
from tests.bench.sessions import KnownSession, create_database
from tests.support.processes import Server, temporary_directory
from tests.support.servers import start_postgres, start_redis
from tests.support.sidegate import Sidegate, start_sidegate

# The Postgres of the tests does not sync. Here a commit costs as much as in production.
_POSTGRES: Final = ["fsync=on", "full_page_writes=on", "shared_buffers=256MB"]

ALL_FEATURES: Final = {
    "SIDEGATE_BINDING__IP": "log",
    "SIDEGATE_BINDING__USER_AGENT": "log",
    "SIDEGATE_BINDING__ACCEPT_LANGUAGE": "log",
    "SIDEGATE_DRAIN__DELAY": "0s",
    # Twenty access rules, of which the last one applies to the requests.
    "SIDEGATE_RULES": json.dumps(
        [
            *({"paths": [f"/service-{n}/**"], "scopes": [f"service-{n}"]} for n in range(19)),
            {"paths": ["/shop/**"], "types": ["web", "mobile"]},
        ]
    ),
}
_NONE: Final[Mapping[str, str]] = MappingProxyType({})

# Clients that are checked in turn: enough for realistic use of the CPU caches, few enough that most
# checks are hits although cache entries in memory live five seconds.
_CLIENTS: Final = 500


HUNDRED_THOUSAND: Final = 100_000


@dataclass(frozen=True, slots=True)
class Database:
    """A Postgres database, and its sessions with known tokens."""

    url: str
    sessions: list[KnownSession]


@dataclass(frozen=True, slots=True)
class PreparedRequests:
    """Requests in a file for wrk, the first of them, and its user."""

    file: Path
    first: str
    user_id: str


class Environment:
    """Starts servers on first use, and stops them when `stack` is closed."""

    def __init__(self, stack: ExitStack, cores: Cores, progress: Callable[[str], None]) -> None:
        self.cores = cores
        self.progress = progress
        self.admin_key = f"sgk_{secrets.token_urlsafe(32)}"
        self._stack = stack
        self._key = TokenKey.generate()
        self._databases: dict[str, Database] = {}
        self._instances: dict[str, Sidegate] = {}

    @cached_property
    def redis(self) -> Server:
        with skip_as_not_measurable():
            return self.stop_on_exit(start_redis(self.make_directory()))

    @cached_property
    def postgres(self) -> Server:
        with skip_as_not_measurable():
            return self.stop_on_exit(
                start_postgres(self.make_directory(), extra_settings=_POSTGRES)
            )

    def make_directory(self) -> Path:
        """Return a new directory, which is removed with the environment."""
        return self._stack.enter_context(temporary_directory())

    def stop_on_exit(self, server: Server) -> Server:
        """Register the server to be stopped with the environment, and return it."""
        self._stack.callback(server.stop)
        return server

    def write_requests(self, texts: Iterable[str]) -> Path:
        """Write the requests for wrk, and return the path."""
        return write_requests(texts, self.make_directory() / "requests")

    @cached_property
    def default_database(self) -> Database:
        """A database of a thousand sessions, half of which are checked."""
        return self.get_database("thousand", sessions=_CLIENTS, filler=1000 - _CLIENTS)

    @cached_property
    def million_database(self) -> Database:
        """A database of a million sessions, of which as many are checked."""
        return self.get_database("million", sessions=_CLIENTS, filler=1_000_000 - _CLIENTS)

    @cached_property
    def hundred_thousand_database(self) -> Database:
        """A database of a hundred thousand sessions, all of which are checked."""
        return self.get_database("hundred_thousand", sessions=HUNDRED_THOUSAND)

    def prepare_requests(self, database: Database, *, path: str) -> PreparedRequests:
        """Return subrequests to `path` for the sessions with known tokens."""
        requests = [build_subrequest(session, path=path) for session in database.sessions]
        return PreparedRequests(
            self.write_requests(requests), requests[0], database.sessions[0].user_id
        )

    def get_database(self, name: str, *, sessions: int, filler: int = 0) -> Database:
        """Return the database of that name, created and filled on first use."""
        if name not in self._databases:
            self.progress(f"filling a database with {sessions + filler:,} sessions")
            url, known = asyncio.run(
                create_database(
                    self.postgres.url, name, KeyRing([self._key]), sessions=sessions, filler=filler
                )
            )
            self._databases[name] = Database(url, known)
        return self._databases[name]

    def get_instance(
        self,
        name: str,
        database: Database,
        *,
        redis: bool = True,
        settings: Mapping[str, str] = _NONE,
    ) -> Sidegate:
        """Return the instance of that name, started on the server's core on first use.

        All features are enabled.
        """
        if name not in self._instances:
            stores = {"SIDEGATE_DATABASE_URL": database.url} | self._secrets()
            if redis:
                stores["SIDEGATE_REDIS_URL"] = self._redis_url(database)
            everything = ALL_FEATURES | stores | dict(settings)
            directory = self.make_directory()
            with self.cores.pinned_to_server_core():
                sidegate = start_sidegate(
                    directory, admin_key=self.admin_key, wait_until_ready=True, **everything
                )
            self.stop_on_exit(sidegate.server)
            self._instances[name] = sidegate
        return self._instances[name]

    def _redis_url(self, database: Database) -> str:
        """Return the URL of a Redis database: each Postgres database has one of its own.

        Instances of two databases would take the seals of one Redis database from each other.
        """
        number = [each.url for each in self._databases.values()].index(database.url)
        return f"redis://{self.redis.address}/{number}"

    def _secrets(self) -> dict[str, str]:
        digest = sha256(self.admin_key.encode()).hexdigest()
        key = {"name": "benchmark", "sha256": digest, "scopes": ["read", "write", "revoke"]}
        return {
            "SIDEGATE_TOKEN__KEYS": self._key.format(),
            "SIDEGATE_ADMIN__KEYS": json.dumps([key]),
        }


@contextmanager
def skip_as_not_measurable() -> Iterator[None]:
    """Turn a skip for a missing program into NotMeasurable."""
    try:
        yield
    except pytest.skip.Exception as skipped:
        raise NotMeasurable(str(skipped)) from None
