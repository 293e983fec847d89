"""Sessions that are copied into a database equal those created through the API."""

import secrets
from datetime import UTC, datetime

import asyncpg

from sidegate.core.binding import DEFAULT_PREFIX_LENGTHS, Signal, find_mismatches
from sidegate.core.judge import judge
from sidegate.core.token import KeyRing, TokenKey
from sidegate.core.verdict import Allow
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.bench.sessions import create_database
from tests.support.processes import Server


async def test_known_sessions_are_valid_among_filler_sessions(postgres_server: Server) -> None:
    name, ring = f"test_{secrets.token_hex(8)}", KeyRing([TokenKey.generate()])
    url, known = await create_database(postgres_server.url, name, ring, sessions=3, filler=5)
    connection = await asyncpg.connect(url)
    store = await PostgresSessions.open(url)

    assert await connection.fetchval("SELECT count(*) FROM sessions") == 8
    for each in known:
        session = await store.find(each.token.digest())
        assert session is not None
        assert judge(session, datetime.now(UTC)) == Allow(session)
        assert session.user_id == each.user_id
        mismatched = find_mismatches(
            session.id,
            session.binding,
            signals=each.signals,
            prefixes=DEFAULT_PREFIX_LENGTHS,
            watched=set(Signal),
        )
        assert session.binding
        assert list(mismatched) == []

    await store.close()
    await connection.close()
    await _drop(postgres_server.url, name)


async def _drop(server: str, name: str) -> None:
    connection = await asyncpg.connect(server)
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()
