"""What stands in a database: sessions whose tokens we know, among any number of strangers'.

Neither goes through the API: the known ones are copied in, the strangers are made by Postgres.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from sidegate.core.binding import DEFAULT_WIDTHS, Signals, bind
from sidegate.core.session import Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, Token
from sidegate.stores.postgres.migrate import migrate_postgres
from sidegate.stores.sql.rows import COLUMNS, values_of

NAMESPACE: Final = UUID("b8f6d9f2-6f0e-4a52-9f59-0a3a52a1cbb1")

_PROGRAMS: Final = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/131.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_6 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/17.6 Mobile/15E148 Safari/604.1",
)
_LANGUAGES: Final = ("de-CH,de;q=0.9,en;q=0.7", "en-GB,en;q=0.9", "fr-FR,fr;q=0.8,en;q=0.5")

# Digests, and with them the places in every index, are spread as those of real tokens are.
_STRANGERS: Final = """
INSERT INTO sessions (id, digest, user_id, type, scopes, created_at, authenticated_at, last_seen_at,
    expires_at, idle_timeout, version, metadata, access_count, refresh_count)
SELECT gen_random_uuid(), sha256(('stranger ' || number)::bytea), 'stranger-' || number, 'web',
    ARRAY['orders:read', 'orders:write'], moment, moment, moment,
    moment + interval '12 hours', 7200000000, 1, '{"login": "passkey"}', 1, 0
FROM (SELECT number, now() - number % 1700 * interval '1 second' AS moment
    FROM generate_series(1, $1::bigint) AS number) AS strangers
"""


@dataclass(frozen=True, slots=True)
class Known:
    """A session in the database, and what its client sends."""

    number: int
    session_id: SessionId
    user_id: str
    signals: Signals
    token: Token = field(repr=False)


async def new_database(
    server: str, name: str, ring: KeyRing, *, known: int, strangers: int
) -> tuple[str, list[Known]]:
    """Make a database of that name on `server` and fill it; return its URL and who is known."""
    await _execute(server, f"CREATE DATABASE {name} TEMPLATE template0")
    url = server.rpartition("/")[0] + f"/{name}"
    await migrate_postgres(url)
    sessions = [new_known(number, ring) for number in range(known)]
    now = datetime.now(UTC)
    rows = [tuple(values_of(record_of(each, now)).values()) for each in sessions]
    connection = await asyncpg.connect(url)
    try:
        await connection.copy_records_to_table("sessions", records=rows, columns=COLUMNS)
        await connection.execute(_STRANGERS, strangers)
        await connection.execute("VACUUM (ANALYZE) sessions")
        await connection.execute("CHECKPOINT")  # not in the middle of a measurement
    finally:
        await connection.close()
    return url, sessions


def new_known(number: int, ring: KeyRing) -> Known:
    """Make a session up, with a client and a token; it stands in no database yet."""
    signals = Signals(
        ip=f"198.51.{number // 250 % 250}.{number % 250 + 1}",
        user_agent=_PROGRAMS[number % len(_PROGRAMS)],
        accept_language=_LANGUAGES[number % len(_LANGUAGES)],
    )
    token = ring.mint(SessionType.WEB)
    return Known(number, SessionId(str(uuid4())), f"user-{number}", signals, token)


def record_of(known: Known, now: datetime) -> SessionRecord:
    session = Session(
        id=known.session_id,
        digest=known.token.digest(),
        user_id=known.user_id,
        type=SessionType.WEB,
        scopes=("orders:read", "orders:write"),
        created_at=now,
        authenticated_at=now,
        last_seen_at=now,
        expires_at=now + timedelta(hours=12),
        idle_timeout=timedelta(hours=2),
        binding=bind(known.session_id, known.signals, DEFAULT_WIDTHS),
    )
    return SessionRecord(session, SessionDetails(metadata={"login": "passkey"}))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
