"""Episodes in which a rotation is committed, but not published; then the session ends.

Every token of the chain has to be denied: the current one, the previous one, and those before.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.faults.context import Episode, FaultContext, run_in_thread
from tests.faults.deployment import connect_as_superuser
from tests.faults.history import RIG, Result, Revoke, TokenCategory, now
from tests.faults.load import LIMIT
from tests.faults.population import ClientToken
from tests.faults.proxy_faults import WithheldCommits
from tests.faults.revocations import check_everywhere, retire_all, wait_until_cached
from tests.stores.sql.tcp_proxy import pass_through
from tests.stores.waiting import wait_until

# Sessions for each way to end. An instance changes no more than a few at once.
_CHAINS_PER_END: Final = 1
_HOLD_TIME: Final = 8.0
_RETRY_DELAY: Final = 0.1


@dataclass
class _Chain:
    """The tokens of one session, the oldest first."""

    tokens: list[ClientToken] = field(default_factory=list)

    @property
    def current(self) -> ClientToken:
        return self.tokens[-1]

    @property
    def session(self) -> str:
        session = self.current.session
        assert session is not None
        return session


End = Callable[[FaultContext, _Chain], Awaitable[None]]


async def _revoke(context: FaultContext, chain: _Chain) -> None:
    await context.load.admin_client.revoke(chain.current, at=context.other)


async def _migrate(context: FaultContext, chain: _Chain) -> None:
    successor = await context.load.admin_client.migrate(chain.current, at=context.other)
    if successor is not None:
        context.load.population.at_limit.append(successor)
    context.expect("a session was not migrated", observed=successor is not None)


async def _evict(context: FaultContext, chain: _Chain) -> None:
    """Log the user in so often that the session is evicted; the history is told of it."""
    start, user = now(), chain.current.user
    assert user is not None
    for _ in range(LIMIT):
        token = await context.load.admin_client.create(user, type_="mobile", limit=LIMIT)
        if token is not None:
            context.load.population.at_limit.append(token)
    async with connect_as_superuser(context.postgres) as connection:
        query = "SELECT revoked_at IS NOT NULL FROM sessions WHERE id = $1"
        is_evicted = bool(await connection.fetchval(query, chain.session))
    context.expect("a session was not evicted", observed=is_evicted)
    if is_evicted:
        context.recorder.add(
            Revoke(
                start=start,
                end=now(),
                result=Result.OK,
                instance=RIG,
                status=200,
                session=chain.session,
            )
        )


_ENDS: Final[tuple[End, ...]] = (_revoke, _evict, _migrate)


async def _cut_link(context: FaultContext) -> None:
    """Cut the link of the instance to Postgres, so that it does not learn of its commits."""
    context.deployment.target_postgres_proxy.refuse_new = True
    context.deployment.target_postgres_proxy.reset_connections()


async def _restore_link(context: FaultContext) -> None:
    context.deployment.target_postgres_proxy.refuse_new = False


async def _kill(context: FaultContext) -> None:
    await run_in_thread(context.target.sidegate.server.kill)


async def _start(context: FaultContext) -> None:
    await run_in_thread(context.target.sidegate.server.child.start)


def lose_publication(
    inject: Callable[[FaultContext], Awaitable[None]],
    repair: Callable[[FaultContext], Awaitable[None]],
) -> Episode:
    """Inject the fault when the second rotation of each session is committed, then end them."""

    async def episode(context: FaultContext) -> None:
        chains = [await _create_chain(context) for _ in range(_CHAINS_PER_END * len(_ENDS))]
        context.mark_started()
        async with context.excuse_instance(context.target):
            await _rotate_unpublished(context, chains, inject)
            for number, chain in enumerate(chains):
                await _ENDS[number % len(_ENDS)](context, chain)
            await repair(context)
        for chain in chains:
            await retire_all(context, chain.tokens)
        await context.wait(_HOLD_TIME)

    return episode


async def _create_chain(context: FaultContext) -> _Chain:
    """Return a session that was rotated once, with copies for both tokens in every cache."""
    admin_client, user = context.load.admin_client, f"chain-{context.random.randrange(10**9)}"
    first = await admin_client.create(user, type_="mobile", limit=LIMIT)
    assert first is not None
    await check_everywhere(context, [first], TokenCategory.AT_LIMIT)
    second = await admin_client.refresh_once(first, at=context.other)
    assert second is not None
    await check_everywhere(context, [first, second], TokenCategory.AT_LIMIT)
    await wait_until_cached(context, [first])
    return _Chain([first, second])


async def _rotate_unpublished(
    context: FaultContext,
    chains: Sequence[_Chain],
    inject: Callable[[FaultContext], Awaitable[None]],
) -> None:
    """Rotate each session once more at the target, which is lost at the commits.

    Clients learn the successor from the other instance.
    """
    proxy, admin_client = context.deployment.target_postgres_proxy, context.load.admin_client
    commits = WithheldCommits(chain.session for chain in chains)
    proxy.reset_connections()  # statements prepared before would not be recognised
    proxy.client_filter, proxy.server_filter = commits.on_request, commits.on_reply
    try:
        async with asyncio.TaskGroup() as refreshes:
            for chain in chains:
                refreshes.create_task(_refresh_until_committed(context, chain, commits))
            await wait_until(lambda: commits.is_complete)
            await inject(context)
    finally:
        proxy.client_filter = proxy.server_filter = pass_through
    for chain in chains:
        successor = await admin_client.refresh_once(chain.current, at=context.other)
        context.expect("a rotation was not committed", observed=successor is not None)
        if successor is not None:
            chain.tokens.append(successor)


async def _refresh_until_committed(
    context: FaultContext, chain: _Chain, commits: WithheldCommits
) -> None:
    """Refresh at the target, which does not reach Postgres again at once after a reset."""
    while not commits.is_withheld(chain.session):
        await context.load.admin_client.refresh_once(chain.current, at=context.target)
        await asyncio.sleep(_RETRY_DELAY)


LOSSES: Final[tuple[tuple[str, Episode], ...]] = (
    ("link cut", lose_publication(_cut_link, _restore_link)),
    ("kill -9", lose_publication(_kill, _start)),
)
