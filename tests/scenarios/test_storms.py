"""Many who ask at once for what nobody knows keep nobody else from being let in."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, Token, TokenKey
from sidegate.core.verdict import Allow, Deny, Reason, Unavailable, Verdict
from sidegate.runtime.container import Container, build_services
from sidegate.services.sessions import NewSession
from sidegate.settings import load
from sidegate.stores.postgres.migrate import migrate_postgres
from tests.contracts.values import TESTER
from tests.stores.sql.wire import Wire
from tests.stores.waiting import until, until_answered
from tests.support.processes import Server

KEY = TokenKey.generate()


@pytest.fixture
async def wire(postgres_server: Server) -> AsyncIterator[Wire]:
    """What leads to Postgres, to be made slow."""
    async with Wire(postgres_server.port) as wire:
        yield wire


@pytest.fixture
async def house(wire: Wire, database_url: str, redis_url: str) -> AsyncIterator[Container]:
    """An instance without doors that has caught up, and is patient with a busy machine."""
    await migrate_postgres(database_url)
    name = database_url.rpartition("/")[2]
    settings = load(
        None,
        {
            "SIDEGATE_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{wire.port}/{name}",
            "SIDEGATE_REDIS_URL": redis_url,
            "SIDEGATE_REDIS__DEADLINE": "60s",
            "SIDEGATE_POSTGRES__DEADLINE": "60s",
            "SIDEGATE_POSTGRES__MAX_LOOKUPS": "500",
            "SIDEGATE_GATE__DEADLINE": "60s",
            "SIDEGATE_TOKEN__KEYS": KEY.formatted(),
        },
    )
    async with build_services(settings) as house:
        await house.catch_up.poll()
        yield house


def purged() -> Token:
    """A token of ours whose session nobody keeps any more: its tag is right."""
    return KeyRing([KEY]).mint(SessionType.WEB)


def forged() -> Token:
    return KeyRing([TokenKey(KEY.id, bytes(32))]).mint(SessionType.WEB)


def kind(verdict: Verdict) -> str:
    match verdict:
        case Allow():
            return "allow"
        case Deny(reason):
            return reason.value
        case Unavailable(store):
            return store


async def verdicts(house: Container, *tokens: Token) -> Counter[str]:
    judged = await asyncio.gather(*(house.validator.validate(token.text) for token in tokens))
    return Counter(map(kind, judged))


async def test_a_storm_of_purged_tokens_starves_nobody_who_is_known(
    house: Container, wire: Wire
) -> None:
    issued = [await house.sessions.create(NewSession("ada", TESTER)) for _ in range(50)]
    known = [each.token for each in issued]
    wire.hold()
    async with asyncio.TaskGroup() as tasks:
        storm = [tasks.create_task(verdicts(house, purged())) for _ in range(3000)]
        # What would wait in vain is told so at once.
        await until(lambda: sum(task.done() for task in storm) == 2500, within=30)
        assert await verdicts(house, *known) == {"allow": 50}  # from memory
        house.local.clear()
        assert await verdicts(house, *known) == {"allow": 50}  # from Redis
        assert sum(task.done() for task in storm) == 2500
        wire.let_go()
    told = sum((task.result() for task in storm), Counter[str]())
    assert told == {Reason.UNKNOWN.value: 500, "postgres": 2500}


async def test_after_the_storm_everybody_is_known_again(house: Container, wire: Wire) -> None:
    issued = await house.sessions.create(NewSession("ada", TESTER))
    wire.delay = 0.1
    await verdicts(house, *(purged() for _ in range(2000)))
    wire.delay = 0.0
    house.local.clear()

    async def allowed() -> bool:
        with suppress(StoreUnavailable):
            found = await house.durable.find(issued.token.digest())
            return found is not None
        return False

    await until_answered(allowed)
    assert await verdicts(house, issued.token) == {"allow": 1}


async def test_forged_tokens_cost_no_store_anything(house: Container, wire: Wire) -> None:
    wire.hold()  # whoever asked would wait
    assert await verdicts(house, *(forged() for _ in range(3000))) == {Reason.FORGED.value: 3000}
    wire.let_go()
