"""A Postgres database: its connections, lent out fairly, and statements run one at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self, cast

import asyncpg

from sidegate.core.errors import OutcomeUnknown, SchemaMismatch, StoreUnavailable
from sidegate.stores.postgres.connection import Connector, primary, under_way, understood
from sidegate.stores.postgres.migrate import lacking
from sidegate.stores.sql.rows import Row

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    # Generic in the stubs only.
    _Connection = PoolConnectionProxy[asyncpg.Record]

# A deadlock or a failed serialization undid one side: the other went on, so this one may follow.
_ATTEMPTS: Final = 3
# How long the server has to confirm that it dropped a query nobody waits for any more.
_CANCELLING_SECONDS: Final = 1.0
_CLOSING_SECONDS: Final = 2.0
# What a moment of many questions has opened is given back to the server soon, for it has few.
_IDLE_SECONDS: Final = 30.0


def lookups_at_once(pool_max: int) -> int:
    """Return how many of a pool's connections look-ups may have."""
    return max(1, pool_max // 2)


class PostgresDatabase:
    """What every store in one Postgres shares. It recovers by itself."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", connector: Connector) -> None:
        self._pool = pool
        self._connector = connector
        # What waits for a lock must not keep everybody from being checked, nor the news from
        # being heard: verbs get half of the connections but one, look-ups the other half.
        self._verbs = asyncio.Semaphore(max(1, lookups_at_once(pool.get_max_size()) - 1))
        self._schema_fits = False
        self._returning: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, dsn: str, *, pool_max: int = 8, prepared_statements: bool = True) -> Self:
        """Return the database at `dsn`, without waiting for it.

        `prepared_statements=False` suits a pooler that hands each transaction another connection.
        """
        connector = Connector()
        pool = asyncpg.create_pool(
            dsn,
            connect=connector,
            min_size=0,
            max_size=pool_max,
            max_inactive_connection_lifetime=_IDLE_SECONDS,
            reset=_leave_as_it_is,
            **primary(prepared_statements=prepared_statements),
        )
        return cls(await pool, connector)

    async def check_schema(self) -> None:
        """Return when the tables fit this program. SchemaMismatch: they are older or newer.

        StoreUnavailable: nobody knows yet. ValueError: the DSN cannot be understood.

        Every call checks it until it was true once: what runs may go on while a newer instance,
        which migrates, takes over.
        """
        with understood():
            async with self._borrowed() as connection:
                await self._check(connection)

    async def ask(self, query: str, *arguments: object) -> list[Row]:
        """Run one statement, which is its own transaction."""
        async with self._verbs:
            return await self.ask_at_once(query, *arguments)

    async def ask_at_once(self, query: str, *arguments: object) -> list[Row]:
        """Run one statement like `ask`, on the connections kept for look-ups and news too.

        Who looks up keeps to `lookups_at_once`; then one connection is always free for the news.
        """
        try:
            return await self._ask(query, *arguments)
        except OutcomeUnknown as lost:
            raise StoreUnavailable(lost.store, lost.why) from lost

    async def change(self, query: str, *arguments: object) -> list[Row]:
        """Run one statement like `ask`. OutcomeUnknown: it was sent, and no answer came."""
        async with self._verbs:
            return await self._ask(query, *arguments)

    async def close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSING_SECONDS):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()
        await asyncio.gather(self._connector.close(), *self._returning)

    async def _ask(self, query: str, *arguments: object) -> list[Row]:
        with understood():
            for _ in range(_ATTEMPTS - 1):
                with suppress(asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                    return await self._ask_once(query, *arguments)
            return await self._ask_once(query, *arguments)

    async def _ask_once(self, query: str, *arguments: object) -> list[Row]:
        async with self._borrowed() as connection:
            if not self._schema_fits:
                await self._insist_on_schema(connection)
            with under_way():
                # A Record is a mapping in all but name.
                return cast("list[Row]", await connection.fetch(query, *arguments))

    async def _insist_on_schema(self, connection: "_Connection") -> None:
        try:
            await self._check(connection)
        except SchemaMismatch as mismatch:
            raise StoreUnavailable("postgres", str(mismatch)) from mismatch

    async def _check(self, connection: "_Connection") -> None:
        missing = await lacking(connection)
        if missing:
            raise SchemaMismatch(f"the database lacks {', '.join(missing)}: run `sidegate migrate`")
        self._schema_fits = True

    @asynccontextmanager
    async def _borrowed(self) -> "AsyncIterator[_Connection]":
        connection = await self._pool.acquire()
        try:
            yield connection
        except asyncio.CancelledError:
            # The server is asked to drop the query, and that can last as long as what we gave up
            # waiting for: the connection finds its way back without us.
            task = asyncio.create_task(self._return_cancelled(connection))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)
            raise
        except Exception:
            await self._pool.release(connection)
            raise
        else:
            await self._pool.release(connection)

    async def _return_cancelled(self, connection: "_Connection") -> None:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self._pool.release(connection, timeout=_CANCELLING_SECONDS)


async def _leave_as_it_is(_: "asyncpg.Connection[Any]") -> None:
    """Skip the reset between two borrowers, one round trip: we keep no state in a connection."""
