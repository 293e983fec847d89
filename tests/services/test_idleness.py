"""Idle is told only when it can be known, by every operation that ends at an idle session."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import pytest

from sidegate.core.actor import Actor
from sidegate.core.condition import Condition
from sidegate.core.errors import SessionEnded, StoreUnavailable
from sidegate.core.idempotency import Idempotency
from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, Token, TokenKey
from sidegate.core.verdict import Deny, Reason, Unavailable
from sidegate.services.idleness import Idleness, compute_settle_time
from sidegate.services.rules import Rules, RulesInForce
from sidegate.services.sessions import NewSession
from sidegate.services.validator import Validator
from tests.contracts.values import TESTER
from tests.support.clock import FakeClock
from tests.support.fakes import FakeLookup
from tests.support.operations import Operations, build_operations

SETTLE_TIME: Final = compute_settle_time(touch_interval=1.0)
RING: Final = KeyRing([TokenKey(1, bytes(32))])
KEY: Final = Idempotency.from_request(api_key="sgk_secret", key="login-1", body=b"{}")
HOUR: Final = timedelta(hours=1)

Event = Callable[[Idleness], None] | float
"""What an instance notices of its database, or the seconds that pass."""


def ok(idleness: Idleness) -> None:
    idleness.record_round(True)


def failed_round(idleness: Idleness) -> None:
    idleness.record_round(False)


def failed_lookup(idleness: Idleness) -> None:
    idleness.record_failure()


@pytest.mark.parametrize(
    ("events", "is_known"),
    [
        ([], False),
        ([3600.0], False),
        ([ok], False),
        ([ok, SETTLE_TIME - 0.1], False),
        ([ok, SETTLE_TIME], True),
        ([ok, 5.0, ok, SETTLE_TIME - 5.0], True),
        ([ok, SETTLE_TIME, failed_round], False),
        ([ok, SETTLE_TIME, failed_lookup], False),
        ([ok, SETTLE_TIME, failed_lookup, 3600.0], False),
        ([ok, SETTLE_TIME, failed_round, 20.0, ok, SETTLE_TIME - 0.1], False),
        ([ok, SETTLE_TIME, failed_round, 20.0, ok, SETTLE_TIME], True),
        ([ok, 5.0, failed_round, 0.5, ok, SETTLE_TIME - 0.1], False),
        ([ok, SETTLE_TIME, failed_lookup, ok, 5.0, failed_lookup, ok, 6.0], False),
    ],
)
def test_idleness_is_known_a_settle_time_after_the_first_round_without_failure(
    events: Sequence[Event], is_known: bool
) -> None:
    clock = FakeClock()
    idleness = Idleness(clock=clock, settle_time=SETTLE_TIME)
    for event in events:
        if callable(event):
            event(idleness)
        else:
            clock.advance(event)
    assert idleness.is_known is is_known


@dataclass
class Instance:
    """An instance that has just started, and a session that looks idle to it."""

    durable: DurableStore
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.idleness = Idleness(clock=self.clock, settle_time=SETTLE_TIME)
        self.validator = Validator(
            FakeLookup(self.durable),
            rules=RulesInForce(Rules(ring=RING)),
            clock=self.clock,
            deadline=3600.0,
            require_idle_known=self.idleness.require_known,
        )
        self.operations = self.build_operations()

    def build_operations(self) -> Operations:
        return build_operations(
            self.durable,
            Rules(ring=RING),
            clock=self.clock,
            events=self,
            require_idle_known=self.idleness.require_known,
        )

    async def create_idle(self) -> tuple[Token, Session]:
        issued = await self.operations.sessions.create(NewSession("ada", TESTER), key=KEY)
        self.clock.advance(HOUR)
        return issued.token, issued.record.session

    def end_outage(self) -> None:
        self.idleness.record_round(True)
        self.clock.advance(SETTLE_TIME)

    def created(self, _: Session) -> None: ...

    def ended(self, _: Session, __: str) -> None: ...


@pytest.fixture
def instance(durable: DurableStore) -> Instance:
    return Instance(durable)


async def touch(instance: Instance, _: Token, session: Session) -> object:
    return await instance.operations.sessions.touch(session.id)


async def create_again(instance: Instance, _: Token, __: Session) -> object:
    return await instance.operations.sessions.create(NewSession("ada", TESTER), key=KEY)


async def migrate(instance: Instance, _: Token, session: Session) -> object:
    return await instance.operations.rotation.migrate(session.id, by=TESTER, provider="idp")


async def refresh(instance: Instance, token: Token, _: Session) -> object:
    refreshed = await instance.operations.rotation.refresh(token.text, by=TESTER)
    if isinstance(refreshed, Deny):
        raise SessionEnded(refreshed.reason)
    return refreshed


Operation = Callable[[Instance, Token, Session], Awaitable[object]]
OPERATIONS: Final[tuple[Operation, ...]] = (touch, create_again, migrate, refresh)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_operation_on_a_session_that_may_only_look_idle_is_unavailable(
    instance: Instance, operation: Operation
) -> None:
    token, session = await instance.create_idle()
    with pytest.raises(StoreUnavailable, match="activity"):
        await operation(instance, token, session)
    instance.end_outage()
    with pytest.raises(SessionEnded):
        await operation(instance, token, session)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_revoked_session_has_ended_whatever_is_known_of_its_activity(
    instance: Instance, operation: Operation
) -> None:
    token, session = await instance.create_idle()
    await instance.durable.revoke_where(
        Condition(session_id=session.id),
        at=instance.clock.now(),
        by=Actor("tests"),
        reason="lost",
        limit=1,
    )
    with pytest.raises(SessionEnded):
        await operation(instance, token, session)


async def test_check_of_a_session_that_may_only_look_idle_is_unavailable(
    instance: Instance,
) -> None:
    token, _ = await instance.create_idle()
    assert await instance.validator.validate(token.text) == Unavailable("activity")
    instance.end_outage()
    assert await instance.validator.validate(token.text) == Deny(Reason.IDLE)


async def test_expired_and_unknown_sessions_are_denied_while_idleness_is_not_known(
    instance: Instance,
) -> None:
    token, _ = await instance.create_idle()
    instance.clock.advance(12 * HOUR)
    unknown = RING.mint(SessionType.WEB)
    assert await instance.validator.validate(token.text) == Deny(Reason.EXPIRED)
    assert await instance.validator.validate(unknown.text) == Deny(Reason.UNKNOWN)
