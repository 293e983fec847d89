"""Open connections to the Postgres primary: what of a URL asyncpg gets, and which host is tried."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import asyncpg

from sidegate.core.errors import StoreUnavailable
from sidegate.core.postgres_url import PostgresUrl, parse_postgres_url
from sidegate.core.store_url import Host
from sidegate.stores.client_context import ClientContext
from sidegate.stores.connection_log import ConnectionLog
from sidegate.stores.postgres.connection import describe_refusal, translate_errors

if TYPE_CHECKING:
    from sidegate.stores.postgres.connection import Connection, NewConnection

# Seconds for each host: longer than any handshake, shorter than the network's own timeout.
_CONNECT_TIMEOUT: Final = 2.0

_STATEMENT_CACHE_SIZE: Final = 100

_READ_COMMITTED: Final = "read committed"

# All that connecting raises.
_CONNECT_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    ValueError,  # a file for TLS, or an answer that is not that of Postgres
)


class Connector:
    """Connects for a pool. A connection whose caller was cancelled serves the next caller.

    Otherwise callers with a timeout shorter than the handshake would never get a connection.
    """

    def __init__(
        self, url: PostgresUrl, *, prepared_statements: bool = True, log: ConnectionLog | None
    ) -> None:
        """Each host that refuses a connection is logged in `log`, with the reason."""
        self._hosts = [*url.hosts]  # the one of the last connection first
        self._log = log
        self._tls = {host: url.get_tls(host) for host in url.hosts}
        self._contexts = {
            tls: ClientContext(tls, store="postgres") for tls in self._tls.values() if tls
        }
        self._options = _build_options(url, prepared_statements=prepared_statements)
        self._abandoned: list[asyncio.Task[NewConnection]] = []
        # Whether the role's transactions have that isolation by default, known from the first
        # connection on. It is read, not set by a parameter at the start: poolers refuse that.
        self.is_read_committed = True

    @classmethod
    def parse(
        cls, dsn: str, *, prepared_statements: bool = True, log: ConnectionLog | None = None
    ) -> Self:
        """Return a connector to the database of a URL. Raise UrlError if it has another form."""
        url = parse_postgres_url(dsn)
        return cls(url, prepared_statements=prepared_statements, log=log)

    async def __call__(self, *_: Any, **pool_options: Any) -> "NewConnection":
        """Connect, as a pool calls it: without a DSN, and with options of its own."""
        task = self._take_abandoned() or asyncio.create_task(self.connect(**pool_options))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._abandoned.append(task)
            raise

    async def connect(self, **pool_options: Any) -> "NewConnection":
        """Connect to the first host that is the primary.

        Raise StoreUnavailable if there is none, with the reason of each.
        """
        errors: dict[Host, Exception] = {}
        for host in tuple(self._hosts):
            try:
                connection = await self._connect_to(host, pool_options)
            except _CONNECT_ERRORS as error:
                errors[host] = error
                if not isinstance(error, asyncpg.TargetServerAttributeNotMatched):
                    self._record_failure(host, error)
            else:
                self._record_success(host)
                return connection
        for host, refusal in errors.items():  # the standbys, too: there is no primary
            self._record_failure(host, refusal)
        raise StoreUnavailable("postgres", _join_reasons(errors)) from [*errors.values()][-1]

    async def close(self) -> None:
        """Terminate the abandoned connections."""
        for connection in await asyncio.gather(*self._abandoned, return_exceptions=True):
            if not isinstance(connection, BaseException):
                connection.terminate()

    async def _connect_to(self, host: Host, pool_options: dict[str, Any]) -> "NewConnection":
        tls = self._tls[host]
        ssl = False if tls is None else self._contexts[tls].get()
        connection: NewConnection = await asyncpg.connect(
            host=host.name, port=host.port, ssl=ssl, **self._options, **pool_options
        )
        try:
            isolation = await connection.fetchval("SHOW default_transaction_isolation")
        except BaseException:
            connection.terminate()
            raise
        self.is_read_committed = isolation == _READ_COMMITTED
        return connection

    def _record_failure(self, host: Host, error: Exception) -> None:
        if self._log is not None:
            self._log.record_failure(str(host), describe_refusal(error))

    def _record_success(self, host: Host) -> None:
        self._hosts.remove(host)
        self._hosts.insert(0, host)
        if self._log is not None:
            self._log.record_success(str(host))

    def _take_abandoned(self) -> "asyncio.Task[NewConnection] | None":
        while self._abandoned:
            task = self._abandoned.pop()
            if not task.done() or _is_usable(task):
                return task
        return None


@asynccontextmanager
async def connect(dsn: str) -> "AsyncIterator[Connection]":
    """Open one connection for the block, and translate the errors inside."""
    with translate_errors():
        connection = await Connector.parse(dsn, prepared_statements=False).connect()
        try:
            yield connection
        finally:
            await connection.close()


def _build_options(url: PostgresUrl, *, prepared_statements: bool) -> dict[str, Any]:
    """Return the options of every connection.

    Each that asyncpg would otherwise take from an environment variable or from a file in the home
    directory is set.
    """
    settings = {"application_name": url.application_name}
    if url.options is not None:
        settings["options"] = url.options
    return {
        "user": url.user,
        "password": url.password or "",
        "database": url.database,
        "target_session_attrs": url.target,
        "server_settings": settings,
        "direct_tls": False,
        "krbsrvname": "postgres",
        "gsslib": "gssapi",
        "statement_cache_size": _STATEMENT_CACHE_SIZE if prepared_statements else 0,
        "timeout": url.connect_timeout or _CONNECT_TIMEOUT,
    }


def _join_reasons(errors: dict[Host, Exception]) -> str:
    reasons = {host: describe_refusal(error) for host, error in errors.items()}
    if len(reasons) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"{host}: {reason}" for host, reason in reasons.items())


def _is_usable(task: "asyncio.Task[NewConnection]") -> bool:
    return not task.cancelled() and task.exception() is None and not task.result().is_closed()
