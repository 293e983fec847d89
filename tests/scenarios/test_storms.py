"""Many concurrent lookups of unknown tokens do not affect known sessions."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, Token, TokenKey
from sidegate.core.verdict import Allow, Deny, Reason, Unavailable, Verdict
from sidegate.runtime.container import Container, build_services
from sidegate.services.sessions import NewSession
from sidegate.settings import load
from tests.contracts.values import TESTER
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import cancel_all, wait_until, wait_until_async
from tests.support.database_time import migrate_for_test_clock
from tests.support.processes import Server

KEY = TokenKey.generate()


@pytest.fixture
async def proxy(postgres_server: Server) -> AsyncIterator[TcpProxy]:
    """A proxy in front of Postgres, to make it slow."""
    async with TcpProxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
async def container(proxy: TcpProxy, database_url: str, redis_url: str) -> AsyncIterator[Container]:
    """An instance without listeners that follows Redis, with deadlines for a busy machine."""
    await migrate_for_test_clock(database_url)
    name = database_url.rpartition("/")[2]
    settings = load(
        None,
        {
            "SIDEGATE_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}",
            "SIDEGATE_REDIS_URL": redis_url,
            "SIDEGATE_REDIS__DEADLINE": "60s",
            "SIDEGATE_POSTGRES__DEADLINE": "60s",
            "SIDEGATE_POSTGRES__MAX_LOOKUPS": "500",
            "SIDEGATE_GATE__DEADLINE": "60s",
            "SIDEGATE_TOKEN__KEYS": KEY.format(),
        },
    )
    async with build_services(settings) as container:
        assert container.clock_sync is not None
        await container.clock_sync.sync()
        await container.change_poller.poll()
        assert container.cache_follower is not None
        await container.cache_follower.follow()  # later creations are put into Redis
        following = asyncio.create_task(container.cache_follower.run(lambda _: None))
        yield container
        await cancel_all([following])


def mint_purged_token() -> Token:
    """Return a token with a valid tag whose session is in no store."""
    return KeyRing([KEY]).mint(SessionType.WEB)


def mint_forged_token() -> Token:
    return KeyRing([TokenKey(KEY.id, bytes(32))]).mint(SessionType.WEB)


def outcome(verdict: Verdict) -> str:
    match verdict:
        case Allow():
            return "allow"
        case Deny(reason):
            return reason.value
        case Unavailable(store):
            return store


async def count_verdicts(container: Container, *tokens: Token) -> Counter[str]:
    judged = await asyncio.gather(*(container.validator.validate(token.text) for token in tokens))
    return Counter(map(outcome, judged))


async def wait_for_redis(container: Container, tokens: Sequence[Token]) -> None:
    """Return when Redis has the sessions, and is trusted."""
    redis, digests = container.redis, [token.digest() for token in tokens]
    assert redis is not None

    async def has_all() -> bool:
        with suppress(StoreUnavailable):
            return len(await redis.find_many(digests)) == len(digests)
        return False

    await wait_until_async(has_all)


async def test_many_purged_tokens_do_not_block_known_sessions(
    container: Container, proxy: TcpProxy
) -> None:
    issued = [await container.sessions.create(NewSession("ada", TESTER)) for _ in range(50)]
    known = [each.token for each in issued]
    await wait_for_redis(container, known)
    proxy.stall()
    async with asyncio.TaskGroup() as tasks:
        purged_checks = [
            tasks.create_task(count_verdicts(container, mint_purged_token())) for _ in range(3000)
        ]
        # Lookups beyond the limit fail at once.
        await wait_until(lambda: sum(task.done() for task in purged_checks) == 2500, within=30)
        assert await count_verdicts(container, *known) == {"allow": 50}  # from memory
        container.memory.clear()
        assert await count_verdicts(container, *known) == {"allow": 50}  # from Redis
        assert sum(task.done() for task in purged_checks) == 2500
        proxy.resume()
    results = sum((task.result() for task in purged_checks), Counter[str]())
    assert results == {Reason.UNKNOWN.value: 500, "postgres": 2500}


async def test_known_session_is_allowed_after_many_purged_tokens(
    container: Container, proxy: TcpProxy
) -> None:
    issued = await container.sessions.create(NewSession("ada", TESTER))
    proxy.delay = 0.1
    await count_verdicts(container, *(mint_purged_token() for _ in range(2000)))
    proxy.delay = 0.0
    container.memory.clear()

    async def allowed() -> bool:
        with suppress(StoreUnavailable):
            found = await container.durable.find(issued.token.digest())
            return found is not None
        return False

    await wait_until_async(allowed)
    assert await count_verdicts(container, issued.token) == {"allow": 1}


async def test_forged_tokens_cause_no_lookup(container: Container, proxy: TcpProxy) -> None:
    proxy.stall()  # a lookup would wait
    assert await count_verdicts(container, *(mint_forged_token() for _ in range(3000))) == {
        Reason.FORGED.value: 3000
    }
    proxy.resume()
