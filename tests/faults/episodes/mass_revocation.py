"""An episode in which one transaction revokes very many sessions, while an instance is cut off."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from tests.faults.context import FaultContext, failed_lookups
from tests.faults.deployment import connect_as_superuser, watch_event_loop
from tests.faults.gateway import Upstream
from tests.faults.history import RIG, Result, Revoke, TokenCategory, now
from tests.faults.population import ClientToken
from tests.faults.resources import resident_bytes
from tests.faults.revocations import check_everywhere, retire_all, wait_until_cached
from tests.faults.rules import Violation

_SESSIONS: Final = 200_000
_CHECKED_SESSIONS: Final = 40

# Seconds from the revocation until the instance reaches Postgres again, and after that.
_CUT_TIME: Final = 4.0
_HOLD_TIME: Final = 10.0

_MAX_BLOCKED: Final = 0.05
_MAX_GROWTH: Final = 1.1
_MEMORY_INTERVAL: Final = 0.05

_USER: Final = "mass-user"
_INSERT: Final = f"""
    INSERT INTO sessions (
        id, digest, user_id, type, scopes, created_at, authenticated_at, last_seen_at, expires_at,
        version, metadata, access_count, refresh_count, changed_xid
    )
    SELECT gen_random_uuid(), sha256(number::text::bytea), '{_USER}', 'web', '{{}}',
        now(), now(), now(), now() + interval '12 hours', 1, '{{}}', 0, 0, NULL
    FROM generate_series(1, $1::bigint) AS number
"""
_REVOKE: Final = """
    UPDATE sessions SET revoked_at = now(), revoked_by = 'rig', revoked_reason = 'rig',
        changed_at = now(), changed_by = 'rig', version = version + 1,
        changed_xid = pg_current_xact_id()
"""
_REVOKE_USER: Final = f"{_REVOKE} WHERE user_id = '{_USER}'"
_REVOKE_IDS: Final = f"{_REVOKE} WHERE id = ANY($1::uuid[])"
_DELETE: Final = f"DELETE FROM sessions WHERE user_id = '{_USER}'"

# Without triggers: so many audit events would be a fault of their own.
_WITHOUT_TRIGGERS: Final = "SET LOCAL session_replication_role = replica"
_WITH_TRIGGERS: Final = "SET LOCAL session_replication_role = origin"


async def revoke_while_cut_off(context: FaultContext) -> None:
    """Revoke 200,000 sessions while one instance does not reach Postgres, and reconnect it."""
    tokens = context.load.population.take_many(_CHECKED_SESSIONS)
    proxy = context.deployment.target_postgres_proxy
    async with _many_sessions(context):
        await check_everywhere(context, tokens, TokenCategory.WARM)
        await wait_until_cached(context, tokens)
        context.mark_started()
        async with (
            context.expect_change("no lookup failed at Postgres", failed_lookups("postgres")),
            _limited_resources(context),
        ):
            proxy.refuse_new = True
            proxy.reset_connections()
            try:
                await _revoke_many(context, tokens)
                await retire_all(context, tokens)
                await asyncio.sleep(_CUT_TIME)
            finally:
                proxy.refuse_new = False
            await context.wait(_HOLD_TIME)


@asynccontextmanager
async def _many_sessions(context: FaultContext) -> AsyncIterator[None]:
    """Store the sessions of a user with very many, and delete them in the end."""
    number = round(_SESSIONS * context.time_scale)
    async with connect_as_superuser(context.postgres) as connection:
        async with connection.transaction():
            await connection.execute(_WITHOUT_TRIGGERS)
            await connection.execute(_INSERT, number)
        await connection.execute("ANALYZE sessions")
    yield
    async with connect_as_superuser(context.postgres) as connection, connection.transaction():
        await connection.execute(_WITHOUT_TRIGGERS)
        await connection.execute(_DELETE)


async def _revoke_many(context: FaultContext, tokens: Sequence[ClientToken]) -> None:
    """Revoke them all, and the sessions of the tokens in the same transaction."""
    start = now()
    async with connect_as_superuser(context.postgres) as connection, connection.transaction():
        await connection.execute(_WITHOUT_TRIGGERS)
        await connection.execute(_REVOKE_USER)
        await connection.execute(_WITH_TRIGGERS)
        await connection.execute(_REVOKE_IDS, [token.session for token in tokens])
    for token in tokens:
        assert token.session is not None
        context.recorder.add(
            Revoke(
                start=start,
                end=now(),
                result=Result.OK,
                instance=RIG,
                status=200,
                session=token.session,
            )
        )


@asynccontextmanager
async def _limited_resources(context: FaultContext) -> AsyncIterator[None]:
    """Report violations if an instance blocks its event loop (I9) or needs more memory (I10)."""
    upstreams = context.load.gateway.upstreams
    before = {upstream.name: _memory(upstream) for upstream in upstreams}
    peaks = dict(before)
    async with AsyncExitStack() as stack:
        blocked = {
            each.name: await stack.enter_async_context(watch_event_loop(each.sidegate))
            for each in upstreams
        }
        task = asyncio.create_task(_record_peaks(upstreams, peaks))
        try:
            yield
        finally:
            task.cancel()
    for name, peak in peaks.items():
        if peak > before[name] * _MAX_GROWTH:
            growth = f"from {before[name] >> 20} to {peak >> 20} MB"
            _violate(context, "I10", f"the memory of {name} grew {growth}")
        seconds = blocked[name]()
        if seconds > _MAX_BLOCKED:
            message = f"the event loop of {name} was blocked for {seconds * 1000:.0f} ms"
            _violate(context, "I9", message)


async def _record_peaks(upstreams: Sequence[Upstream], peaks: dict[str, int]) -> None:
    while True:
        await asyncio.sleep(_MEMORY_INTERVAL)
        for upstream in upstreams:
            peaks[upstream.name] = max(peaks[upstream.name], _memory(upstream))


def _memory(upstream: Upstream) -> int:
    return resident_bytes(upstream.sidegate.server.process.pid)


def _violate(context: FaultContext, invariant: str, message: str) -> None:
    context.violations.append(Violation(invariant, message, now()))
