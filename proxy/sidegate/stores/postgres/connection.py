"""Reach the primary, and say what Postgres' errors mean to us."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from sidegate.core.errors import OutcomeUnknown, StoreUnavailable, UnreadableRecord
from sidegate.stores.uvloop_errors import ended_under_the_writer

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    # Generic in the stubs only.
    _Made = asyncpg.Connection[asyncpg.Record]
    Connection = _Made | PoolConnectionProxy[asyncpg.Record]

# Longer than any handshake, shorter than a network takes to give up on one that went nowhere.
_CONNECTING_SECONDS: Final = 2.0

OUTAGES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (asyncpg.TargetServerAttributeNotMatched, "it is a standby"),
    (asyncpg.ReadOnlySQLTransactionError, "it is read-only"),
    (asyncpg.InvalidAuthorizationSpecificationError, "it refuses our user or password"),
    (asyncpg.InsufficientPrivilegeError, "it denies our user a permission"),
    (asyncpg.InvalidCatalogNameError, "there is no such database"),
    (asyncpg.UndefinedTableError, "a table is missing"),
    (asyncpg.TooManyConnectionsError, "it has too many connections"),
    (asyncpg.DiskFullError, "its disk is full"),
    (asyncpg.InsufficientResourcesError, "it lacks resources"),
    (asyncpg.QueryCanceledError, "it cancelled the query"),
    (asyncpg.CannotConnectNowError, "it is starting up or shutting down"),
    (asyncpg.OperatorInterventionError, "it was shut down"),
    (asyncpg.TransactionRollbackError, "too many changes met"),
    (asyncpg.LockNotAvailableError, "a lock was held for too long"),
    (asyncpg.IdleInTransactionSessionTimeoutError, "it ended our transaction"),
    (asyncpg.TransactionTimeoutError, "it ended our transaction"),
    (asyncpg.PostgresSystemError, "its disk or system failed"),
    (asyncpg.InternalServerError, "it found an error in itself"),
    (asyncpg.ConfigFileError, "its configuration is broken"),
    (asyncpg.SnapshotTooOldError, "its snapshot is too old"),
    (asyncpg.UnknownPostgresError, "it or a pooler answered with an unknown error"),
    (asyncpg.InvalidSQLStatementNameError, "a pooler lost our prepared statements"),
    (asyncpg.DuplicatePreparedStatementError, "a pooler mixed up our prepared statements"),
    (asyncpg.PostgresConnectionError, "the connection was lost"),
    (asyncpg.InternalClientError, "the connection is out of step"),
    (asyncpg.InterfaceError, "the connection is closed"),
    (TimeoutError, "it took too long to connect"),
    (OSError, "it cannot be reached"),
)
"""The errors that mean "could not answer", the special before the general."""

# Whatever a statement or a connection raises; OverflowError comes from decoding a row.
_VENDOR: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    OverflowError,
)
# Nobody has said what became of the statement that was under way. Whoever is shut down may have
# committed first.
_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    OSError,
)
_REFUSALS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)


def meaning(error: Exception) -> Exception:
    """Return what to raise for an error of asyncpg: it itself when it is none of the stores'."""
    if isinstance(error, OverflowError):
        return UnreadableRecord("a row holds a value out of range")
    if isinstance(error, asyncpg.UniqueViolationError) or _is_bad_input(error):
        return error
    if isinstance(error, _REFUSALS):
        refused = getattr(error, "constraint_name", None) or type(error).__name__
        return ValueError(f"the database refuses a value: {refused}")
    for kind, why in OUTAGES:
        if isinstance(error, kind):
            return StoreUnavailable("postgres", why)
    return error


def _is_bad_input(error: Exception) -> bool:
    # asyncpg refuses a value or an address; other InterfaceErrors are about the connection.
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)


@contextmanager
def understood() -> Iterator[None]:
    """Raise what asyncpg's errors mean. The reasons given hold no address, password or digest."""
    try:
        yield
    except RuntimeError as error:
        if not ended_under_the_writer(error):
            raise
        raise StoreUnavailable("postgres", "the connection was lost") from error
    except _VENDOR as error:
        means = meaning(error)
        if means is error:
            raise
        # A refusal's message may quote the refused row, hence it is not told further.
        raise means from (error if isinstance(means, StoreUnavailable) else None)


@contextmanager
def under_way() -> Iterator[None]:
    """Raise OutcomeUnknown when the connection is lost from here on."""
    try:
        yield
    except _LOST as error:
        means = meaning(error)
        why = means.why if isinstance(means, StoreUnavailable) else type(error).__name__
        raise OutcomeUnknown("postgres", why) from error


def primary(*, prepared_statements: bool = True) -> dict[str, Any]:
    """Return how asyncpg is to connect: to the primary only, under our name."""
    return {
        "target_session_attrs": "primary",
        "server_settings": {"application_name": "sidegate"},
        "statement_cache_size": 100 if prepared_statements else 0,
        "timeout": _CONNECTING_SECONDS,
    }


@asynccontextmanager
async def connect(dsn: str) -> "AsyncIterator[Connection]":
    """Open one connection for a while. Errors inside mean what they mean to a store."""
    with understood():
        connection = await asyncpg.connect(dsn, **primary(prepared_statements=False))
        try:
            yield connection
        finally:
            await connection.close()


class Connector:
    """Connects for a pool, and finishes what it began when the caller leaves: the next one gets it.

    Otherwise callers who have less patience than a handshake takes would never see a connection.
    """

    def __init__(self) -> None:
        self._unclaimed: list[asyncio.Task[_Made]] = []

    async def __call__(self, *arguments: Any, **settings: Any) -> "_Made":
        making = self._begun() or asyncio.create_task(asyncpg.connect(*arguments, **settings))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            self._unclaimed.append(making)
            raise

    async def close(self) -> None:
        """Let go of what nobody claimed."""
        for made in await asyncio.gather(*self._unclaimed, return_exceptions=True):
            if not isinstance(made, BaseException):
                made.terminate()

    def _begun(self) -> "asyncio.Task[_Made] | None":
        """Return a connection in the making, or a made one, but none that came to nothing."""
        while self._unclaimed:
            making = self._unclaimed.pop()
            if not making.done() or _came_to_something(making):
                return making
        return None


def _came_to_something(made: "asyncio.Task[_Made]") -> bool:
    return not made.cancelled() and made.exception() is None and not made.result().is_closed()
