"""A connection to Postgres, and the translation of asyncpg's errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import asyncpg

from sidegate.core.client_tls import TlsFileError
from sidegate.core.errors import OutcomeUnknown, StoreUnavailable, UnreadableRecord
from sidegate.stores.network_errors import (
    describe_network_error,
    is_tls_error,
    iter_causes,
    shorten,
)
from sidegate.stores.uvloop_errors import is_closed_transport_error

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    # Generic in the stubs only.
    NewConnection = asyncpg.Connection[asyncpg.Record]
    Connection = NewConnection | PoolConnectionProxy[asyncpg.Record]

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
    (asyncpg.ProtocolViolationError, "it or a pooler refused the connection"),
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
            return StoreUnavailable("postgres", _add_details(reason, error))
    return error


def describe_refusal(error: Exception) -> str:
    """Return why a connection was not opened, with what the server or the system says."""
    match error:
        case OSError() | asyncpg.TargetServerAttributeNotMatched():
            pass  # they have a reason below; a refused certificate is a ValueError, too
        case TlsFileError():
            return f"a file for TLS cannot be used: {error}"
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return f"no connection is possible: {shorten(str(error))}"
        case ValueError():
            return "its answer cannot be read"
        case _:
            pass
    translated = translate_error(error)
    if isinstance(translated, StoreUnavailable):
        return translated.reason
    return _add_details("it refused the connection", error)


def _add_details(reason: str, error: Exception) -> str:
    """Add the SQLSTATE and the server's sentence, or what the system says of the connection.

    A detail or a hint of the server is left out: it may quote a row.
    """
    for each in iter_causes(error):
        if isinstance(each, asyncpg.PostgresError) and each.severity is not None:
            return f"{reason} ({each.sqlstate}: {shorten(str(each.message))})"
    refused = _describe_tls_refusal(error)
    said = describe_network_error(error)
    if refused is not None or (said is not None and is_tls_error(error)):
        return refused or said or reason
    return reason if said is None else f"{reason}: {said}"


# What asyncpg says of a server's answer to the request for TLS.
_TLS_REFUSALS: Final = {
    "rejected SSL upgrade": "it answers without TLS",
    "unexpected connection_lost() call": "it closes the connection at the request for TLS",
    "connection closed during TLS handshake": "it closes the connection in the TLS handshake",
}


def _describe_tls_refusal(error: Exception) -> str | None:
    if isinstance(error, ConnectionError):
        for said, meaning in _TLS_REFUSALS.items():
            if said in str(error):
                return meaning
    return None


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
