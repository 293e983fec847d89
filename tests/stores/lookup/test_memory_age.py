"""A round that ends during a lookup in Redis does not make its copy younger in memory."""

import asyncio

import pytest

from tests.contracts.values import build_session
from tests.stores.lookup.harness import LookupHarness
from tests.stores.waiting import wait_until


@pytest.mark.parametrize("is_prefetch", [True, False])
async def test_age_of_a_copy_counts_from_the_last_round_before_its_lookup(
    is_prefetch: bool,
) -> None:
    session = build_session()
    harness = LookupHarness(redis=[session])
    harness.redis_trust.age = 0.5
    harness.redis.unblocked.clear()
    caller = (
        harness.prefetch(session.digest)
        if is_prefetch
        else asyncio.create_task(harness.find(session.digest))
    )
    await wait_until(lambda: bool(harness.redis.lookups))
    harness.clock.advance(0.25)
    harness.redis_trust.age = 0.0
    harness.redis.unblocked.set()
    assert await caller == session
    assert harness.age_in_memory(session.digest) == 0.75
