"""The table: number, name, how it happens, and what is expected while it does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults import on_both, on_clients, on_instances, on_postgres, on_redis, on_redis_replies
from tests.faults.rules import Rules
from tests.faults.stage import Episode, Stage

_HEALTHY: Final = Rules().healthy
_LOST: Final = 5.0  # what a revocation may take while a store or the feed is lost


@dataclass(frozen=True, slots=True)
class Fault:
    """One row. Shares are of valid tokens, times in seconds; None: nothing is expected of it.

    `twice_base` expects the 99th percentile to be no more than twice what it was just before.
    `without_cold` leaves out who has to be asked for in Postgres. `only_other` counts what was
    asked of the instance that is not hurt. `starving`: see history.Mark. `quick`: part of a quick
    run.
    """

    number: int
    name: str
    episodes: tuple[tuple[str, Episode], ...]
    valid: float | None = None
    p99: float | None = None
    recovery: float | None = None
    bound: float = _LOST
    twice_base: bool = False
    without_cold: bool = False
    only_other: bool = False
    starving: bool = False
    quick: bool = False


def _one(episode: Episode) -> tuple[tuple[str, Episode], ...]:
    return (("", episode),)


def _random_mix(stage: Stage) -> float:
    return stage.minutes * 60


_MIX: Final[Sequence[Sequence[Episode]]] = (
    (
        on_redis.killed,
        on_redis.frozen,
        on_redis.slow(0.1),
        on_redis.resetting,
        on_redis.black_hole,
        on_redis.strays,
        on_redis.flushed,
        on_redis.unsubscribed,
    ),
    (
        on_postgres.stopped,
        on_postgres.frozen,
        on_postgres.black_hole,
        on_postgres.cut_after_commit,
    ),
    (on_instances.killed, on_instances.stopped, on_instances.blocked, on_clients.leaving),
)

FAULTS: Final[tuple[Fault, ...]] = (
    Fault(1, "none", _one(on_instances.none), valid=1.0, p99=0.010, bound=_HEALTHY),
    Fault(
        2,
        "kill -9 of one of two instances",
        _one(on_instances.killed),
        valid=0.999,
        p99=0.025,
        recovery=3.0,
        quick=True,
    ),
    Fault(
        3,
        "SIGTERM, rolling restart of both",
        _one(on_instances.rolled),
        valid=1.0,
        p99=0.025,
        recovery=0.0,
    ),
    Fault(
        4,
        "SIGSTOP of an instance for 10 s",
        _one(on_instances.stopped),
        valid=1.0,
        p99=0.025,
        recovery=1.0,
        only_other=True,
    ),
    Fault(
        5,
        "kill -9 of Redis, back empty",
        _one(on_redis.killed),
        valid=0.999,
        p99=0.090,
        recovery=2.0,
        quick=True,
    ),
    Fault(
        6,
        "kill -9 of Redis, back with a snapshot from before revocations",
        _one(on_redis.resurrected),
        valid=0.999,
        p99=0.090,
        recovery=2.0,
        quick=True,
    ),
    Fault(
        7,
        "SIGSTOP of Redis",
        _one(on_redis.frozen),
        valid=0.995,
        p99=0.150,
        recovery=1.0,
        quick=True,
    ),
    Fault(
        8,
        "Redis 100 ms, then 1 s slower",
        (("100 ms", on_redis.slow(0.1)), ("1 s", on_redis.slow(1.0))),
        valid=0.995,
        p99=0.150,
        recovery=1.0,
    ),
    Fault(
        9,
        "Redis resets at each 50th reply",
        _one(on_redis.resetting),
        valid=0.999,
        p99=0.090,
        recovery=1.0,
    ),
    Fault(
        10,
        "Redis byte by byte, 5 KB/s",
        _one(on_redis.sliced),
        valid=0.995,
        p99=0.150,
        recovery=1.0,
    ),
    Fault(
        11,
        "Redis in a black hole",
        _one(on_redis.black_hole),
        valid=0.995,
        p99=0.150,
        recovery=2.0,
    ),
    Fault(
        12,
        "stray and doubled replies of Redis",
        _one(on_redis.strays),
        valid=0.999,
        p99=0.090,
        recovery=1.0,
        quick=True,
    ),
    Fault(
        13,
        "Redis failover that loses acknowledged writes",
        _one(on_redis_replies.failed_over),
        p99=0.090,
        recovery=5.0,
    ),
    Fault(14, "Redis refuses", on_redis_replies.REFUSALS, valid=0.995, p99=0.150, recovery=1.0),
    Fault(
        15,
        "FLUSHALL at full load",
        _one(on_redis.flushed),
        valid=0.999,
        p99=0.120,
        recovery=5.0,
    ),
    Fault(16, "eviction storm in Redis", _one(on_redis.evicting), valid=0.999, p99=0.120),
    Fault(
        17,
        "feed connections killed each second",
        _one(on_redis.unsubscribed),
        valid=1.0,
        p99=0.015,
        recovery=1.0,
        quick=True,
    ),
    Fault(
        18,
        "Postgres stopped at once",
        _one(on_postgres.stopped_while_redis_is_well),
        valid=1.0,
        p99=0.150,
        recovery=3.0,
        without_cold=True,
        quick=True,
    ),
    Fault(
        19,
        "Postgres frozen",
        _one(on_postgres.frozen),
        valid=1.0,
        p99=0.150,
        recovery=1.0,
        without_cold=True,
    ),
    Fault(
        20,
        "Postgres in a black hole",
        _one(on_postgres.black_hole),
        valid=1.0,
        p99=0.150,
        recovery=2.0,
        without_cold=True,
    ),
    Fault(21, "link cut just after COMMIT", _one(on_postgres.cut_after_commit)),
    Fault(
        22,
        "max_connections of Postgres used up",
        _one(on_postgres.used_up),
        valid=0.995,
        p99=0.150,
        recovery=1.0,
    ),
    Fault(
        23,
        "LOCK TABLE for 10 s",
        _one(on_postgres.locked),
        valid=1.0,
        p99=0.150,
        recovery=1.0,
        without_cold=True,
    ),
    Fault(
        24,
        "Postgres read-only, then its disk full",
        (("read-only", on_postgres.read_only), ("disk full", on_postgres.disk_full)),
        valid=1.0,
        p99=0.150,
        recovery=3.0,
    ),
    Fault(25, "both stores down", _one(on_both.both_down), p99=0.150, recovery=3.0, quick=True),
    Fault(
        26,
        "revocations while stores go and come, in six orders",
        tuple(
            (", ".join(step.name for step in order), on_both.in_order(order))
            for order in on_both.ORDERS
        ),
        recovery=5.0,
        quick=True,
    ),
    Fault(
        27,
        "clock of one instance an hour ahead, then an hour behind",
        (("+1 h", on_instances.skewed(3600.0)), ("-1 h", on_instances.skewed(-3600.0))),
    ),
    Fault(
        28,
        "random well-formed tokens, three times all other checks",
        _one(on_clients.flooded),
        valid=0.999,
        twice_base=True,
        recovery=1.0,
        bound=_HEALTHY,
        quick=True,
    ),
    Fault(
        29,
        "500 slow and 1,000 idle connections, few descriptors",
        _one(on_clients.crowded),
        valid=0.999,
        twice_base=True,
        recovery=1.0,
    ),
    Fault(
        30,
        "three in ten clients leave",
        _one(on_clients.leaving),
        valid=1.0,
        p99=0.015,
        bound=_HEALTHY,
        quick=True,
    ),
    Fault(
        31,
        "CPU starved by two busy loops",
        _one(on_instances.starved),
        valid=0.99,
        p99=0.200,
        recovery=1.0,
        starving=True,
    ),
    Fault(
        32,
        "event loop of an instance blocked for 2 s",
        _one(on_instances.blocked),
        recovery=3.0,
        only_other=True,
    ),
    Fault(33, "random mix", _one(on_both.mixed(_MIX, _random_mix)), recovery=10.0),
)
