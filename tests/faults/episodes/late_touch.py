"""An episode in which the replies to touches are late, and meanwhile the sessions end."""

import asyncio
from typing import Final

from tests.faults.context import FaultContext
from tests.faults.episodes.redis import execute
from tests.faults.history import TokenCategory
from tests.faults.load import LIMIT
from tests.faults.population import ClientToken
from tests.faults.proxy_faults import LateReplies
from tests.faults.revocations import clear_memory, retire_all
from tests.stores.sql.tcp_proxy import pass_through
from tests.stores.waiting import wait_until

_SESSIONS: Final = 8
_DELAY: Final = 4.0

# Seconds until each session was touched, which takes a few on an idle machine.
_TOUCH_TIMEOUT: Final = 60.0

# Seconds until a change has reached every cache, and of checks afterwards.
_PUBLISH_TIME: Final = 1.0
_HOLD_TIME: Final = 6.0


async def delay_touches(context: FaultContext) -> None:
    """Revoke sessions and empty Redis while replies to their touches are four seconds late."""
    late, proxy = LateReplies(_DELAY), context.deployment.target_postgres_proxy
    tokens = [await _create_session(context) for _ in range(_SESSIONS)]
    context.mark_started()
    proxy.reset_connections()  # statements prepared before would not be recognised
    proxy.client_filter, proxy.server_filter = late.on_request, late.on_reply
    try:
        await _wait_until_touched(context, tokens, late)
        for token in tokens:
            await context.load.admin_client.revoke(token, at=context.other)
        await asyncio.sleep(_PUBLISH_TIME)
        context.expect("no reply was late", observed=_count_late(tokens, late))
        context.record_data_loss()
        await execute(context, "FLUSHALL")
    finally:
        proxy.client_filter = pass_through
        await wait_until(lambda: late.is_idle, within=2 * _DELAY)
        proxy.server_filter = pass_through
    await clear_memory(context)
    await retire_all(context, tokens)
    await context.wait(_HOLD_TIME)


async def _create_session(context: FaultContext) -> ClientToken:
    user = f"late-{context.random.randrange(10**9)}"
    token = await context.load.admin_client.create(user, type_="mobile", limit=LIMIT)
    assert token is not None
    return token


async def _wait_until_touched(
    context: FaultContext, tokens: list[ClientToken], late: LateReplies
) -> None:
    """Use the sessions at the target until a late reply is about each of them."""
    async with asyncio.timeout(_TOUCH_TIMEOUT):
        while _count_late(tokens, late) < len(tokens):
            for token in tokens:
                await context.load.gateway.probe(token, TokenCategory.AT_LIMIT)
            await asyncio.sleep(0.1)


def _count_late(tokens: list[ClientToken], late: LateReplies) -> int:
    return sum(late.is_late(token.session or "") for token in tokens)
