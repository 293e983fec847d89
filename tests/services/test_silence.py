"""A session is not called idle at another instance before its idle timeout is over.

With the longest touch threshold and touch interval that the settings allow.
"""

from datetime import timedelta
from itertools import product
from types import MappingProxyType
from typing import Final

import pytest

from sidegate.core.judge import judge
from sidegate.core.lifetimes import Lifetimes
from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from sidegate.core.verdict import Allow
from sidegate.services.activity import ActivityRecorder
from sidegate.services.cache_filler import CacheFiller
from sidegate.services.rules import Rules, RulesInForce
from tests.contracts.values import build_record, build_session
from tests.support.clock import FakeClock
from tests.support.fakes import FakeCacheTrust, FakeMemory

IDLE_TIMEOUT: Final = timedelta(minutes=30)
STEP: Final = timedelta(seconds=30)
LIFETIMES: Final = Lifetimes(timedelta(hours=12), IDLE_TIMEOUT, touch_threshold=IDLE_TIMEOUT / 3)
FIRST_USES: Final = (0, 1, 7, 19, 20, 29, 30, 59)
PAUSES: Final = (1, 7, 19, 29)
COUNTS: Final = (1, 2, 5)
"""Steps from the creation to the first use, and between two uses; the number of uses."""


class Instance:
    """The instance at which a session is used, which writes at each `interval`."""

    def __init__(self, durable: DurableStore, *, interval: timedelta) -> None:
        self.clock = FakeClock()
        self.durable = durable
        self.memory = FakeMemory()
        self._interval = interval
        self._flushed_at = self.clock.now()
        self._recorder = ActivityRecorder(
            durable,
            filler=CacheFiller(
                self.memory, remote=None, trust=FakeCacheTrust({}), clock=self.clock
            ),
            rules=RulesInForce(
                Rules(
                    ring=KeyRing([TokenKey(1, bytes(32))]),
                    lifetimes=MappingProxyType(dict.fromkeys(SessionType, LIFETIMES)),
                )
            ),
            clock=self.clock,
            touch_memory=self._keep,
            count=lambda _, __: None,
        )

    def _keep(self, session: Session) -> None:
        self.memory.sessions[session.digest] = session

    def use(self, session: Session) -> None:
        copy = self.memory.sessions.get(session.digest, session)
        self._recorder.on_allowed(copy, self.clock.now())

    async def wait(self, steps: int) -> None:
        """Pass time. What is written at the end of it is not written yet."""
        for _ in range(steps):
            if self.clock.now() - self._flushed_at >= self._interval:
                self._flushed_at = self.clock.now()
                await self._recorder.flush()
            self.clock.advance(STEP)

    async def is_active_elsewhere(self, session: Session) -> bool:
        stored = await self.durable.find(session.digest)
        assert stored is not None
        return isinstance(judge(stored, self.clock.now()), Allow)


async def find_wrongly_idle(
    durable: DurableStore, *, interval: timedelta, silence: int
) -> list[tuple[int, int, int]]:
    """Return the uses after which a session looks idle at the end of the silence."""
    wrong = []
    for first, pause, count in product(FIRST_USES, PAUSES, COUNTS):
        instance, session = Instance(durable, interval=interval), build_session()
        await durable.create(build_record(session))
        await instance.wait(first)
        instance.use(session)
        for _ in range(count - 1):
            await instance.wait(pause)
            instance.use(session)
        await instance.wait(silence)
        if not await instance.is_active_elsewhere(session):
            wrong.append((first, pause, count))
    return wrong


@pytest.mark.parametrize("interval", [STEP, 2 * STEP, IDLE_TIMEOUT / 3])
@pytest.mark.parametrize("silence", [30, 31, 40, 59], ids=lambda steps: f"{steps / 60:.0%}")
async def test_silent_session_is_active_at_another_instance(
    durable: DurableStore, interval: timedelta, silence: int
) -> None:
    assert await find_wrongly_idle(durable, interval=interval, silence=silence) == []
