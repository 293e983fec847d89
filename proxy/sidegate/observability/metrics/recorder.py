"""The numbers behind the metrics, and the methods that change them."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Protocol

from sidegate.core.analytics import Report
from sidegate.core.session import Session
from sidegate.observability.metrics.histogram import Histogram

Labels = tuple[str, ...]
"""The values of the labels of one series, in the order of table.py."""

Counts = dict[Labels, int]

FastChecks = dict[str, dict[tuple[str, str], int]]
"""By gateway, result and reason."""


class MemoryStats(Protocol):
    """The memory cache, which counts its own hits and misses."""

    hits: int
    misses: int

    @property
    def size_bytes(self) -> int: ...

    def __len__(self) -> int: ...


class RuleChecks:
    """The checks to which some access rules apply, counted for their gateways, too."""

    def __init__(self, metrics: "Metrics") -> None:
        self.slow: dict[tuple[str, str], int] = defaultdict(int)
        self.fast: FastChecks = defaultdict(lambda: defaultdict(int))
        self._metrics = metrics

    def record_check(self, gateway: str, result: str, *, reason: str, seconds: float) -> None:
        """As Metrics does."""
        self.slow[result, reason] += 1
        self._metrics.record_check(gateway, result, reason=reason, seconds=seconds)

    def fast_check_counts(self, gateway: str) -> dict[tuple[str, str], int]:
        """As Metrics does."""
        return self.fast[gateway]


class Metrics:
    """The counters and gauges of one process. Only table.py reads the attributes."""

    def __init__(self, *, version: str, revocation_bound: float) -> None:
        """`revocation_bound` is the maximum delay of a revocation in seconds, even in an outage."""
        self.version = version
        self.revocation_bound = revocation_bound
        self.checks: Counts = defaultdict(int)
        self.fast_checks: FastChecks = defaultdict(lambda: defaultdict(int))
        self.rule_checks: dict[tuple[str, ...], RuleChecks] = {}
        self.shadow_checks: Counts = defaultdict(int)
        self.check_seconds: dict[Labels, Histogram] = defaultdict(Histogram)
        self.lookup_seconds: dict[Labels, Histogram] = defaultdict(Histogram)
        self.sessions_created: Counts = defaultdict(int)
        self.sessions_ended: Counts = defaultdict(int)
        self.refreshes: Counts = defaultdict(int)
        self.touches: Counts = defaultdict(int)
        self.cleanups: Counts = defaultdict(int)
        self.audit_events: Counts = defaultdict(int)
        self.samples: Counts = defaultdict(int)
        self.report: Report | None = None
        self.locks: Counts = defaultdict(int)
        self.binding_mismatches: Counts = defaultdict(int)
        self.binding_revocations: Counts = defaultdict(int)
        self.deferred_revocations: Counts = defaultdict(int)
        self.unreadable_records: Counts = defaultdict(int)
        self.bad_requests: Counts = defaultdict(int)
        self.admin_requests: Counts = defaultdict(int)
        self.logouts: Counts = defaultdict(int)
        self.pings: dict[str, bool] = {}  # whether each store answered the last one
        self.feed_up: dict[Labels, float] = {}
        self.feed_gaps: Counts = defaultdict(int)
        self.feed_lag: dict[Labels, float] = {}
        self.redis_invalidations: Counts = defaultdict(int)
        self.redis_seals: Counts = defaultdict(int)
        self.database_restores = 0
        self.untrusted_peers = 0
        self.connections_over_limit: Counts = defaultdict(int)
        self.background_task_failures: Counts = defaultdict(int)
        self.reload_successful = False
        self.reloaded_at = 0.0
        # Read at a scrape:
        self.breakers: dict[str, Callable[[], str]] = {}
        self.round_trips: dict[str, Callable[[], int]] = {}
        self.redis_trusted: Callable[[], bool] | None = None
        self.redis_verified_age: Callable[[], float] | None = None
        self.memory: MemoryStats | None = None
        self.connections: Callable[[], Mapping[str, int]] = dict
        self.pending: Callable[[], int] = lambda: 0
        self.draining: Callable[[], bool] = lambda: False
        self.dropped_log_lines: Callable[[], Mapping[str, int]] = dict

    # Counters and gauges that are set as things happen

    def record_check(self, gateway: str, result: str, *, reason: str, seconds: float) -> None:
        """Count a check and its duration. The three labels come from short fixed lists."""
        self.checks[gateway, result, reason] += 1
        self.check_seconds[(gateway,)].observe(seconds)

    def fast_check_counts(self, gateway: str) -> dict[tuple[str, str], int]:
        """Return the counters, by result and reason, of checks too fast to be measured."""
        return self.fast_checks[gateway]

    def count_by_rules(self, rules: tuple[str, ...]) -> RuleChecks:
        """Return the counters of the checks to which all of these access rules apply."""
        return self.rule_checks.setdefault(rules, RuleChecks(self))

    def count_shadow(self, rule: str, labels: tuple[str, str]) -> None:
        """Count what a rule that is not enforced would answer, by result and reason."""
        self.shadow_checks[(rule, *labels)] += 1

    def iter_fast_checks(self) -> Iterator[tuple[str, Mapping[tuple[str, str], int]]]:
        """Yield the counts of checks too fast to be measured; a gateway may have several."""
        yield from self.fast_checks.items()
        for checks in self.rule_checks.values():
            yield from checks.fast.items()

    def record_lookup(self, store: str, outcome: str, seconds: float) -> None:
        """Record a lookup in a store. `outcome` is hit, miss or error."""
        self.lookup_seconds[store, outcome].observe(seconds)

    def created(self, session: Session) -> None:
        self.sessions_created[(session.type,)] += 1

    def ended(self, session: Session, cause: str) -> None:
        """Count the end of a session. `cause` is a label and must come from a short fixed list."""
        self.sessions_ended[session.type, cause] += 1

    def count_refresh(self, outcome: str) -> None:
        """Count a refresh: rotated, repeated or refused."""
        self.refreshes[(outcome,)] += 1

    def count_touches(self, outcome: str, count: int) -> None:
        """Count updates of last_seen: written, failed or dropped."""
        self.touches[(outcome,)] += count

    def count_cleanups(self, outcome: str, count: int) -> None:
        """Count purged sessions, or failed attempts."""
        self.cleanups[(outcome,)] += count

    def count_audit_events(self, outcome: str, count: int) -> None:
        """Count audit events that were sealed or deleted, or failed rounds."""
        self.audit_events[(outcome,)] += count

    def count_sample(self, outcome: str) -> None:
        """Count a sample of all sessions: taken or failed."""
        self.samples[(outcome,)] += 1

    def set_report(self, report: Report) -> None:
        """Set the analytics of the last sample, of whichever instance."""
        self.report = report

    def count_lock(self, outcome: str) -> None:
        """Count an operation on a lock: acquired, contended, renewed, released or lost."""
        self.locks[(outcome,)] += 1

    def binding_mismatch(self, signal: str, policy: str) -> None:
        """Count a session presented by another client than it is bound to."""
        self.binding_mismatches[signal, policy] += 1

    def binding_revocation(self, outcome: str) -> None:
        """Count a revocation for a mismatch: revoked, pending, failed or dropped."""
        self.binding_revocations[(outcome,)] += 1

    def count_deferred_revocation(self, outcome: str) -> None:
        """Count a revocation without the database: accepted, written later, or dropped."""
        self.deferred_revocations[(outcome,)] += 1

    def count_unreadable_record(self, store: str) -> None:
        self.unreadable_records[(store,)] += 1

    def count_bad_request(self, listener: str) -> None:
        """Count a request that was not HTTP."""
        self.bad_requests[(listener,)] += 1

    def count_admin_request(self, route: str, method: str, status: int) -> None:
        """Count a request to the admin API. `route` is the template, never the requested path."""
        self.admin_requests[route, method, str(status)] += 1

    def count_logout(self, provider: str, outcome: str) -> None:
        """Count a back-channel logout of a configured provider."""
        self.logouts[provider, outcome] += 1

    def count_untrusted_peer(self) -> None:
        self.untrusted_peers += 1

    def count_refused_connection(self, listener: str = "gate") -> None:
        """Count a connection above a limit of its listener, answered 503."""
        self.connections_over_limit[listener, "refused"] += 1

    def count_evicted_connection(self, listener: str) -> None:
        """Count an idle connection that was closed for a new one, at a limit of its listener."""
        self.connections_over_limit[listener, "evicted"] += 1

    def count_background_task_failure(self, task: str, failures: int = 1) -> None:
        """Count failures of a background task; 0 failures export its series."""
        self.background_task_failures[(task,)] += failures

    def record_ping(self, store: str, answered: bool) -> None:
        self.pings[store] = answered

    def set_feed_up(self, feed: str, up: bool) -> None:
        self.feed_up[(feed,)] = float(up)

    def count_feed_gap(self, feed: str) -> None:
        self.feed_gaps[(feed,)] += 1

    def count_redis_invalidation(self, reason: str) -> None:
        """Count a loss of trust in Redis; the reason is one of a few fixed texts."""
        self.redis_invalidations[(reason,)] += 1

    def count_seal(self, change: str) -> None:
        """Count a seal that this process has moved or begun."""
        self.redis_seals[(change,)] += 1

    def count_database_restore(self) -> None:
        self.database_restores += 1

    def set_feed_lag(self, feed: str, seconds: float) -> None:
        """Set the seconds from publishing on a feed to receiving it."""
        self.feed_lag[(feed,)] = seconds

    def record_reload(self, at: datetime, *, successful: bool) -> None:
        """Record whether the settings read last were applied."""
        self.reload_successful = successful
        if successful:
            self.reloaded_at = at.timestamp()

    # Sources that are read at a scrape

    def watch_breaker(self, store: str, state: Callable[[], str]) -> None:
        self.breakers[store] = state

    def watch_round_trips(self, store: str, trips: Callable[[], int]) -> None:
        """`trips` returns the number of round trips for lookups to a store so far.

        All its series exist from now on: a rate needs a value from before the first outage.
        """
        for outcome in ("hit", "miss", "error"):
            _ = self.lookup_seconds[store, outcome]
        self.round_trips[store] = trips

    def watch_redis_trust(
        self, *, is_trusted: Callable[[], bool], age: Callable[[], float]
    ) -> None:
        """`age`: the seconds since the last complete round began."""
        self.redis_trusted = is_trusted
        self.redis_verified_age = age

    def watch_memory(self, memory: MemoryStats) -> None:
        self.memory = memory

    def watch_connections(self, connections: Callable[[], Mapping[str, int]]) -> None:
        """`connections` returns the number of open connections to the gate by HTTP path."""
        self.connections = connections

    def watch_pending(self, revocations: Callable[[], int]) -> None:
        self.pending = revocations

    def watch_draining(self, draining: Callable[[], bool]) -> None:
        self.draining = draining

    def watch_dropped_log_lines(self, lines: Callable[[], Mapping[str, int]]) -> None:
        """`lines` returns the number of log lines that were not written, by cause."""
        self.dropped_log_lines = lines
