"""Connections to the Postgres primary, and the translation of asyncpg's errors."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from sidegate.core.errors import OutcomeUnknown, StoreUnavailable, UnreadableRecord
from sidegate.stores.uvloop_errors import is_closed_transport_error

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    # Generic in the stubs only.
    _NewConnection = asyncpg.Connection[asyncpg.Record]
    Connection = _NewConnection | PoolConnectionProxy[asyncpg.Record]

# Longer than any handshake, shorter than the network's own connect timeout.
_CONNECT_TIMEOUT: Final = 2.0

OUTAGES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (asyncpg.TargetServerAttributeNotMatched, "it is a standby"),
    (asyncpg.ReadOnlySQLTransactionError, "it is read-only"),
    (asyncpg.InvalidAuthorizationSpecificationError, "it rejects the user or password"),
    (asyncpg.InsufficientPrivilegeError, "the user lacks a permission"),
    (asyncpg.InvalidCatalogNameError, "the database does not exist"),
    (asyncpg.UndefinedTableError, "a table is missing"),
    (asyncpg.TooManyConnectionsError, "it has too many connections"),
    (asyncpg.DiskFullError, "its disk is full"),
    (asyncpg.InsufficientResourcesError, "it lacks resources"),
    (asyncpg.QueryCanceledError, "it cancelled the query"),
    (asyncpg.CannotConnectNowError, "it is starting up or shutting down"),
    (asyncpg.OperatorInterventionError, "it was shut down"),
    (asyncpg.TransactionRollbackError, "too many concurrent changes"),
    (asyncpg.LockNotAvailableError, "a lock was held for too long"),
    (asyncpg.IdleInTransactionSessionTimeoutError, "it ended the transaction"),
    (asyncpg.TransactionTimeoutError, "it ended the transaction"),
    (asyncpg.PostgresSystemError, "its disk or system failed"),
    (asyncpg.InternalServerError, "it reports an internal error"),
    (asyncpg.ConfigFileError, "its configuration is invalid"),
    (asyncpg.SnapshotTooOldError, "its snapshot is too old"),
    (asyncpg.UnknownPostgresError, "it or a pooler answered with an unknown error"),
    (asyncpg.InvalidSQLStatementNameError, "a pooler lost the prepared statements"),
    (asyncpg.DuplicatePreparedStatementError, "a pooler mixed up the prepared statements"),
    (asyncpg.PostgresConnectionError, "the connection was lost"),
    (asyncpg.InternalClientError, "the connection is out of sync"),
    (asyncpg.InterfaceError, "the connection is closed"),
    (TimeoutError, "it took too long to connect"),
    (OSError, "it cannot be reached"),
)
"""The errors of an outage with their reasons, specific classes before general ones."""

# All that a statement or a connection raises; OverflowError comes from decoding a row.
_DRIVER_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    OverflowError,
)
# The outcome of the statement in flight is unknown: a server may commit before it shuts down.
_LOST_ERRORS: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    OSError,
)
_REJECTED_VALUE_ERRORS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)


def translate_error(error: Exception) -> Exception:
    """Return the error to raise for one of asyncpg, which may be `error` itself."""
    if isinstance(error, OverflowError):
        return UnreadableRecord("a row holds a value out of range")
    if isinstance(error, asyncpg.UniqueViolationError) or _is_bad_input(error):
        return error
    if isinstance(error, _REJECTED_VALUE_ERRORS):
        constraint = getattr(error, "constraint_name", None) or type(error).__name__
        return ValueError(f"the database rejects a value: {constraint}")
    for kind, reason in OUTAGES:
        if isinstance(error, kind):
            return StoreUnavailable("postgres", reason)
    return error


def _is_bad_input(error: Exception) -> bool:
    # asyncpg rejects a value or an address; other InterfaceErrors are about the connection.
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate asyncpg's errors with `translate_error`.

    The messages contain no address, password or digest.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_closed_transport_error(error):
            raise
        raise StoreUnavailable("postgres", "the connection was lost") from error
    except _DRIVER_ERRORS as error:
        translated = translate_error(error)
        if translated is error:
            raise
        # No cause for other errors: the message of a rejected value may quote the row.
        raise translated from (error if isinstance(translated, StoreUnavailable) else None)


@contextmanager
def detect_unknown_outcome() -> Iterator[None]:
    """Raise OutcomeUnknown if the connection is lost inside the block."""
    try:
        yield
    except _LOST_ERRORS as error:
        translated = translate_error(error)
        reason = (
            translated.reason if isinstance(translated, StoreUnavailable) else type(error).__name__
        )
        raise OutcomeUnknown("postgres", reason) from error


def build_connect_options(*, prepared_statements: bool = True) -> dict[str, Any]:
    """Return the options for asyncpg: primary only, with the application's name."""
    return {
        "target_session_attrs": "primary",
        "server_settings": {"application_name": "sidegate"},
        "statement_cache_size": 100 if prepared_statements else 0,
        "timeout": _CONNECT_TIMEOUT,
    }


@asynccontextmanager
async def connect(dsn: str) -> "AsyncIterator[Connection]":
    """Open one connection for the block, and translate the errors inside."""
    with translate_errors():
        connection = await asyncpg.connect(dsn, **build_connect_options(prepared_statements=False))
        try:
            yield connection
        finally:
            await connection.close()


class Connector:
    """Connects for a pool. A connection whose caller was cancelled serves the next caller.

    Otherwise callers with a timeout shorter than the handshake would never get a connection.
    """

    def __init__(self) -> None:
        self._abandoned: list[asyncio.Task[_NewConnection]] = []

    async def __call__(self, *arguments: Any, **settings: Any) -> "_NewConnection":
        task = self._take_abandoned() or asyncio.create_task(
            asyncpg.connect(*arguments, **settings)
        )
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._abandoned.append(task)
            raise

    async def close(self) -> None:
        """Terminate the abandoned connections."""
        for connection in await asyncio.gather(*self._abandoned, return_exceptions=True):
            if not isinstance(connection, BaseException):
                connection.terminate()

    def _take_abandoned(self) -> "asyncio.Task[_NewConnection] | None":
        while self._abandoned:
            task = self._abandoned.pop()
            if not task.done() or _is_usable(task):
                return task
        return None


def _is_usable(task: "asyncio.Task[_NewConnection]") -> bool:
    return not task.cancelled() and task.exception() is None and not task.result().is_closed()
