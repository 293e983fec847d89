"""Builds with an injected bug, each of a kind that was found in the product once.

The simulation has to find each of them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from unittest.mock import patch

from sidegate.core.change_log import ChangedSession
from sidegate.core.clock import SharedClock
from sidegate.core.seal import Seal
from sidegate.services import activity
from sidegate.services.clock_sync import ClockSync
from sidegate.services.database_restore import DatabaseRestore
from sidegate.services.idleness import Idleness
from sidegate.services.rotation import Rotation
from sidegate.services.validator import Validator
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.memory import MemoryStore
from sidegate.stores.redis.sealed_servers import RedisSealedServer
from sidegate.stores.redis.store import RedisStore
from sidegate.stores.sql import change_rows
from tests.faults import broken_builds as rig
from tests.simulation import database
from tests.simulation.event_loop import current_process

# What the injections change; it is put back afterwards.
_PATCHED: Final = (
    ChangedSession,
    ClockSync,
    DatabaseRestore,
    Idleness,
    MemoryStore,
    RedisSealedServer,
    RedisStore,
    RedisTrust,
    Rotation,
    Validator,
    activity.ActivityRecorder,
)


@dataclass(frozen=True, slots=True)
class Build:
    """`invariants`: one of them is violated. `seed` has shown it, as `THEME:NUMBER`."""

    inject: Callable[[], None]
    invariants: frozenset[str]
    seed: str

    def list_seeds(self, number: int) -> list[str]:
        """Return so many seeds about the same, the known one first.

        A change of the product changes the order of events, and with it what a seed shows.
        """
        theme, _, _ = self.seed.rpartition(":")
        others = (f"{theme}:{each}" for each in range(number))
        return [self.seed, *(seed for seed in others if seed != self.seed)][:number]

    @contextmanager
    def injected(self) -> Iterator[None]:
        before = {kind: dict(vars(kind)) for kind in _PATCHED}
        with patch.object(database, "is_lost", change_rows.is_lost):
            self.inject()
            try:
                yield
            finally:
                for kind, attributes in before.items():
                    _put_back(kind, attributes)


def _put_back(kind: type, attributes: Mapping[str, Any]) -> None:
    for name, value in dict(vars(kind)).items():
        if name not in attributes:
            delattr(kind, name)
        elif attributes[name] is not value:
            setattr(kind, name, attributes[name])


def _ignore_seal_order() -> None:
    """A seal of a verified namespace is approved, though it is older than the last round's."""

    def is_verified(self: RedisTrust, seal: Seal) -> bool:
        return seal.namespace in self.verified

    RedisTrust._is_verified = is_verified  # type: ignore[method-assign]  # noqa: SLF001


def _ignore_lost_marks() -> None:
    """Whether the database still knows a mark is not checked."""

    def never(*_: Any) -> bool:
        return False

    setattr(database, "is_lost", never)  # noqa: B010  # mypy rejects the assignment


def _take_machine_time() -> None:
    """A command takes the time of its machine, which is ahead."""
    sync = ClockSync.sync_or_use_reference

    async def take_time(self: ClockSync, **how: Any) -> None:
        await sync(self, **how)
        if current_process().name == "command":
            clock: SharedClock = self._clock
            machine: Any = clock.monotonic
            now = clock.monotonic()
            clock.set_time(machine.__self__.now(), between=(now, now))

    ClockSync.sync_or_use_reference = take_time  # type: ignore[method-assign]


def _touch_seldom() -> None:
    """Activity is written as seldom as sessions become idle."""

    def on_allowed(self: activity.ActivityRecorder, session: Any, at: Any) -> None:
        overdue = at - session.last_seen_at
        if session.idle_timeout is None or overdue >= session.idle_timeout * 0.9:
            record(self, session, at)

    record = activity.ActivityRecorder.on_allowed
    activity.ActivityRecorder.on_allowed = on_allowed  # type: ignore[method-assign]


def _from_rig(name: str) -> Callable[[], None]:
    return rig.BUILDS[name].inject


_I1: Final = frozenset({"I1", "I5", "I6"})
_I2: Final = frozenset({"I2", "I5", "I6"})

BUILDS: Final[Mapping[str, Build]] = MappingProxyType(
    {
        # Trust in Redis
        "forget-digests": Build(_from_rig("forget-digests"), _I1, "database_slow:0"),
        "read-unsealed": Build(_from_rig("read-unsealed"), _I1, "redis_other_server:12"),
        "ignore-seal-order": Build(_ignore_seal_order, _I1, "redis_replica_of_old:5"),
        "ignore-lost-marks": Build(_ignore_lost_marks, _I1, "database_restore:0"),
        "skip-changes": Build(_from_rig("skip-changes"), _I1, "redis_restart:0"),
        "fill-unsealed": Build(_from_rig("fill-unsealed"), _I1, "database_late_touches:19"),
        # Promises
        "machine-time": Build(_take_machine_time, _I1, "redis_cut:0"),
        "forget-outages": Build(_from_rig("forget-outages"), _I2, "idleness:1"),
        "touch-seldom": Build(_touch_seldom, _I2, "idleness:0"),
        "end-unseen": Build(_from_rig("end-unseen"), _I2, "database_loses_replies:0"),
        # As coarse as can be
        "ignore-tombstones": Build(_from_rig("ignore-tombstones"), _I1, "redis_slow:0"),
        "cache-decision": Build(_from_rig("cache-decision"), _I1, "redis_slow:0"),
    }
)
