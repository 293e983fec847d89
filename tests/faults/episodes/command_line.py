"""Episodes in which the command line changes sessions: without Redis, or with a wrong clock."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.faults.command_line import CommandResult, run_sidegate
from tests.faults.context import Episode, FaultContext, run_in_thread
from tests.faults.history import RIG, Create, Result, Revoke, TokenCategory, now
from tests.faults.population import ClientToken
from tests.faults.revocations import check_everywhere, retire_all, wait_until_cached
from tests.faults.rules import Violation
from tests.support.fake_clock import fake_clock, find_fake_clock

# Sessions revoked by one command: more than an instance reads of the last changes at its start.
_MANY_SESSIONS: Final = 1500
_SESSIONS: Final = 3
_CONCURRENCY: Final = 8
_HOLD_TIME: Final = 6.0
_MEMORY_MAX_AGE: Final = 5.0

# How far the lifetime of a session that a command creates may differ from that of its type.
_LIFETIME: Final = timedelta(hours=12)
_TOLERANCE: Final = timedelta(minutes=1)


async def revoke_without_redis(context: FaultContext) -> None:
    """Stop the instances; revoke many sessions with a command that knows only the database."""
    upstreams = context.load.gateway.upstreams
    user = f"batch-{context.random.randrange(10**9)}"
    tokens = await _create_many(context, user, round(_MANY_SESSIONS * context.time_scale))
    await context.load.check_all(tokens, TokenCategory.WARM, concurrency=4)
    await wait_until_cached(context, tokens)
    context.mark_started()
    async with context.excuse_instance(*upstreams):
        for upstream in upstreams:
            await run_in_thread(upstream.sidegate.server.stop)
        environment = dict(context.deployment.environment())
        del environment["SIDEGATE_REDIS_URL"]
        await _revoke_user(context, user, tokens, environment)
        for upstream in upstreams:
            await run_in_thread(upstream.sidegate.server.child.start)
    await check_everywhere(context, tokens, TokenCategory.ENDED)
    await asyncio.sleep(_MEMORY_MAX_AGE)
    await check_everywhere(context, tokens, TokenCategory.ENDED)
    await context.wait_for_revocation()


async def revoke_with_redis_stopped(context: FaultContext) -> None:
    """SIGSTOP Redis; revoke sessions with commands that cannot tell it."""
    tokens = await _take_cached(context)
    context.mark_started()
    await run_in_thread(context.redis.pause)
    try:
        for token in tokens:
            await _revoke(context, token, context.deployment.environment())
    finally:
        await run_in_thread(context.redis.resume)
    await retire_all(context, tokens)
    await context.wait(_HOLD_TIME)
    await context.wait_for_revocation()


def use_wrong_clock(offset: timedelta) -> Episode:
    """Create, list and revoke sessions with commands whose clock is wrong by `offset`."""

    async def episode(context: FaultContext) -> None:
        library = find_fake_clock()
        if library is None:
            context.expect("libfaketime is not installed", observed=False)
            return
        environment = {**context.deployment.environment(), **fake_clock(library, offset)}
        tokens = await _take_cached(context)
        context.mark_started()
        created = await _create(context, environment)
        if created is not None:
            await check_everywhere(context, [created], TokenCategory.WARM)
            await _expect_state(context, created, "active", environment)
            tokens = [*tokens, created]
        for token in tokens:
            await _revoke(context, token, environment)
        await _expect_state(context, tokens[-1], "revoked", environment)
        await retire_all(context, tokens)
        await context.wait(_HOLD_TIME)

    return episode


async def _create_many(context: FaultContext, user: str, number: int) -> list[ClientToken]:
    async def create(share: int) -> list[ClientToken]:
        created = [await context.load.admin_client.create(user) for _ in range(share)]
        return [token for token in created if token is not None]

    shares = (create(number // _CONCURRENCY) for _ in range(_CONCURRENCY))
    return [token for share in await asyncio.gather(*shares) for token in share]


async def _take_cached(context: FaultContext) -> Sequence[ClientToken]:
    """Take some tokens whose sessions are in every cache."""
    tokens = context.load.population.take_many(_SESSIONS)
    await check_everywhere(context, tokens, TokenCategory.WARM)
    return tokens


async def _revoke(
    context: FaultContext, token: ClientToken, environment: Mapping[str, str]
) -> None:
    assert token.session is not None
    done = await run_sidegate("session", "revoke", token.session, environment=environment)
    document = _document_of(context, done)
    if document is not None:
        _expect(context, "the revoked session is shown as", document["state"], "revoked")
        _record_revocation(context, token, done)


async def _revoke_user(
    context: FaultContext, user: str, tokens: Sequence[ClientToken], environment: Mapping[str, str]
) -> None:
    """Revoke all sessions of a user with one command."""
    done = await run_sidegate("session", "revoke", "--user", user, environment=environment)
    document = _document_of(context, done)
    if document is not None:
        _expect(context, "the command has revoked", document["revoked"], len(tokens))
        for token in tokens:
            _record_revocation(context, token, done)


async def _create(context: FaultContext, environment: Mapping[str, str]) -> ClientToken | None:
    """Create a session; None: the command failed, which is reported."""
    user = context.load.population.pick_user()
    done = await run_sidegate("session", "create", user, environment=environment)
    document = _document_of(context, done)
    if document is None:
        return None
    session = document["session"]
    token = context.load.population.issue(document["token"], session["id"], user)
    context.recorder.add(
        Create(
            start=done.start,
            end=done.end,
            result=Result.OK,
            instance=RIG,
            status=201,
            user=user,
            key=session["id"],
            session=session["id"],
            token=token.number,
        )
    )
    lifetime = datetime.fromisoformat(session["expires_at"]) - datetime.now(UTC)
    in_order = abs(lifetime - _LIFETIME) <= _TOLERANCE
    _expect(context, f"a new session has {lifetime} left, which is right:", in_order, True)
    return token


async def _expect_state(
    context: FaultContext, token: ClientToken, state: str, environment: Mapping[str, str]
) -> None:
    assert token.session is not None
    done = await run_sidegate("session", "show", token.session, environment=environment)
    document = _document_of(context, done)
    if document is not None:
        _expect(context, "the state of the session is shown as", document["state"], state)


def _document_of(context: FaultContext, done: CommandResult) -> Any:
    """Return the output of a command that succeeded, or None after a violation."""
    if done.exit_code == 0 and done.document is not None:
        return done.document
    last_line = done.stderr.strip().splitlines()[-1:]
    _violate(context, f"a command ended with {done.exit_code}: {last_line}")
    return None


def _record_revocation(context: FaultContext, token: ClientToken, done: CommandResult) -> None:
    assert token.session is not None
    context.recorder.add(
        Revoke(
            start=done.start,
            end=done.end,
            result=Result.OK,
            instance=RIG,
            status=200,
            session=token.session,
        )
    )


def _expect(context: FaultContext, what: str, shown: object, expected: object) -> None:
    if shown != expected:
        _violate(context, f"{what} {shown}, not {expected}")


def _violate(context: FaultContext, message: str) -> None:
    context.violations.append(Violation("I5", message, now()))


EPISODES: Final[tuple[tuple[str, Episode], ...]] = (
    ("without Redis", revoke_without_redis),
    ("clock 5 h ahead", use_wrong_clock(timedelta(hours=5))),
    ("clock 5 h behind", use_wrong_clock(timedelta(hours=-5))),
    ("Redis stopped", revoke_with_redis_stopped),
)
