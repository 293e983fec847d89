"""A Postgres database: a connection pool with a bulkhead, and the execution of statements."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self, cast

import asyncpg

from sidegate.core.errors import OutcomeUnknown, SchemaMismatch, StoreUnavailable
from sidegate.stores.connection_log import ConnectionLog
from sidegate.stores.postgres.connection import (
    describe_refusal,
    detect_unknown_outcome,
    translate_errors,
)
from sidegate.stores.postgres.connector import Connector
from sidegate.stores.postgres.migrate import list_missing
from sidegate.stores.sql.rows import Row

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    # Generic in the stubs only.
    _Connection = PoolConnectionProxy[asyncpg.Record]

# A deadlock or a serialization failure rolled this statement back, while the other one went on.
_MAX_ATTEMPTS: Final = 3
# How long the server has to confirm the cancellation of an abandoned query.
_CANCEL_TIMEOUT: Final = 1.0
_CLOSE_TIMEOUT: Final = 2.0
# Connections opened during a load peak are closed soon: the server has few.
_MAX_IDLE_TIME: Final = 30.0


def compute_max_lookups(pool_max: int) -> int:
    """Return how many connections of the pool lookups may use at once."""
    return max(1, pool_max // 2)


class PostgresDatabase:
    """The connection pool that the stores in one Postgres share. It recovers by itself."""

    def __init__(
        self, pool: "asyncpg.Pool[asyncpg.Record]", connector: Connector, *, log: ConnectionLog
    ) -> None:
        self._pool = pool
        self._connector = connector
        self._log = log
        # Statements that wait for a lock must not delay lookups or change notifications: they get
        # half of the connections but one, lookups the other half.
        self._bulkhead = asyncio.Semaphore(max(1, compute_max_lookups(pool.get_max_size()) - 1))
        self._schema_checked = False
        self._releasing: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, dsn: str, *, pool_max: int = 8, prepared_statements: bool = True) -> Self:
        """Return the database at `dsn`, without connecting to it.

        Use `prepared_statements=False` behind a pooler in transaction mode. Raise ValueError for a
        DSN of another form.
        """
        log = ConnectionLog("postgres", monotonic=time.monotonic)
        connector = Connector.parse(dsn, prepared_statements=prepared_statements, log=log)
        pool = asyncpg.create_pool(
            connect=connector,
            min_size=0,
            max_size=pool_max,
            max_inactive_connection_lifetime=_MAX_IDLE_TIME,
            reset=_skip_reset,
        )
        return cls(await pool, connector, log=log)

    async def check_schema(self) -> None:
        """Return if the tables match this program; raise SchemaMismatch if not.

        Raise StoreUnavailable if the database does not answer.

        `execute` and `write` check too, until one check succeeds: a running instance goes on while
        a newer one migrates and takes over.
        """
        with translate_errors():
            async with self._acquire() as connection:
                await self._verify_schema(connection)

    async def execute(self, query: str, *arguments: object) -> list[Row]:
        """Run one statement, which is its own transaction."""
        async with self._bulkhead:
            return await self.execute_priority(query, *arguments)

    async def execute_priority(self, query: str, *arguments: object) -> list[Row]:
        """Run one statement like `execute`, on the reserved connections too.

        For lookups, at most `compute_max_lookups` at once, and for reading changes: one connection
        is always free for those.
        """
        try:
            return await self._execute(query, *arguments)
        except OutcomeUnknown as unknown:
            raise StoreUnavailable(unknown.store, unknown.reason) from unknown

    async def write(self, query: str, *arguments: object) -> list[Row]:
        """Run one statement; raise OutcomeUnknown if it was sent but not answered."""
        async with self._bulkhead:
            return await self._execute(query, *arguments)

    async def close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()
        await asyncio.gather(self._connector.close(), *self._releasing)

    async def _execute(self, query: str, *arguments: object) -> list[Row]:
        with translate_errors():
            for _ in range(_MAX_ATTEMPTS - 1):
                with suppress(asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                    return await self._execute_once(query, *arguments)
            return await self._execute_once(query, *arguments)

    async def _execute_once(self, query: str, *arguments: object) -> list[Row]:
        async with self._acquire() as connection:
            if not self._schema_checked:
                await self._require_schema(connection)
            with detect_unknown_outcome():
                # A Record is a mapping in all but name.
                return cast("list[Row]", await self._fetch(connection, query, *arguments))

    async def _fetch(self, connection: "_Connection", query: str, *arguments: object) -> list[Any]:
        """Run a statement with the isolation that all of them are written for.

        A statement that has waited for a lock has to see what was committed meanwhile.
        """
        if self._connector.is_read_committed:
            return await connection.fetch(query, *arguments)
        transaction = connection.transaction(isolation="read_committed")
        await transaction.start()
        try:
            rows = await connection.fetch(query, *arguments)
        except asyncio.CancelledError:
            connection.terminate()  # a rollback would wait for a server that may be silent
            raise
        except Exception:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await transaction.rollback()
            raise  # this error, not one of a rollback over a lost connection
        await transaction.commit()
        return rows

    async def _require_schema(self, connection: "_Connection") -> None:
        try:
            await self._verify_schema(connection)
        except SchemaMismatch as mismatch:
            raise StoreUnavailable("postgres", str(mismatch)) from mismatch

    async def _verify_schema(self, connection: "_Connection") -> None:
        missing = await list_missing(connection)
        if missing:
            raise SchemaMismatch(
                f"the database lacks migrations {', '.join(missing)}: run `sidegate migrate`"
            )
        self._schema_checked = True

    @asynccontextmanager
    async def _acquire(self) -> "AsyncIterator[_Connection]":
        connection = await self._pool.acquire()
        try:
            yield connection
        except asyncio.CancelledError:
            # Releasing cancels the query on the server, which can take as long as the query: a task
            # of its own does it.
            task = asyncio.create_task(self._release_cancelled(connection))
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)
            raise
        except Exception as error:
            if isinstance(error, asyncpg.InsufficientPrivilegeError):
                self._log.record_denial(describe_refusal(error))
            await self._pool.release(connection)
            raise
        else:
            await self._pool.release(connection)

    async def _release_cancelled(self, connection: "_Connection") -> None:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self._pool.release(connection, timeout=_CANCEL_TIMEOUT)


async def _skip_reset(_: "asyncpg.Connection[Any]") -> None:
    """Skip the reset on release, which is a round trip: connections hold no session state."""
