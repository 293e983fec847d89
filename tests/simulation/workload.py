"""The clients of a run: each operation is planned, and chooses by a random stream of its own.

So a plan with fewer operations does the same otherwise, which shrinking depends on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from random import Random
from typing import Any, Final

from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.runtime.container import Container
from tests.faults.history import (
    Check,
    Create,
    Listing,
    Migrate,
    Operation,
    Refresh,
    Result,
    Revoke,
    TokenCategory,
)
from tests.faults.load import LIMIT
from tests.faults.population import ClientToken
from tests.faults.rules import Rules
from tests.simulation import instance as requests
from tests.simulation.instance import Instance, Reply
from tests.simulation.world import World

RATES: Final = {
    "check": 9.0,
    "check_never_valid": 0.3,
    "create": 0.7,
    "create_pair": 0.15,
    "create_bulk": 0.2,
    "refresh": 0.5,
    "refresh_and_revoke": 0.15,
    "refresh_twice_and_revoke": 0.12,
    "revoke": 0.35,
    "revoke_user": 0.06,
    "migrate": 0.15,
    "list": 0.2,
    "lock": 0.2,
    "command_revoke": 0.06,
}
"""Operations per second, by name."""

RATES_ABOUT_IDLENESS: Final = {"check": 3.0, "create": 0.1, "refresh": 0.05, "keep_in_use": 0.2}
"""The same with few changes: one in flight when the database stops ends trust in Redis."""

COMMAND_WITHOUT_REDIS: Final = "command without redis"

_RULES: Final = Rules()
_CHECK_TIMEOUT: Final = 1.0
_TIMEOUT: Final = 2.0
_LOCK_TTL: Final = 2.0

# Seconds after the end of a session at which all instances are checked: on both sides of bounds.
_PROBE_DELAYS: Final = (0.0, 0.25, 1.05, 2.5, 5.1, 8.0, 12.0)
_NEARLY_IDLE: Final = 10.0
_SHARE_OF_LOST_REPLIES: Final = 0.15
_ENDED_PROBES: Final = 8
_ENDED_TOKENS: Final = 5
_PROBE_DELAYS_AFTER_GRACE: Final = (1.1, 5.2)
_REUSE_DELAY: Final = _RULES.touch_interval + _RULES.normal_bound
_USERS: Final = 12
_BULK_USERS: Final = 3
_CROWDS: Final = 3
_IDLER: Final = "idler"


class Clients:
    """All clients, what they know, and the history of what they did."""

    def __init__(self, world: World, instances: Sequence[Instance]) -> None:
        self._world = world
        self._instances = instances
        self._numbers: dict[str, ClientToken] = {}
        self.active: list[ClientToken] = []
        self.ended: list[ClientToken] = []
        self.at_limit: list[ClientToken] = []
        self.after_restart = False
        self._ending: dict[str, None] = {}  # sessions that a request may have ended
        self._replaced: dict[int, None] = {}  # tokens that a request may have replaced
        self._bulk_busy: dict[str, int] = {}
        self._used_at: dict[ClientToken, float] = {}  # those in use, and when they were allowed
        self._holds: dict[str, tuple[float, float]] = {}  # the last hold of each session's lock
        self.wrong_holds: list[tuple[float, str]] = []
        self._unknown = KeyRing([TokenKey(1, Random(f"{world.seed} key").randbytes(32))])

    @property
    def issued(self) -> list[ClientToken]:
        return list(self._numbers.values())

    @property
    def lasting(self) -> list[ClientToken]:
        """The tokens of sessions that do not become idle."""
        return [each for each in self.issued if not str(each.user).startswith(_IDLER)]

    def run(self, name: str, random: Random) -> Awaitable[None]:
        """Run an operation."""
        operation: Callable[[Random], Awaitable[None]] = getattr(self, f"_{name}")
        return operation(random)

    # Checks

    async def check(self, token: ClientToken, at: Instance, random: Random) -> Result:
        category = self._categorize(token)
        return await self._check_as(category, token, at, random)

    async def _check_as(
        self, category: TokenCategory, token: ClientToken, at: Instance, random: Random
    ) -> Result:
        start, handle = self._world.now, requests.check
        is_prefetched = random.random() < 0.7
        reply = await at.request(
            partial(handle, text=token.text, is_prefetched=is_prefetched), within=_CHECK_TIMEOUT
        )
        result = {200: Result.OK, 401: Result.FAIL}.get(reply.status, Result.INFO)
        self._add(
            Check(
                start=start,
                end=self._world.now,
                requested_at=start,
                result=result,
                status=int(reply.status),
                instance=at.name,
                category=category,
                token=token.number,
                session=token.session,
                user=token.user,
                returned_user=None if reply.session is None else reply.session.user_id,
                returned_session=None if reply.session is None else str(reply.session.id),
                after_restart=self.after_restart,
            )
        )
        return result

    def _categorize(self, token: ClientToken) -> TokenCategory:
        if token.session in self._ending or token.number in self._replaced:
            return TokenCategory.ENDED
        is_limited = token.user is not None and token.user.startswith("crowd")
        return TokenCategory.AT_LIMIT if is_limited else TokenCategory.WARM

    async def probe(self, token: ClientToken, random: Random) -> None:
        """Check a token at every instance that serves."""
        await asyncio.gather(
            *(self.check(token, each, random) for each in self._instances if each.is_serving)
        )

    async def probe_changed(self, random: Random) -> None:
        """Check tokens that have ended, or are kept in use, at every instance.

        For longer than a round takes.
        """
        for _ in range(_ENDED_PROBES):
            recent = self.ended[-3 * _ENDED_TOKENS :]
            tokens = random.sample(recent, min(_ENDED_TOKENS, len(recent)))
            await asyncio.gather(
                *(self.probe(token, random) for token in tokens),
                *(self._probe_in_use(token, random) for token in self._used_at),
            )
            await asyncio.sleep(random.uniform(0.0, 0.1))

    async def _probe_after(
        self, token: ClientToken, delays: Iterable[float], random: Random
    ) -> None:
        start = self._world.now
        for delay in delays:
            await asyncio.sleep(max(0.0, start + delay - self._world.now))
            await self.probe(token, random)

    async def _check(self, random: Random) -> None:
        groups = [self.active, self.active, self.active, self.ended[-40:], self.at_limit[-20:]]
        group = random.choice(groups)
        at = self._choose(random)
        if group and at is not None:
            # A few tokens are checked often, the others seldom.
            recent = group[-6:] if random.random() < 0.6 else group
            await self.check(random.choice(recent), at, random)

    async def _check_never_valid(self, random: Random) -> None:
        category = random.choice(
            [TokenCategory.UNKNOWN, TokenCategory.MALFORMED, TokenCategory.FORGED]
        )
        text = self._unknown.mint(SessionType.WEB, random.randbytes).text
        if category is TokenCategory.FORGED:
            text = text[:-4] + ("AAAA" if text[-4:] != "AAAA" else "BBBB")
        at = self._choose(random)
        if at is not None and category is not TokenCategory.MALFORMED:
            await self._check_as(category, ClientToken(text), at, random)

    # Changes

    async def _create(self, random: Random) -> None:
        token = await self._log_in(f"user-{random.randrange(_USERS)}", random)
        if token is not None:
            self.active.append(token)

    async def _create_pair(self, random: Random) -> None:
        user = f"crowd-{random.randrange(_CROWDS)}"
        logins = (
            self._log_in(user, Random(random.random()), limit=LIMIT, type_=SessionType.MOBILE)
            for _ in range(2)
        )
        for token in await asyncio.gather(*logins):
            if token is not None:
                self.at_limit.append(token)

    async def _create_bulk(self, random: Random) -> None:
        user = f"bulk-{random.randrange(_BULK_USERS)}"
        if self._bulk_busy.get(user, 0) < 0:
            return
        self._bulk_busy[user] = self._bulk_busy.get(user, 0) + 1
        token = await self._log_in(user, random)
        if token is not None:
            self.active.append(token)
            self._bulk_busy[user] -= 1

    async def _log_in(
        self,
        user: str,
        random: Random,
        *,
        limit: int | None = None,
        type_: SessionType = SessionType.WEB,
    ) -> ClientToken | None:
        key = f"{random.getrandbits(64):016x}"
        for _ in range(8):
            at = self._choose(random)
            if at is not None:
                token, is_answered = await self._try_to_log_in(
                    user, key, at, limit=limit, type_=type_
                )
                if is_answered:
                    return token
            await asyncio.sleep(0.25 + 0.5 * random.random())
        return None

    async def _try_to_log_in(
        self, user: str, key: str, at: Instance, *, limit: int | None, type_: SessionType
    ) -> tuple[ClientToken | None, bool]:
        start = self._world.now
        reply = await at.request(
            partial(requests.create, user=user, type_=type_, key=key), within=_TIMEOUT
        )
        token = self._read_issued(reply, user)
        outcome = _outcome_of(reply)
        self._add(
            Create(
                start=start,
                end=self._world.now,
                instance=at.name,
                user=user,
                key=key,
                limit=limit,
                grace=_RULES.long_grace if type_ is SessionType.MOBILE else None,
                session=None if token is None else token.session,
                token=None if token is None else token.number,
                **outcome,
            )
        )
        return token, 0 < reply.status < HTTPStatus.INTERNAL_SERVER_ERROR

    async def _revoke(self, random: Random) -> None:
        token = self._take(random)
        if token is not None:
            await self._revoke_token(token, random)

    async def _revoke_token(self, token: ClientToken, random: Random) -> None:
        assert token.session is not None
        self._ending[token.session] = None
        self.ended.append(token)
        for attempt in range(30):
            at = self._choose(random)
            if at is not None:
                start = self._world.now
                handle = partial(requests.revoke, session=token.session)
                reply = await at.request(handle, within=_TIMEOUT)
                result = self._add_revoke(token.session, start, reply, at.name)
                if result is not Result.INFO:
                    break
                if attempt == 0:
                    self._world.loop.create_task(self._probe_after(token, _PROBE_DELAYS, random))
            await asyncio.sleep(0.25 + 0.5 * random.random())
        await self._probe_after(token, _PROBE_DELAYS, random)

    def _add_revoke(self, session: str, start: float, reply: Reply, instance: str) -> Result:
        entry = Revoke(
            start=start,
            end=self._world.now,
            session=session,
            instance=instance,
            **_outcome_of(reply),
        )
        self._add(entry)
        return entry.result

    async def _revoke_user(self, random: Random) -> None:
        """Revoke all sessions of a user, while none is being created."""
        user, at = f"bulk-{random.randrange(_BULK_USERS)}", self._choose(random)
        if self._bulk_busy.get(user, 0) != 0 or at is None:
            return
        tokens = [each for each in self.active if each.user == user]
        if not tokens:
            return
        self._bulk_busy[user] = -1
        sessions = list(
            dict.fromkeys(str(each.session) for each in self.issued if each.user == user)
        )
        self._ending.update(dict.fromkeys(sessions))
        self.active = [each for each in self.active if each.user != user]
        self.ended += tokens
        for _ in range(20):
            start = self._world.now
            reply = await at.request(partial(requests.revoke_user, user=user), within=_TIMEOUT)
            results = [self._add_revoke(each, start, reply, at.name) for each in sessions]
            if results[0] is not Result.INFO:
                break
            await asyncio.sleep(0.5)
            at = self._choose(random) or at
        else:
            return  # a request may still be on its way
        if reply.status == HTTPStatus.OK:
            self._bulk_busy[user] = 0
        await asyncio.gather(
            *(self._probe_after(token, _PROBE_DELAYS, random) for token in tokens[-3:])
        )

    async def _command_revoke(self, random: Random) -> None:
        token = self._take(random)
        if token is None or token.session is None:
            return
        self._ending[token.session] = None
        self.ended.append(token)
        start, has_redis = self._world.now, random.random() < 0.5
        handle = partial(requests.revoke, session=token.session)
        reply = await requests.run_command(self._world, handle, has_redis=has_redis)
        name = "command" if has_redis else COMMAND_WITHOUT_REDIS
        self._add_revoke(token.session, start, reply, name)
        await self._probe_after(token, _PROBE_DELAYS, random)

    async def _refresh_and_revoke(self, random: Random) -> None:
        """Use a successor, so that its activity is written at once, and revoke it meanwhile."""
        token, at = self._take(random), self._choose(random)
        if token is None or token.number is None or at is None:
            return
        self._replaced[token.number] = None
        self.ended.append(token)
        successor = await self._refresh_until_answered(token, random)
        if successor is not None:
            await self.check(successor, at, random)
            await asyncio.sleep(random.uniform(0.3, 3.0))
            await self._revoke_token(successor, random)

    async def _refresh_twice_and_revoke(self, random: Random) -> None:
        """End a session of which three tokens are valid: the grace period is long."""
        user = f"chain-{random.getrandbits(32)}"
        token = await self._log_in(user, random, type_=SessionType.MOBILE)
        tokens = [] if token is None else [token]
        for _ in range(2):
            if not tokens or tokens[-1].number is None:
                return
            await self.probe(tokens[-1], random)
            self._replaced[tokens[-1].number] = None
            successor = await self._refresh_until_answered(tokens[-1], random)
            if successor is None:
                return
            tokens.append(successor)
        await asyncio.gather(
            self._revoke_token(tokens[-1], random),
            *(self._probe_after(each, _PROBE_DELAYS, random) for each in tokens[:-1]),
        )

    async def _refresh(self, random: Random) -> None:
        """Refresh at one instance or at two at once, until there is an answer."""
        token = self._take(random)
        if token is None or token.number is None:
            return
        self._replaced[token.number] = None
        self.ended.append(token)
        successor = await self._refresh_until_answered(token, random)
        if successor is None:
            return
        refreshed_at, reuse = self._world.now, random.random() < 0.3
        if reuse:
            at = self._choose(random)
            if at is not None:
                await self.check(successor, at, random)
        else:
            self.active.append(successor)
        await self._probe_after(token, (_RULES.grace / 2,), random)
        wait = refreshed_at + _RULES.grace + _REUSE_DELAY - self._world.now
        await asyncio.sleep(max(0.0, wait))
        if reuse and token.session is not None:
            self._ending[token.session] = None
            at = self._choose(random)
            if at is not None:
                await self._refresh_at(at, token)
            self.ended.append(successor)
            await self._probe_after(successor, _PROBE_DELAYS, random)
        await self._probe_after(token, _PROBE_DELAYS_AFTER_GRACE, random)

    async def _refresh_until_answered(
        self, token: ClientToken, random: Random
    ) -> ClientToken | None:
        if random.random() < _SHARE_OF_LOST_REPLIES:
            at = self._choose(random)
            if at is not None:
                await self._refresh_at(at, token, loses_reply=True)
            await asyncio.sleep(_RULES.grace + random.uniform(-1.0, 4.0))
        for _ in range(30):
            serving = [each for each in self._instances if each.is_serving]
            count = 2 if random.random() < 0.5 else 1
            chosen = random.sample(serving, min(count, len(serving)))
            replies = await asyncio.gather(*(self._refresh_at(each, token) for each in chosen))
            if any(is_answered for is_answered, _ in replies):
                return next((each for _, each in replies if each is not None), None)
            await asyncio.sleep(0.5 + random.random())
        return None

    async def _refresh_at(
        self, at: Instance, token: ClientToken, *, loses_reply: bool = False
    ) -> tuple[bool, ClientToken | None]:
        assert token.session is not None
        assert token.number is not None
        start = self._world.now
        reply = await at.request(partial(requests.refresh, text=token.text), within=_TIMEOUT)
        if loses_reply:
            reply = requests.NO_REPLY
        successor = self._read_issued(reply, token.user)
        entry = Refresh(
            start=start,
            end=self._world.now,
            instance=at.name,
            session=token.session,
            token=token.number,
            successor=None if successor is None else successor.number,
            **_outcome_of(reply),
        )
        self._add(entry)
        return entry.result is not Result.INFO, successor

    async def _migrate(self, random: Random) -> None:
        token, at = self._take(random), self._choose(random)
        if token is None or token.session is None or token.number is None or at is None:
            return
        for each in self.issued:
            if each.session == token.session and each.number is not None:
                self._replaced[each.number] = None
        self.ended.append(token)
        start = self._world.now
        reply = await at.request(partial(requests.migrate, session=token.session), within=_TIMEOUT)
        successor = self._read_issued(reply, token.user)
        entry = Migrate(
            start=start,
            end=self._world.now,
            instance=at.name,
            session=token.session,
            successor=None if successor is None else successor.number,
            **_outcome_of(reply),
        )
        self._add(entry)
        if successor is not None:
            self.active.append(successor)
        await self._probe_after(token, _PROBE_DELAYS, random)

    async def _list(self, random: Random) -> None:
        user, at = f"user-{random.randrange(_USERS)}", self._choose(random)
        if at is None:
            return
        start = self._world.now
        reply = await at.request(partial(requests.list_sessions, user=user), within=_TIMEOUT)
        self._add(
            Listing(
                start=start,
                end=self._world.now,
                instance=at.name,
                user=user,
                sessions=reply.sessions,
                **_outcome_of(reply),
            )
        )

    async def _lock(self, random: Random) -> None:
        """Acquire a lock. It must not be held by another one."""
        at = self._choose(random)
        if not self.active or at is None:
            return
        session = str(random.choice(self.active[-4:]).session)
        start = self._world.now
        handle: Callable[[Container], Awaitable[Reply]] = partial(
            requests.lock, session=session, ttl=timedelta(seconds=_LOCK_TTL)
        )
        reply = await at.request(handle, within=_TIMEOUT)
        if reply.status != HTTPStatus.OK:
            return
        held_from, held_until = self._holds.get(session, (0.0, 0.0))
        if held_from <= start and self._world.now < held_until:
            self.wrong_holds.append((start, f"the lock of {session} was held twice"))
        self._holds[session] = self._world.now, start + _LOCK_TTL

    def forget_holds(self) -> None:
        """Expect nothing of locks that a restored database may have lost."""
        self._holds.clear()

    async def _keep_in_use(self, random: Random) -> None:
        """Use a session that is soon idle at one instance, and after a pause at another."""
        user = f"{_IDLER}-{random.randrange(_USERS)}"
        token = await self._log_in(user, random, type_=SessionType.API)
        at = self._choose(random)
        if token is None or at is None:
            return
        end = self._world.now + random.choice([2.0, 10.0, 25.0])
        while self._world.now < end:
            await self._use(token, at, random)
            await asyncio.sleep(random.uniform(0.2, 1.0))
        await asyncio.sleep(random.choice([0.0, 6.0, 9.0]))
        await self._probe_in_use(token, random)
        del self._used_at[token]

    async def _use(self, token: ClientToken, at: Instance, random: Random) -> None:
        """Check a token, unless it may have become idle: what is not allowed is no use."""
        used_at = self._world.now
        if used_at > self._used_at.setdefault(token, used_at) + _NEARLY_IDLE:
            return
        if await self.check(token, at, random) is Result.OK:
            self._used_at[token] = used_at

    async def _probe_in_use(self, token: ClientToken, random: Random) -> None:
        serving = [each for each in self._instances if each.is_serving]
        await asyncio.gather(*(self._use(token, each, random) for each in serving))

    # Parts

    def _choose(self, random: Random) -> Instance | None:
        serving = [each for each in self._instances if each.is_serving]
        return random.choice(serving) if serving else None

    def _take(self, random: Random) -> ClientToken | None:
        """Take a token that is not being changed; often one that was used lately."""
        if not self.active:
            return None
        group = self.active[-6:] if random.random() < 0.6 else self.active
        token = random.choice(group)
        self.active.remove(token)
        return token

    def _read_issued(self, reply: Reply, user: str | None) -> ClientToken | None:
        if reply.token is None or reply.session is None:
            return None
        known = self._numbers.get(reply.token)
        if known is None:
            number = len(self._numbers)
            known = ClientToken(reply.token, number, str(reply.session.id), user)
            self._numbers[reply.token] = known
        return known

    def _add(self, entry: Operation) -> None:
        self._world.history.append(entry)


def _outcome_of(reply: Reply) -> dict[str, Any]:
    """Return result and status: 202 is an acknowledgement, a conflict is no refusal."""
    status = int(reply.status)
    if 200 <= status < 300:
        return {"result": Result.OK, "status": status}
    is_refused = 400 <= status < 500 and status != HTTPStatus.CONFLICT
    return {"result": Result.FAIL if is_refused else Result.INFO, "status": status}
