"""Statistics of a fault: shares, percentiles, recovery time."""

from math import inf

import pytest

from tests.faults.history import Entry, TokenCategory
from tests.faults.sample_entries import allowed, create, fault, refused, revoke, stall, unavailable
from tests.faults.stats import FaultStats, compute_stats, count_revocations, percentile

FAULT = fault(10.0, 20.0)


def stats_of(*history: Entry, only_instance: str | None = None) -> FaultStats:
    return compute_stats([create(0.0), FAULT, *history], [FAULT], only_instance=only_instance)


def test_share_counts_requests_during_the_fault() -> None:
    history = [allowed(9.0), allowed(11.0), unavailable(12.0), unavailable(25.0)]
    assert stats_of(*history).valid == 0.5


def test_failure_after_the_observation_is_no_slow_recovery() -> None:
    observed = fault(10.0, 20.0, observed_until=24.0)
    checks = [allowed(20.0 + second / 10) for second in range(40)]
    history = [create(0.0), observed, *checks, unavailable(24.5), unavailable(25.0)]
    assert compute_stats(history, [observed]).recovery == 0.0


def test_revocation_counts_for_the_episode_it_was_requested_in() -> None:
    first, second = fault(10.0, 20.0), fault(30.0, 40.0)
    history = [revoke(9.0), revoke(20.0), revoke(25.0)]
    assert count_revocations(first, history) == 1
    assert count_revocations(second, history) == 0


def test_share_without_requests_is_none() -> None:
    assert stats_of().valid is None


def test_ended_and_invalid_tokens_are_not_counted() -> None:
    history = [
        allowed(11.0),
        refused(12.0, TokenCategory.ENDED),
        refused(12.0, TokenCategory.FORGED),
    ]
    assert stats_of(*history).requests == 1


def test_session_being_revoked_is_not_counted() -> None:
    assert stats_of(allowed(11.0), revoke(12.0), unavailable(12.5)).valid == 1.0


def test_retry_counts_as_one_request_from_its_start() -> None:
    first = unavailable(11.0, status=0, retried=True)
    second = allowed(11.3, is_retry=True, requested_at=11.0, end=11.4)
    assert stats_of(first, second).valid == 1.0
    assert stats_of(first, second).p99 == pytest.approx(0.4)


def test_cold_sessions_are_excluded_while_postgres_is_unavailable() -> None:
    exclude_cold = fault(10.0, 20.0, exclude_cold=True)
    history = [create(0.0), exclude_cold, allowed(11.0), unavailable(12.0, TokenCategory.COLD)]
    assert compute_stats(history, [exclude_cold]).valid == 1.0


def test_session_evicted_from_redis_is_excluded_at_every_instance() -> None:
    exclude_cold = fault(10.0, 20.0, exclude_cold=True)
    history = [
        create(0.0),
        exclude_cold,
        allowed(11.0, TokenCategory.COLD),  # a hit in the memory of this instance
        unavailable(12.0, instance="other"),
    ]
    assert compute_stats(history, [exclude_cold]).requests == 0


def test_only_instance_counts_requests_that_went_there_first() -> None:
    history = [
        unavailable(11.0),
        allowed(12.0, instance="other"),
        unavailable(13.0, instance="other", is_retry=True),
    ]
    assert stats_of(*history, only_instance="other").valid == 1.0


def test_requests_during_a_long_cpu_wait_are_excluded() -> None:
    history = [
        allowed(11.0),
        unavailable(12.0),
        allowed(12.01, end=12.2),
        stall(12.0, 12.02, waited=0.015),
    ]
    found = stats_of(*history)
    assert (found.valid, found.excluded) == (1.0, 2)


def test_short_cpu_wait_or_wait_of_another_instance_excludes_nothing() -> None:
    history = [
        unavailable(12.0),
        stall(12.0, 12.02, waited=0.006),
        stall(12.0, 12.02, waited=0.5, process="other"),
    ]
    assert stats_of(*history).requests == 1


def test_recovery_tolerates_single_failures() -> None:
    fine = [allowed(20.0 + number / 100) for number in range(1000)]
    assert stats_of(*fine).recovery == 0.0
    assert stats_of(*fine, unavailable(21.0), unavailable(22.5)).recovery == 0.0
    failures = [unavailable(21.0 + number / 100) for number in range(50)]
    assert stats_of(*fine, *failures).recovery == pytest.approx(1.48, abs=0.05)


def test_recovery_includes_writes() -> None:
    failed_writes = [revoke(22.0 + number / 10, status=503, session="s2") for number in range(5)]
    assert stats_of(allowed(21.0), allowed(30.0), *failed_writes).recovery == pytest.approx(2.3)


def test_failures_at_the_end_of_the_observation_are_no_recovery() -> None:
    failing = [unavailable(20.0 + number / 10) for number in range(100)]
    assert stats_of(*failing).recovery == inf


def test_recovery_is_the_slowest_of_the_episodes() -> None:
    first, second = fault(10.0, 20.0), fault(30.0, 40.0)
    during = [unavailable(31.0), unavailable(32.0), unavailable(33.0)]
    history = [create(0.0), first, second, *during, allowed(45.0)]
    assert compute_stats(history, [first, second]).recovery == 0.0


def test_last_allow_is_the_longest_delay_of_a_revocation() -> None:
    history = [
        revoke(11.0),
        allowed(11.51, TokenCategory.ENDED),
        refused(12.0, TokenCategory.ENDED),
    ]
    found = stats_of(*history)
    assert (found.revocations, found.acknowledged) == (1, 1)
    assert found.last_allow == pytest.approx(0.5)


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (75, 3), (99, 4), (100, 4)])
def test_percentile_is_one_of_the_values(percent: float, value: float) -> None:
    assert percentile([1, 2, 3, 4], percent) == value
