"""Before the first fault: who plays, which sessions there are, and which tokens are worthless."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from sidegate.core.actor import Actor, Change
from sidegate.core.session import Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import Digest
from sidegate.stores.postgres.sessions import PostgresSessions
from tests.faults.beside import beside
from tests.faults.deployment import Deployment
from tests.faults.forgetting import Forgetting
from tests.faults.gateway import Gateway, Upstream
from tests.faults.history import RIG, Create, Record, Result, Road, now
from tests.faults.load import Load, Rates
from tests.faults.plan import Plan
from tests.faults.population import Held, Population, never_issued
from tests.faults.rules import Rules
from tests.faults.stage import Stage
from tests.faults.verbs import Verbs

# So many tokens of each sort that is worth nothing, and so many log-ins at once.
_WORTHLESS: Final = 50
_AT_ONCE: Final = 16

# For how long the time of those who have expired is over: who did less than an hour ago lives for a
# clock that is an hour behind. A whole run takes twenty minutes.
_OVER_FOR: Final = (timedelta(minutes=30), timedelta(days=2))
_LIFETIME: Final = timedelta(hours=12)


@asynccontextmanager
async def set_up(plan: Plan, deployment: Deployment, record: Record) -> AsyncIterator[Stage]:
    """Lend a stage on which the sessions of the plan live. The load does not run yet."""
    random = Random(plan.seed)
    upstreams = [
        Upstream(name, sidegate)
        for name, sidegate in zip(("one", "other"), deployment.instances, strict=True)
    ]
    gateway = Gateway(upstreams, record, random, patience=Rules().deadline)
    population = Population(random, users=plan.users, hot=Rates.hot_sessions(plan.factor))
    verbs = Verbs(
        gateway,
        record,
        population,
        random,
        admin_key=deployment.admin_key,
        grace=Rules().grace,
    )
    forgetting = Forgetting(deployment.redis.port)
    load = Load(
        gateway,
        verbs,
        population,
        forgetting,
        random,
        Rates.scaled(plan.factor),
        grace=Rules().grace,
    )
    stage = Stage(deployment, load, record, random, plan.factor, plan.scale, plan.minutes)
    try:
        async with beside(record, deployment, upstreams):
            population.worthless |= never_issued(deployment.ring, _WORTHLESS)
            population.worthless[Road.EXPIRED] = await _expired(deployment, record)
            await _begun(load, plan.sessions)
            yield stage
    finally:
        await forgetting.close()
        for upstream in upstreams:
            await upstream.close()


async def _begun(load: Load, sessions: int) -> None:
    """Let so many users log in, some at a time."""

    async def some(number: int) -> None:
        for _ in range(number):
            held = await load.verbs.create(load.population.a_user())
            assert held is not None
            load.population.join(held)

    await asyncio.gather(*(some(sessions // _AT_ONCE) for _ in range(_AT_ONCE)))


async def _expired(deployment: Deployment, record: Record) -> list[Held]:
    """Store sessions whose time is over, past every door: none would begin one."""
    store = await PostgresSessions.open(deployment.postgres.url)
    made = []
    try:
        for number in range(_WORTHLESS):
            token = deployment.ring.mint(SessionType.WEB)
            session_id = SessionId(f"00000000-0000-7000-8000-{number:012x}")
            past = _past(session_id, token.digest(), _OVER_FOR[number % len(_OVER_FOR)])
            await store.create(past)
            record.note(_begun_by_the_rig(past.session))
            made.append(Held(token.text))
    finally:
        await store.close()
    return made


def _past(session_id: SessionId, digest: Digest, over_for: timedelta) -> SessionRecord:
    """Return a session whose time has been over for so long."""
    then = datetime.now(UTC) - over_for - _LIFETIME
    session = Session(
        id=session_id,
        digest=digest,
        user_id="long-gone",
        type=SessionType.WEB,
        scopes=(),
        created_at=then,
        authenticated_at=then,
        last_seen_at=then,
        expires_at=then + _LIFETIME,
        idle_timeout=None,
    )
    return SessionRecord(session, SessionDetails(change=Change(then, Actor("rig"))))


def _begun_by_the_rig(session: Session) -> Create:
    moment = now()
    return Create(
        start=moment,
        end=moment,
        result=Result.OK,
        at=RIG,
        status=201,
        user=session.user_id,
        key=session.id,
        session=session.id,
    )
