"""Commands whose work another process is doing: they say so, and exit with 75."""

import subprocess
from pathlib import Path

import pytest

from sidegate.core.token import TokenKey
from sidegate.stores.postgres.migrate import migrate_postgres
from sidegate.stores.postgres.sessions import PURGE_LOCK
from tests.cli.test_cli import EX_TEMPFAIL, run_program
from tests.stores.postgres.raw_connection import connect_directly

# Sessions that end at once, and are old at once.
ENDED = {
    "SIDEGATE_SESSIONS__WEB__LIFETIME": "1ms",
    "SIDEGATE_SESSIONS__WEB__IDLE_TIMEOUT": "none",
    "SIDEGATE_CLEANUP__RETENTION": "0s",
}


@pytest.fixture
async def settings(database_url: str) -> dict[str, str]:
    await migrate_postgres(database_url)
    keys = TokenKey.generate().format()
    return ENDED | {"SIDEGATE_DATABASE_URL": database_url, "SIDEGATE_TOKEN__KEYS": keys}


async def test_cleanup_exits_75_while_another_process_cleans_up(
    settings: dict[str, str], *, tmp_path: Path, database_url: str
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_program(tmp_path, *arguments, **settings)

    assert run("session", "create", "alice").returncode == 0
    async with connect_directly(database_url) as other:
        await other.execute("SELECT pg_advisory_lock($1)", PURGE_LOCK)
        refused = run("cleanup")
    cleaned = run("cleanup")

    assert refused.returncode == EX_TEMPFAIL, refused.stderr
    assert refused.stdout == ""
    assert "another process is cleaning up; this one has deleted 0 sessions" in refused.stderr
    assert (cleaned.returncode, cleaned.stdout) == (0, "1 sessions deleted\n")
