"""Prepare a run: the load, the sessions, and tokens that are not valid."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from sidegate.core.actor import Actor, Change
from sidegate.core.digest import Digest
from sidegate.core.session import Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.faults.admin_client import AdminClient
from tests.faults.context import FaultContext
from tests.faults.deployment import Deployment
from tests.faults.gateway import SimulatedGateway, Upstream
from tests.faults.history import RIG, Create, HistoryRecorder, Result, TokenCategory, now
from tests.faults.load import Load, Rates
from tests.faults.monitor import monitor
from tests.faults.plan import Plan
from tests.faults.population import ClientToken, Population, make_invalid_tokens
from tests.faults.redis_eviction import RedisEviction
from tests.faults.rules import Rules

# Invalid tokens of each category, and concurrent logins.
_TOKENS_PER_CATEGORY: Final = 50
_CONCURRENCY: Final = 16

# How long ago sessions expired. A clock that is an hour behind takes those of the last hour for
# active; a whole run takes twenty minutes.
_EXPIRED_FOR: Final = (timedelta(minutes=30), timedelta(days=2))
_LIFETIME: Final = timedelta(hours=12)


@asynccontextmanager
async def prepare(
    plan: Plan, deployment: Deployment, recorder: HistoryRecorder
) -> AsyncIterator[FaultContext]:
    """Yield a context with the sessions of the plan. The load does not run yet."""
    random = Random(plan.seed)
    upstreams = [
        Upstream(name, sidegate)
        for name, sidegate in zip(("one", "other"), deployment.instances, strict=True)
    ]
    gateway = SimulatedGateway(upstreams, recorder, random, timeout=Rules().deadline)
    population = Population(random, users=plan.users, hot=Rates.hot_session_count(plan.load_factor))
    admin_client = AdminClient(
        gateway, recorder, population, random, admin_key=deployment.admin_key
    )
    eviction = RedisEviction(deployment.redis.port)
    load = Load(
        gateway,
        admin_client,
        population,
        eviction,
        random,
        Rates.scaled(plan.load_factor),
        grace=Rules().grace,
    )
    context = FaultContext(
        deployment, load, recorder, random, plan.load_factor, plan.time_scale, plan.minutes
    )
    try:
        async with monitor(recorder, deployment, upstreams):
            population.never_valid |= make_invalid_tokens(deployment.ring, _TOKENS_PER_CATEGORY)
            population.never_valid[TokenCategory.EXPIRED] = await _store_expired_sessions(
                deployment, recorder
            )
            await _create_sessions(load, plan.sessions)
            yield context
    finally:
        await eviction.close()
        for upstream in upstreams:
            await upstream.close()


async def _create_sessions(load: Load, sessions: int) -> None:
    """Create so many sessions, some concurrently."""

    async def create(number: int) -> None:
        for _ in range(number):
            token = await load.admin_client.create(load.population.pick_user())
            assert token is not None
            load.population.add(token)

    await asyncio.gather(*(create(sessions // _CONCURRENCY) for _ in range(_CONCURRENCY)))


async def _store_expired_sessions(
    deployment: Deployment, recorder: HistoryRecorder
) -> list[ClientToken]:
    """Insert expired sessions into the database: the API creates none."""
    store = await PostgresSessions.open(deployment.postgres.url)
    tokens = []
    try:
        for number in range(_TOKENS_PER_CATEGORY):
            token = deployment.ring.mint(SessionType.WEB)
            session_id = SessionId(f"00000000-0000-7000-8000-{number:012x}")
            expired = _expired_record(
                session_id, token.digest(), _EXPIRED_FOR[number % len(_EXPIRED_FOR)]
            )
            await store.create(expired)
            recorder.add(_creation_entry(expired.session))
            tokens.append(ClientToken(token.text))
    finally:
        await store.close()
    return tokens


def _expired_record(session_id: SessionId, digest: Digest, expired_for: timedelta) -> SessionRecord:
    """Return a session that expired so long ago."""
    then = datetime.now(UTC) - expired_for - _LIFETIME
    session = Session(
        id=session_id,
        digest=digest,
        user_id="expired-user",
        type=SessionType.WEB,
        scopes=(),
        created_at=then,
        authenticated_at=then,
        last_seen_at=then,
        expires_at=then + _LIFETIME,
        idle_timeout=None,
    )
    return SessionRecord(session, SessionDetails(change=Change(then, Actor("rig"))))


def _creation_entry(session: Session) -> Create:
    at = now()
    return Create(
        start=at,
        end=at,
        result=Result.OK,
        instance=RIG,
        status=201,
        user=session.user_id,
        key=session.id,
        session=session.id,
    )
