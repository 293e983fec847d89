"""For each invariant: a history that violates it is detected, and one that does not passes."""

from itertools import permutations

import pytest

from tests.faults.checker import find_violations
from tests.faults.history import Entry, Result, TokenCategory
from tests.faults.sample_entries import (
    allowed,
    create,
    fault,
    instance_fault,
    migrate,
    redis_data_loss,
    refresh,
    refused,
    revoke,
    stall,
    stores_down,
    unavailable,
)

ENDED = TokenCategory.ENDED


def violated(*history: Entry) -> list[str]:
    """Return the invariants that a history violates."""
    return [violation.invariant for violation in find_violations(history)]


def test_history_without_violations_passes() -> None:
    history = [
        create(0.0),
        allowed(1.0),
        unavailable(2.0),
        refresh(3.0),
        allowed(4.0, ENDED),
        allowed(4.0, token=2),
        refused(9.0, ENDED),
        revoke(10.0),
        refused(11.5, ENDED, token=2),
    ]
    assert violated(*history) == []


# --- I1: revoked sessions are denied


def test_i1_allow_after_the_bound_is_a_violation() -> None:
    assert violated(create(0.0), revoke(10.0), allowed(11.1, ENDED)) == ["I1"]


def test_i1_allow_within_the_bound_passes() -> None:
    assert violated(create(0.0), revoke(10.0), allowed(10.9, ENDED)) == []


def test_i1_check_started_within_the_bound_may_end_after_it() -> None:
    assert violated(create(0.0), revoke(10.0), allowed(10.9, ENDED, end=11.05)) == []


def test_i1_bound_of_the_fault_applies_during_a_fault() -> None:
    history = [create(0.0), revoke(10.0), fault(9.0, 20.0)]
    assert violated(*history, allowed(14.9, ENDED)) == []
    assert violated(*history, allowed(15.1, ENDED)) == ["I1"]


def test_i1_bound_of_a_later_fault_does_not_apply() -> None:
    assert violated(create(0.0), revoke(10.0), fault(12.0, 20.0), allowed(13.0, ENDED)) == ["I1"]


def test_i1_revocation_without_response_may_have_failed() -> None:
    assert violated(create(0.0), revoke(10.0, Result.INFO), allowed(20.0, ENDED)) == []


def test_i1_revocation_without_response_counts_after_the_first_denial() -> None:
    history = [create(0.0), revoke(10.0, Result.INFO), refused(20.0, ENDED)]
    assert violated(*history, allowed(20.5, ENDED)) == []
    assert violated(*history, allowed(22.0, ENDED)) == ["I1"]


def test_i1_refresh_of_a_revoked_session_is_a_violation() -> None:
    assert violated(create(0.0), revoke(10.0), refresh(10.2)) == ["I1"]


def test_i1_revocation_answered_with_202_may_be_lost_with_redis() -> None:
    history = [create(0.0), revoke(10.0, status=202), allowed(20.0, ENDED)]
    assert violated(*history) == ["I1"]
    assert violated(*history, redis_data_loss(12.0)) == []


def test_i1_revocation_answered_with_202_is_durable_after_a_minute() -> None:
    history = [create(0.0), revoke(10.0, status=202), redis_data_loss(90.0), allowed(95.0, ENDED)]
    assert violated(*history) == ["I1"]


def test_i1_allow_of_an_old_token_after_a_migration_is_a_violation() -> None:
    history = [create(0.0), refresh(4.0), migrate(10.0)]
    assert violated(*history, allowed(11.5, ENDED, token=2)) == ["I1"]
    assert violated(*history, allowed(11.5, token=3)) == []


def test_i1_token_that_was_issued_after_a_migration_is_valid() -> None:
    history = [create(0.0), migrate(10.0), refresh(12.0, token=3, successor=4)]
    assert violated(*history, allowed(20.0, token=4)) == []
    assert violated(*history, refused(20.0, token=4)) == ["I2"]


def test_i1_memory_without_stores_is_valid_only_for_its_time_to_live() -> None:
    history = [create(0.0), fault(10.0, 30.0), stores_down(10.0, 30.0)]
    assert violated(*history, allowed(14.9)) == []
    assert violated(*history, allowed(15.2)) == ["I1"]
    assert violated(*history, allowed(30.5)) == []


# --- I2: valid sessions are allowed or unavailable


def test_i2_denial_of_a_valid_session_is_a_violation() -> None:
    assert violated(create(0.0), refused(5.0)) == ["I2"]


def test_i2_unavailable_is_not_a_denial() -> None:
    assert violated(create(0.0), unavailable(5.0)) == []


def test_i2_denial_during_the_revocation_passes() -> None:
    assert violated(create(0.0), revoke(5.0, end=6.0), refused(5.5)) == []


def test_i2_denial_after_a_revocation_without_response_passes() -> None:
    assert violated(create(0.0), revoke(5.0, Result.INFO), refused(9.0)) == []


def test_i2_denial_before_the_revocation_is_a_violation() -> None:
    assert violated(create(0.0), refused(4.9), revoke(5.0)) == ["I2"]


def test_i2_denial_of_the_old_token_within_grace_is_a_violation() -> None:
    assert violated(create(0.0), refresh(5.0), refused(6.0, ENDED)) == ["I2"]


def test_i2_next_rotation_ends_the_grace_of_the_previous_token() -> None:
    history = [create(0.0), refresh(5.0), refresh(5.5, token=2, successor=3)]
    assert violated(*history, refused(6.0, ENDED)) == []


def test_i1_token_of_a_second_migration_is_valid() -> None:
    history = [create(0.0), migrate(10.0), migrate(12.0, successor=4)]
    assert violated(*history, allowed(20.0, token=4)) == []
    assert violated(*history, allowed(20.0, ENDED, token=3)) == ["I1"]


def test_i2_denial_of_an_old_token_after_a_migration_passes() -> None:
    history = [create(0.0), migrate(10.0, Result.INFO)]
    assert violated(*history, refused(11.0)) == []
    assert violated(*history, refused(9.0)) == ["I2"]


def test_i2_refused_migration_is_a_violation() -> None:
    assert violated(create(0.0), migrate(5.0, Result.FAIL)) == ["I2"]


def test_i2_grace_may_be_that_of_the_session() -> None:
    history = [create(0.0, grace=60.0), refresh(5.0), refused(20.0, ENDED)]
    assert violated(*history) == ["I2"]


def test_i2_refused_refresh_of_a_valid_token_is_a_violation() -> None:
    assert violated(create(0.0), refresh(5.0, Result.FAIL)) == ["I2"]


def test_i2_login_at_the_limit_may_end_a_session() -> None:
    at_limit = [create(0.0, limit=2)]
    at_limit += [
        create(number, limit=2, key=f"k{number}", session=f"s{number}", token=number)
        for number in (2, 3)
    ]
    assert violated(*at_limit, refused(4.0, TokenCategory.AT_LIMIT)) == []
    assert violated(*at_limit[:2], refused(4.0, TokenCategory.AT_LIMIT)) == ["I2"]


def test_i2_retried_login_at_the_limit_counts_once() -> None:
    history = [
        create(0.0, Result.INFO, limit=2),
        create(1.0, limit=2, key="k2", session="s2", token=2),
        create(2.0, limit=2),
        refused(4.0, TokenCategory.AT_LIMIT),
    ]
    assert violated(*history) == ["I2"]


def test_i2_delayed_login_at_the_limit_may_end_a_session() -> None:
    delayed = [create(0.0, Result.INFO, limit=2, key=f"k{number}", status=0) for number in (2, 3)]
    assert violated(*delayed, create(5.0, limit=2), refused(9.0, TokenCategory.AT_LIMIT)) == []


def test_i2_delayed_refresh_after_grace_may_end_the_session() -> None:
    history = [create(0.0), refresh(5.0), refresh(5.0, Result.INFO, status=0, end=7.0)]
    history.append(allowed(6.0, token=2))
    assert violated(*history, refused(15.0, token=2)) == []
    assert violated(*history, refused(7.5, token=2)) == ["I2"]


def test_i2_delayed_refresh_does_not_end_a_session_whose_token_was_not_used() -> None:
    history = [create(0.0), refresh(5.0), refresh(5.0, Result.INFO, status=0, end=7.0)]
    assert violated(*history, refused(15.0, token=2)) == ["I2"]


# --- I3: an allow returns the right identity


def test_i3_identity_of_another_user_is_a_violation() -> None:
    assert violated(create(0.0), allowed(1.0, returned_user="bob")) == ["I3"]


def test_i3_identity_of_another_session_is_a_violation() -> None:
    assert violated(create(0.0), allowed(1.0, returned_session="s2")) == ["I3"]


def test_i3_missing_identity_is_a_violation() -> None:
    assert violated(create(0.0), allowed(1.0, returned_user=None, returned_session=None)) == ["I3"]


# --- I4: tokens that were never valid are never allowed


@pytest.mark.parametrize(
    "category",
    [TokenCategory.UNKNOWN, TokenCategory.EXPIRED, TokenCategory.MALFORMED, TokenCategory.FORGED],
)
def test_i4_allow_of_a_never_valid_token_is_a_violation(category: TokenCategory) -> None:
    no_session = {"token": None, "session": None, "user": None}
    assert violated(allowed(1.0, category, **no_session)) == ["I4"]
    assert violated(refused(1.0, category, **no_session)) == []
    assert violated(unavailable(1.0, category, **no_session)) == []


# --- I5: acknowledged changes are durable


def test_i5_revocation_of_an_unknown_session_is_a_violation() -> None:
    assert violated(create(0.0), revoke(5.0, Result.FAIL, status=404)) == ["I5"]


def test_i5_lost_session_after_restart_is_a_violation() -> None:
    assert violated(create(0.0), refused(90.0, after_restart=True)) == ["I5"]


def test_i5_lost_revocation_after_restart_is_a_violation() -> None:
    assert violated(create(0.0), revoke(5.0), allowed(90.0, ENDED, after_restart=True)) == ["I5"]


# --- I6: one successor, and grace ends


def test_i6_two_successors_of_a_token_are_a_violation() -> None:
    assert violated(create(0.0), refresh(5.0), refresh(5.0, successor=3)) == ["I6"]


def test_i6_concurrent_refreshes_may_return_the_same_successor() -> None:
    assert violated(create(0.0), refresh(5.0), refresh(5.0, instance="other")) == []


def test_i6_allow_of_the_old_token_after_grace_is_a_violation() -> None:
    history = [create(0.0), refresh(5.0)]
    assert violated(*history, allowed(8.9, ENDED)) == []
    assert violated(*history, allowed(9.1, ENDED)) == ["I6"]


def test_i6_grace_may_be_that_of_the_session() -> None:
    history = [create(0.0, grace=60.0), refresh(5.0)]
    assert violated(*history, allowed(60.0, ENDED)) == []
    assert violated(*history, allowed(67.0, ENDED)) == ["I6"]


def test_i6_successor_that_was_not_used_is_returned_again_after_grace() -> None:
    assert violated(create(0.0), refresh(5.0), refresh(9.0)) == []
    assert violated(create(0.0), refresh(5.0), refresh(9.0, successor=3)) == ["I6"]


def test_i6_reuse_ends_no_session_whose_successor_was_not_used() -> None:
    assert violated(create(0.0), refresh(5.0), refresh(9.0, Result.FAIL)) == ["I6"]


@pytest.mark.parametrize("use", [allowed(6.0, token=2), refresh(6.0, token=2, successor=3)])
def test_i6_refresh_of_the_old_token_after_the_use_of_its_successor_is_a_violation(
    use: Entry,
) -> None:
    history = [create(0.0), refresh(5.0), use]
    assert violated(*history, refresh(9.0)) == ["I6"]
    assert violated(*history, refresh(9.0, Result.FAIL)) == []


@pytest.mark.parametrize(
    "use",
    [
        [allowed(7.5, token=2)],
        [allowed(6.0, token=2), fault(5.5, 9.5)],
        [unavailable(6.0, token=2)],
    ],
    ids=["not recorded yet", "during a fault", "without an answer"],
)
def test_i6_use_may_be_unknown(use: list[Entry]) -> None:
    history = [create(0.0), refresh(5.0), *use]
    assert violated(*history, refresh(9.0)) == []
    assert violated(*history, refresh(9.0, Result.FAIL)) == []


def test_i6_refresh_after_a_migration_is_a_violation() -> None:
    history = [create(0.0), refresh(5.0), migrate(10.0)]
    assert violated(*history, refresh(11.0)) == ["I6"]
    assert violated(*history, refresh(11.0, Result.FAIL)) == []


def test_i6_reuse_after_grace_ends_the_session() -> None:
    history = [create(0.0), refresh(5.0), allowed(6.0, token=2), refresh(9.0, Result.FAIL)]
    assert violated(*history, refused(9.1, token=2)) == []
    assert violated(*history, allowed(9.5, ENDED, token=2)) == []
    assert violated(*history, allowed(11.0, ENDED, token=2)) == ["I1"]


# --- I9: checks are answered within the deadline


def test_i9_late_response_is_a_violation() -> None:
    assert violated(create(0.0), allowed(1.0, end=1.25)) == ["I9"]
    assert violated(create(0.0), allowed(1.0, end=1.19)) == []


def test_i9_missing_response_is_a_violation() -> None:
    assert violated(create(0.0), unavailable(1.0, status=0)) == ["I9"]


def test_i9_aborted_check_is_exempt() -> None:
    assert violated(create(0.0), unavailable(1.0, status=0, aborted=True)) == []


def test_i9_faulty_instance_is_exempt() -> None:
    late = unavailable(1.0, status=0, end=3.0)
    assert violated(create(0.0), late, instance_fault(0.9, 2.0)) == []
    assert violated(create(0.0), late, instance_fault(0.9, 2.0, "other")) == ["I9"]
    assert violated(create(0.0), late, instance_fault(4.0, 5.0)) == ["I9"]


def test_i9_cpu_waits_are_subtracted() -> None:
    late = allowed(1.0, end=1.25)
    assert violated(create(0.0), late, stall(1.1, 1.2, waited=0.08)) == []
    assert violated(create(0.0), late, stall(1.1, 1.2, waited=0.08, process="rig")) == []
    assert violated(create(0.0), late, stall(1.1, 1.2, waited=0.08, process="other")) == ["I9"]
    assert violated(create(0.0), late, stall(1.1, 1.2, waited=0.02)) == ["I9"]
    assert violated(create(0.0), late, stall(3.1, 3.2, waited=0.08)) == ["I9"]


def test_i9_cpu_waits_count_when_cpu_starvation_is_the_fault() -> None:
    late, starved = allowed(1.0, end=1.25), stall(1.1, 1.2, waited=0.08)
    assert violated(create(0.0), late, starved, fault(0.0, 5.0, cpu_starved=True)) == ["I9"]


# ---


def test_order_of_the_entries_does_not_matter() -> None:
    history = (create(0.0), revoke(10.0, Result.INFO), refused(20.0, ENDED), allowed(22.0, ENDED))
    assert all(violated(*mix_random) == ["I1"] for mix_random in permutations(history))


def test_violations_are_ordered_by_time() -> None:
    found = find_violations([create(0.0), allowed(5.0, returned_user="bob"), refused(3.0)])
    assert [violation.invariant for violation in found] == ["I2", "I3"]
