"""Whether instances report that the database was restored, with a log event and elsewhere."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, Self

from tests.faults.client import ConnectionBroken
from tests.faults.context import FaultContext
from tests.faults.gateway import Upstream
from tests.faults.history import now
from tests.faults.resources import Counters, fetch_counters
from tests.faults.rules import Violation

_EVENT: Final = "database restored"
_METRIC: Final = "sidegate_database_restores_total"
_READINESS_LINE: Final = b"restored"
_TIMEOUT: Final = 10.0
_POLL_INTERVAL: Final = 0.5

# The instances know the time of the last change that is certainly not lost: a bit earlier.
_TOLERANCE: Final = timedelta(seconds=10)


class RestoreReports:
    """What the instances reported before, so that `expect` finds what is new."""

    def __init__(self, context: FaultContext, counters: Counters) -> None:
        self._context = context
        self._counters = counters
        self._log_sizes = {upstream.name: len(_log(upstream)) for upstream in self._upstreams}

    @classmethod
    async def begin(cls, context: FaultContext) -> Self:
        """Read what was reported until now."""
        return cls(context, await context.fetch_counters())

    async def expect(self, *, since: datetime) -> None:
        """Report a violation of I5 unless an instance reports what was lost, changes after `since`.

        One is enough: another instance may find Redis in order already. It is logged again if it
        goes back further.
        """
        deadline = now() + _TIMEOUT
        while problems := await self._find_problems():
            if now() > deadline:
                break
            await asyncio.sleep(_POLL_INTERVAL)
        for problem in problems:
            self._violate(f"the database was restored, but {problem}")
        stated = [datetime.fromisoformat(event["restored_since"]) for event in self._new_events()]
        if stated and not since - _TOLERANCE <= min(stated) <= since + timedelta(seconds=1):
            self._violate(f"restored_since is {min(stated)}, but the backup is of {since}")

    async def expect_none(self) -> None:
        """Report a violation of I5 if a restore was reported: nothing was lost."""
        if list(self._new_events()) or await self._counted():
            self._violate("a restore was reported, but no change was lost")

    async def _find_problems(self) -> list[str]:
        problems = []
        if not list(self._new_events()):
            problems.append("no instance logged it")
        if not await self._counted():
            problems.append("no instance counted it")
        if not await self._is_in_readiness():
            problems.append("/readyz?verbose of no instance shows it")
        return problems

    async def _counted(self) -> float:
        after = await fetch_counters(self._upstreams)
        return after.increase(self._counters, _METRIC)

    async def _is_in_readiness(self) -> bool:
        for upstream in self._upstreams:
            with suppress(ConnectionBroken, TimeoutError):
                response = await upstream.get("/readyz?verbose", timeout=1.0)
                if _READINESS_LINE in response.body:
                    return True
        return False

    def _new_events(self) -> Iterator[Mapping[str, Any]]:
        for upstream in self._upstreams:
            for line in _log(upstream)[self._log_sizes[upstream.name] :].splitlines():
                if _EVENT in line:
                    event = json.loads(line)
                    if event["event"] == _EVENT:
                        yield event

    def _violate(self, message: str) -> None:
        self._context.violations.append(Violation("I5", message, now()))

    @property
    def _upstreams(self) -> Sequence[Upstream]:
        return self._context.load.gateway.upstreams


def _log(upstream: Upstream) -> str:
    return upstream.sidegate.server.log
