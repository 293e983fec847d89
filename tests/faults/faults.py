"""The table of faults: number, name, episodes, and expected results."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from tests.faults.context import Episode, FaultContext
from tests.faults.episodes import (
    certificates,
    clients,
    combined,
    command_line,
    database_restore,
    idle_sessions,
    instances,
    late_touch,
    mass_revocation,
    postgres,
    redis,
    redis_copies,
    redis_replies,
    role_defaults,
    rotation_chains,
    row_lock,
    unread_log,
)
from tests.faults.rules import Rules

_NORMAL_BOUND: Final = Rules().normal_bound
_DEGRADED_BOUND: Final = 5.0  # while a store or the feed is unavailable


@dataclass(frozen=True, slots=True)
class Fault:
    """One row. Shares are of valid tokens, times in seconds; None: no expectation.

    `twice_baseline` expects a 99th percentile of at most twice the one before the fault.
    `exclude_cold` excludes sessions that have to be looked up in Postgres. `only_other_instance`
    counts only the requests to the instance without the fault. `cpu_starved`: see FaultPeriod.
    `quick`: part of a quick run, with only `quick_episodes` if they are given.
    """

    number: int
    name: str
    episodes: tuple[tuple[str, Episode], ...]
    valid: float | None = None
    p99: float | None = None
    recovery: float | None = None
    bound: float = _DEGRADED_BOUND
    twice_baseline: bool = False
    exclude_cold: bool = False
    only_other_instance: bool = False
    cpu_starved: bool = False
    quick: bool = False
    quick_episodes: tuple[str, ...] | None = None

    def only(self, names: Collection[str] | None) -> Self:
        """Return the fault with these episodes only; None: with all of them."""
        if names is None:
            return self
        return replace(self, episodes=tuple(each for each in self.episodes if each[0] in names))


def _single(episode: Episode) -> tuple[tuple[str, Episode], ...]:
    return (("", episode),)


def _random_mix(context: FaultContext) -> float:
    return context.minutes * 60


_MIX: Final[Sequence[Sequence[Episode]]] = (
    (
        redis.kill,
        redis.freeze,
        redis.delay_replies(0.1),
        redis.reset_connections,
        redis.drop_traffic,
        redis.inject_strays,
        redis.flush,
        redis.kill_pubsub,
    ),
    (
        postgres.stop,
        postgres.freeze,
        postgres.drop_traffic,
        postgres.cut_after_commit,
    ),
    (instances.kill, instances.pause, instances.block_event_loop, clients.abort_requests),
)

FAULTS: Final[tuple[Fault, ...]] = (
    Fault(1, "none", _single(instances.do_nothing), valid=1.0, p99=0.010, bound=_NORMAL_BOUND),
    Fault(
        2,
        "kill -9 of one of two instances",
        _single(instances.kill),
        valid=0.999,
        p99=0.025,
        recovery=3.0,
        quick=True,
    ),
    Fault(
        3,
        "SIGTERM, rolling restart of both",
        _single(instances.restart_rolling),
        valid=1.0,
        p99=0.025,
        recovery=0.0,
    ),
    Fault(
        4,
        "SIGSTOP of an instance for 10 s",
        _single(instances.pause),
        valid=1.0,
        p99=0.025,
        recovery=1.0,
        only_other_instance=True,
    ),
    Fault(
        5,
        "kill -9 of Redis, back empty",
        _single(redis.kill),
        valid=0.999,
        p99=0.090,
        recovery=2.0,
        quick=True,
    ),
    Fault(
        6,
        "kill -9 of Redis, back with a snapshot from before revocations",
        _single(redis.restore_old_snapshot),
        valid=0.999,
        p99=0.090,
        recovery=2.0,
        quick=True,
    ),
    Fault(
        7,
        "SIGSTOP of Redis",
        _single(redis.freeze),
        valid=0.995,
        p99=0.150,
        recovery=1.0,
        quick=True,
    ),
    Fault(
        8,
        "Redis 100 ms, then 1 s slower",
        (("100 ms", redis.delay_replies(0.1)), ("1 s", redis.delay_replies(1.0))),
        valid=0.995,
        p99=0.150,
        recovery=1.0,
    ),
    Fault(
        9,
        "Redis resets at each 50th reply",
        _single(redis.reset_connections),
        valid=0.999,
        p99=0.090,
        recovery=1.0,
    ),
    Fault(
        10,
        "Redis byte by byte, 5 KB/s",
        _single(redis.slice_replies),
        valid=0.995,
        p99=0.150,
        recovery=1.0,
    ),
    Fault(
        11,
        "Redis in a black hole",
        _single(redis.drop_traffic),
        valid=0.995,
        p99=0.150,
        recovery=2.0,
    ),
    Fault(
        12,
        "stray and doubled replies of Redis",
        _single(redis.inject_strays),
        valid=0.999,
        p99=0.090,
        recovery=1.0,
        quick=True,
    ),
    Fault(
        13,
        "Redis failover that loses acknowledged writes",
        _single(redis_replies.fail_over),
        p99=0.090,
        recovery=5.0,
    ),
    Fault(
        14, "error replies of Redis", redis_replies.REFUSALS, valid=0.995, p99=0.150, recovery=1.0
    ),
    Fault(
        15,
        "FLUSHALL at full load",
        _single(redis.flush),
        valid=0.999,
        p99=0.120,
        recovery=5.0,
    ),
    Fault(16, "eviction storm in Redis", _single(redis.fill_memory), valid=0.999, p99=0.120),
    Fault(
        17,
        "feed connections killed each second",
        _single(redis.kill_pubsub),
        valid=1.0,
        p99=0.015,
        recovery=1.0,
        quick=True,
    ),
    Fault(
        18,
        "immediate stop of Postgres",
        _single(postgres.stop_and_inspect_pending),
        valid=1.0,
        p99=0.150,
        recovery=3.0,
        exclude_cold=True,
    ),
    Fault(
        19,
        "Postgres frozen",
        _single(postgres.freeze),
        valid=1.0,
        p99=0.150,
        recovery=1.0,
        exclude_cold=True,
    ),
    Fault(
        20,
        "Postgres in a black hole",
        _single(postgres.drop_traffic),
        valid=1.0,
        p99=0.150,
        recovery=2.0,
        exclude_cold=True,
    ),
    Fault(21, "connection cut just after COMMIT", _single(postgres.cut_after_commit)),
    Fault(
        22,
        "max_connections of Postgres exhausted",
        _single(postgres.exhaust_connections),
        valid=0.995,
        p99=0.150,
        recovery=1.0,
    ),
    Fault(
        23,
        "LOCK TABLE for 10 s",
        _single(postgres.lock_table),
        valid=1.0,
        p99=0.150,
        recovery=1.0,
        exclude_cold=True,
    ),
    Fault(
        24,
        "Postgres read-only, then its disk full",
        (("read-only", postgres.make_read_only), ("disk full", postgres.fill_disk)),
        valid=1.0,
        p99=0.150,
        recovery=3.0,
    ),
    Fault(25, "both stores down", _single(combined.stop_both), p99=0.150, recovery=3.0, quick=True),
    Fault(
        26,
        "revocations while stores fail and recover, in six orders",
        tuple((combined.name(order), combined.run_steps(order)) for order in combined.ORDERS),
        recovery=5.0,
        quick=True,
        quick_episodes=tuple(map(combined.name, combined.QUICK_ORDERS)),
    ),
    Fault(
        27,
        "clock of one instance an hour ahead, then an hour behind",
        (("+1 h", instances.skew_clock(3600.0)), ("-1 h", instances.skew_clock(-3600.0))),
    ),
    Fault(
        28,
        "random well-formed tokens, three times all other checks",
        _single(clients.flood),
        valid=0.999,
        twice_baseline=True,
        recovery=1.0,
        bound=_NORMAL_BOUND,
        quick=True,
    ),
    Fault(
        29,
        "500 slow and 1,000 idle connections, few descriptors",
        _single(clients.exhaust_descriptors),
        valid=0.999,
        twice_baseline=True,
        recovery=1.0,
    ),
    Fault(
        30,
        "three in ten clients disconnect",
        _single(clients.abort_requests),
        valid=1.0,
        p99=0.015,
        bound=_NORMAL_BOUND,
        quick=True,
    ),
    Fault(
        31,
        "CPU starved by two busy loops",
        _single(instances.starve_cpu),
        valid=0.99,
        p99=0.200,
        recovery=1.0,
        cpu_starved=True,
    ),
    Fault(
        32,
        "event loop of an instance blocked for 2 s",
        _single(instances.block_event_loop),
        recovery=3.0,
        only_other_instance=True,
    ),
    Fault(33, "random mix", _single(combined.mix_random(_MIX, _random_mix)), recovery=10.0),
    Fault(
        34,
        "another Redis behind the same address, and back",
        (
            ("all connections", redis_copies.swap_all_connections),
            ("only new ones", redis_copies.swap_new_connections),
            ("one instance", redis_copies.swap_at_one_instance),
        ),
        valid=0.995,
        p99=0.150,
        recovery=5.0,
        quick=True,
        quick_episodes=("only new ones",),
    ),
    Fault(
        35,
        "REPLICAOF an old copy, then NO ONE",
        _single(redis_copies.load_old_copy),
        p99=0.150,
        recovery=5.0,
    ),
    Fault(
        36,
        "database restored from a base backup",
        (
            ("instances stopped", database_restore.restore_while_stopped),
            ("instances running", database_restore.restore_while_running),
        ),
        p99=0.150,
        recovery=5.0,
        quick=True,
        quick_episodes=("instances running",),
    ),
    Fault(
        37,
        "200,000 sessions revoked at once, an instance cut off",
        _single(mass_revocation.revoke_while_cut_off),
        p99=0.150,
        recovery=5.0,
    ),
    Fault(
        38,
        "rows locked for 12 s under refreshes, a revocation, a migration",
        _single(row_lock.lock_rows),
        valid=1.0,
        recovery=1.0,
    ),
    Fault(39, "defaults of the database role", role_defaults.EPISODES, recovery=3.0),
    Fault(
        40,
        "command line without Redis, with a wrong clock",
        command_line.EPISODES,
        recovery=5.0,
    ),
    Fault(
        41,
        "publishing of a rotation lost, then the session ended",
        rotation_chains.LOSSES,
        recovery=5.0,
        quick=True,
        quick_episodes=("link cut",),
    ),
    Fault(
        42,
        "replies to touches 4 s late, Redis emptied meanwhile",
        _single(late_touch.delay_touches),
        recovery=5.0,
    ),
    Fault(
        43,
        "20 s without Postgres, sessions in use at one instance, then at the other",
        _single(idle_sessions.use_without_database),
        recovery=3.0,
    ),
    Fault(
        44,
        "log not read; disk of the log full",
        unread_log.EPISODES,
        valid=1.0,
        p99=0.015,
        bound=_NORMAL_BOUND,
        quick=True,
        quick_episodes=("disk full",),
    ),
    Fault(
        45,
        "60 clients asking, 3,000 idle ones at ops and admin",
        _single(clients.crowd_other_listeners),
        valid=0.999,
        twice_baseline=True,
        recovery=1.0,
        bound=_NORMAL_BOUND,
    ),
    Fault(
        46,
        "log-ins at ten times the usual rate",
        _single(clients.burst_logins),
        valid=0.999,
        twice_baseline=True,
        recovery=3.0,
        bound=_NORMAL_BOUND,
    ),
    Fault(
        47,
        "Postgres failover that loses commits, then one that loses none",
        (
            ("a replica that lacks commits", database_restore.promote_old_replica),
            ("a synchronous replica", database_restore.promote_synchronous_replica),
        ),
        p99=0.150,
        recovery=5.0,
    ),
    Fault(
        48,
        "certificate of a store expired, then another CA",
        _single(certificates.replace_certificates),
        p99=0.150,
        recovery=5.0,
    ),
)
