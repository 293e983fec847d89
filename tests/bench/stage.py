"""What the roads stand on: stores, databases, instances, each started when it is first needed."""

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
from tests.bench.questions import subrequest, written
from tests.bench.sessions import Known, new_database
from tests.support.processes import Server, temporary_directory
from tests.support.servers import start_postgres, start_redis
from tests.support.sidegate import Sidegate, start_sidegate

# The tests' own Postgres forgets in a power cut: here a commit costs what it costs elsewhere.
_POSTGRES: Final = ["fsync=on", "full_page_writes=on", "shared_buffers=256MB"]

EVERYTHING_ON: Final = {
    "SIDEGATE_BINDING__IP": "log",
    "SIDEGATE_BINDING__USER_AGENT": "log",
    "SIDEGATE_BINDING__ACCEPT_LANGUAGE": "log",
    "SIDEGATE_DRAIN__DELAY": "0s",
}
_NONE: Final[Mapping[str, str]] = MappingProxyType({})

# So many clients ask in turn: enough that nobody's answer lies about from the last time, few enough
# that hits stay hits although each copy is asked for again after five seconds.
_ASKING: Final = 500


@dataclass(frozen=True, slots=True)
class Database:
    """One of Postgres's, and the sessions in it whose tokens we have."""

    url: str
    known: list[Known]


@dataclass(frozen=True, slots=True)
class Asked:
    """What clients ask in turn: the file for wrk, the first request, and whose it is."""

    file: Path
    first: str
    user_id: str


class Stage:
    """Whatever it started, it stops when `stack` is closed."""

    def __init__(self, stack: ExitStack, cores: Cores, say: Callable[[str], None]) -> None:
        self.cores = cores
        self.say = say
        self.admin_key = f"sgk_{secrets.token_urlsafe(32)}"
        self._stack = stack
        self._key = TokenKey.generate()
        self._databases: dict[str, Database] = {}
        self._instances: dict[str, Sidegate] = {}

    @cached_property
    def redis(self) -> Server:
        with missing_is_not_measurable():
            return self.kept(start_redis(self.directory()))

    @cached_property
    def postgres(self) -> Server:
        with missing_is_not_measurable():
            return self.kept(start_postgres(self.directory(), extra_settings=_POSTGRES))

    def directory(self) -> Path:
        """Return a new directory that ends with the stage."""
        return self._stack.enter_context(temporary_directory())

    def kept(self, server: Server) -> Server:
        """Stop the server in the end."""
        self._stack.callback(server.stop)
        return server

    def file(self, texts: Iterable[str]) -> Path:
        """Write the requests for wrk, and return where."""
        return written(texts, self.directory() / "requests")

    @cached_property
    def usual(self) -> Database:
        """A thousand sessions, half of which ask."""
        return self.database("usual", known=_ASKING, strangers=1000 - _ASKING)

    @cached_property
    def million(self) -> Database:
        """A million sessions, of which as many ask as in `usual`."""
        return self.database("million", known=_ASKING, strangers=1_000_000 - _ASKING)

    def asked(self, database: Database, *, path: str) -> Asked:
        """Return what nginx asks `path` about the known clients of a database."""
        requests = [subrequest(known, path=path) for known in database.known]
        return Asked(self.file(requests), requests[0], database.known[0].user_id)

    def database(self, name: str, *, known: int, strangers: int = 0) -> Database:
        """Return the database of that name, made and filled if there is none yet."""
        if name not in self._databases:
            self.say(f"filling a database with {known + strangers:,} sessions")
            url, sessions = asyncio.run(
                new_database(
                    self.postgres.url, name, KeyRing([self._key]), known=known, strangers=strangers
                )
            )
            self._databases[name] = Database(url, sessions)
        return self._databases[name]

    def sidegate(
        self,
        name: str,
        database: Database,
        *,
        redis: bool = True,
        settings: Mapping[str, str] = _NONE,
    ) -> Sidegate:
        """Return the instance of that name, started on the server's core if there is none yet.

        All of its features are on.
        """
        if name not in self._instances:
            stores = {"SIDEGATE_DATABASE_URL": database.url} | self._secrets()
            if redis:
                stores["SIDEGATE_REDIS_URL"] = self.redis.url
            everything = EVERYTHING_ON | stores | dict(settings)
            directory = self.directory()
            with self.cores.serving():
                sidegate = start_sidegate(
                    directory, admin_key=self.admin_key, wait=True, **everything
                )
            self.kept(sidegate.server)
            self._instances[name] = sidegate
        return self._instances[name]

    def _secrets(self) -> dict[str, str]:
        digest = sha256(self.admin_key.encode()).hexdigest()
        key = {"name": "benchmark", "sha256": digest, "scopes": ["read", "write", "revoke"]}
        return {
            "SIDEGATE_TOKEN__KEYS": self._key.formatted(),
            "SIDEGATE_ADMIN__KEYS": json.dumps([key]),
        }


@contextmanager
def missing_is_not_measurable() -> Iterator[None]:
    """What makes a test skip leaves out a measurement."""
    try:
        yield
    except pytest.skip.Exception as skipped:
        raise NotMeasurable(str(skipped)) from None
