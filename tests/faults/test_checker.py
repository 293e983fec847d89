"""Each invariant: a history that breaks it is caught, and one that does not passes."""

from itertools import permutations

import pytest

from tests.faults.checker import breaches
from tests.faults.history import Entry, Result, Road
from tests.faults.made_up import (
    allowed,
    create,
    dark,
    fault,
    forgotten,
    hurt,
    refresh,
    refused,
    revoke,
    stall,
    unavailable,
)

OVER = Road.OVER


def told(*history: Entry) -> list[str]:
    """Return the invariants that a history breaks."""
    return [breach.invariant for breach in breaches(history)]


def test_a_quiet_life_breaks_nothing() -> None:
    history = [
        create(0.0),
        allowed(1.0),
        unavailable(2.0),
        refresh(3.0),
        allowed(4.0, OVER),
        allowed(4.0, token=2),
        refused(9.0, OVER),
        revoke(10.0),
        refused(11.5, OVER, token=2),
    ]
    assert told(*history) == []


# --- I1: the dead stay dead


def test_i1_an_allow_after_the_bound_is_caught() -> None:
    assert told(create(0.0), revoke(10.0), allowed(11.1, OVER)) == ["I1"]


def test_i1_an_allow_within_the_bound_is_not() -> None:
    assert told(create(0.0), revoke(10.0), allowed(10.9, OVER)) == []


def test_i1_a_check_that_began_within_the_bound_may_end_after_it() -> None:
    assert told(create(0.0), revoke(10.0), allowed(10.9, OVER, end=11.05)) == []


def test_i1_during_a_fault_the_bound_is_the_faults() -> None:
    history = [create(0.0), revoke(10.0), fault(9.0, 20.0)]
    assert told(*history, allowed(14.9, OVER)) == []
    assert told(*history, allowed(15.1, OVER)) == ["I1"]


def test_i1_a_fault_that_begins_later_excuses_nothing() -> None:
    assert told(create(0.0), revoke(10.0), fault(12.0, 20.0), allowed(13.0, OVER)) == ["I1"]


def test_i1_a_revocation_without_an_answer_may_have_happened_or_not() -> None:
    assert told(create(0.0), revoke(10.0, Result.INFO), allowed(20.0, OVER)) == []


def test_i1_once_somebody_was_refused_it_has_happened() -> None:
    history = [create(0.0), revoke(10.0, Result.INFO), refused(20.0, OVER)]
    assert told(*history, allowed(20.5, OVER)) == []
    assert told(*history, allowed(22.0, OVER)) == ["I1"]


def test_i1_a_refresh_of_the_dead_is_caught() -> None:
    assert told(create(0.0), revoke(10.0), refresh(10.2)) == ["I1"]


def test_i1_what_was_only_promised_may_be_lost_with_redis() -> None:
    history = [create(0.0), revoke(10.0, status=202), allowed(20.0, OVER)]
    assert told(*history) == ["I1"]
    assert told(*history, forgotten(12.0)) == []


def test_i1_what_was_promised_long_ago_is_durable() -> None:
    history = [create(0.0), revoke(10.0, status=202), forgotten(90.0), allowed(95.0, OVER)]
    assert told(*history) == ["I1"]


def test_i1_without_any_store_memory_is_believed_for_its_age_and_no_longer() -> None:
    history = [create(0.0), fault(10.0, 30.0), dark(10.0, 30.0)]
    assert told(*history, allowed(14.9)) == []
    assert told(*history, allowed(15.2)) == ["I1"]
    assert told(*history, allowed(30.5)) == []


# --- I2: the living are let in, or told to come again


def test_i2_a_refusal_of_the_living_is_caught() -> None:
    assert told(create(0.0), refused(5.0)) == ["I2"]


def test_i2_an_outage_is_no_refusal() -> None:
    assert told(create(0.0), unavailable(5.0)) == []


def test_i2_a_refusal_while_it_is_being_revoked_is_right() -> None:
    assert told(create(0.0), revoke(5.0, end=6.0), refused(5.5)) == []


def test_i2_a_revocation_without_an_answer_may_be_seen() -> None:
    assert told(create(0.0), revoke(5.0, Result.INFO), refused(9.0)) == []


def test_i2_a_refusal_before_its_revocation_was_asked_for_is_caught() -> None:
    assert told(create(0.0), refused(4.9), revoke(5.0)) == ["I2"]


def test_i2_within_the_grace_the_old_token_is_let_in() -> None:
    assert told(create(0.0), refresh(5.0), refused(6.0, OVER)) == ["I2"]


def test_i2_after_the_next_rotation_the_one_before_has_no_grace_left() -> None:
    history = [create(0.0), refresh(5.0), refresh(5.5, token=2, successor=3)]
    assert told(*history, refused(6.0, OVER)) == []


def test_i2_a_refresh_that_is_refused_for_no_reason_is_caught() -> None:
    assert told(create(0.0), refresh(5.0, Result.FAIL)) == ["I2"]


def test_i2_at_the_limit_another_log_in_may_end_a_session() -> None:
    crowd = [create(0.0, limit=2)]
    crowd += [
        create(number, limit=2, key=f"k{number}", session=f"s{number}", token=number)
        for number in (2, 3)
    ]
    assert told(*crowd, refused(4.0, Road.CROWD)) == []
    assert told(*crowd[:2], refused(4.0, Road.CROWD)) == ["I2"]


def test_i2_at_the_limit_a_log_in_that_had_no_answer_at_first_counts_once() -> None:
    history = [
        create(0.0, Result.INFO, limit=2),
        create(1.0, limit=2, key="k2", session="s2", token=2),
        create(2.0, limit=2),
        refused(4.0, Road.CROWD),
    ]
    assert told(*history) == ["I2"]


def test_i2_at_the_limit_a_log_in_that_was_stuck_may_come_later_and_end_a_session() -> None:
    stuck = [create(0.0, Result.INFO, limit=2, key=f"k{number}", status=0) for number in (2, 3)]
    assert told(*stuck, create(5.0, limit=2), refused(9.0, Road.CROWD)) == []


def test_i2_a_refresh_that_was_stuck_may_come_after_the_grace_and_end_the_session() -> None:
    history = [create(0.0), refresh(5.0), refresh(5.0, Result.INFO, status=0, end=7.0)]
    assert told(*history, refused(15.0, token=2)) == []
    assert told(*history, refused(7.5, token=2)) == ["I2"]


# --- I3: nobody is let in as somebody else


def test_i3_an_allow_that_names_another_user_is_caught() -> None:
    assert told(create(0.0), allowed(1.0, named="bob")) == ["I3"]


def test_i3_an_allow_that_names_another_session_is_caught() -> None:
    assert told(create(0.0), allowed(1.0, named_session="s2")) == ["I3"]


def test_i3_an_allow_that_names_nobody_is_caught() -> None:
    assert told(create(0.0), allowed(1.0, named=None, named_session=None)) == ["I3"]


# --- I4: what was never worth anything is never let in


@pytest.mark.parametrize("road", [Road.UNKNOWN, Road.EXPIRED, Road.MALFORMED, Road.FORGED])
def test_i4_a_worthless_token_that_is_allowed_is_caught(road: Road) -> None:
    nobody = {"token": None, "session": None, "user": None}
    assert told(allowed(1.0, road, **nobody)) == ["I4"]
    assert told(refused(1.0, road, **nobody)) == []
    assert told(unavailable(1.0, road, **nobody)) == []


# --- I5: what was acknowledged is true


def test_i5_a_session_that_is_unknown_when_it_is_to_be_revoked_is_caught() -> None:
    assert told(create(0.0), revoke(5.0, Result.FAIL, status=404)) == ["I5"]


def test_i5_after_the_restart_of_everything_a_lost_session_is_caught() -> None:
    assert told(create(0.0), refused(90.0, last=True)) == ["I5"]


def test_i5_after_the_restart_of_everything_a_lost_revocation_is_caught() -> None:
    assert told(create(0.0), revoke(5.0), allowed(90.0, OVER, last=True)) == ["I5"]


# --- I6: one successor, and an old token ends


def test_i6_two_successors_of_a_token_are_caught() -> None:
    assert told(create(0.0), refresh(5.0), refresh(5.0, successor=3)) == ["I6"]


def test_i6_whoever_races_may_get_the_same_one() -> None:
    assert told(create(0.0), refresh(5.0), refresh(5.0, at="other")) == []


def test_i6_an_old_token_that_is_allowed_after_its_grace_is_caught() -> None:
    history = [create(0.0), refresh(5.0)]
    assert told(*history, allowed(8.9, OVER)) == []
    assert told(*history, allowed(9.1, OVER)) == ["I6"]


def test_i6_an_old_token_that_is_refreshed_after_its_grace_is_caught() -> None:
    assert told(create(0.0), refresh(5.0), refresh(9.0)) == ["I6"]


def test_i6_reuse_ends_the_session() -> None:
    history = [create(0.0), refresh(5.0), refresh(9.0, Result.FAIL)]
    assert told(*history, refused(9.1, token=2)) == []
    assert told(*history, allowed(9.5, OVER, token=2)) == []
    assert told(*history, allowed(11.0, OVER, token=2)) == ["I1"]


# --- I9: everybody is answered in time


def test_i9_an_answer_that_comes_late_is_caught() -> None:
    assert told(create(0.0), allowed(1.0, end=1.25)) == ["I9"]
    assert told(create(0.0), allowed(1.0, end=1.19)) == []


def test_i9_no_answer_at_all_is_caught() -> None:
    assert told(create(0.0), unavailable(1.0, status=0)) == ["I9"]


def test_i9_a_client_that_left_is_owed_nothing() -> None:
    assert told(create(0.0), unavailable(1.0, status=0, left=True)) == []


def test_i9_an_instance_that_is_hurt_itself_owes_nothing() -> None:
    late = unavailable(1.0, status=0, end=3.0)
    assert told(create(0.0), late, hurt(0.9, 2.0)) == []
    assert told(create(0.0), late, hurt(0.9, 2.0, "other")) == ["I9"]
    assert told(create(0.0), late, hurt(4.0, 5.0)) == ["I9"]


def test_i9_what_others_took_of_the_cpu_is_not_counted() -> None:
    late = allowed(1.0, end=1.25)
    assert told(create(0.0), late, stall(1.1, 1.2, waited=0.08)) == []
    assert told(create(0.0), late, stall(1.1, 1.2, waited=0.08, who="rig")) == []
    assert told(create(0.0), late, stall(1.1, 1.2, waited=0.08, who="other")) == ["I9"]
    assert told(create(0.0), late, stall(1.1, 1.2, waited=0.02)) == ["I9"]
    assert told(create(0.0), late, stall(3.1, 3.2, waited=0.08)) == ["I9"]


def test_i9_where_starving_is_the_fault_it_is_no_excuse() -> None:
    late, starved = allowed(1.0, end=1.25), stall(1.1, 1.2, waited=0.08)
    assert told(create(0.0), late, starved, fault(0.0, 5.0, starving=True)) == ["I9"]


# ---


def test_the_order_of_the_entries_makes_no_difference() -> None:
    history = (create(0.0), revoke(10.0, Result.INFO), refused(20.0, OVER), allowed(22.0, OVER))
    assert all(told(*mixed) == ["I1"] for mixed in permutations(history))


def test_breaches_come_in_the_order_of_time() -> None:
    found = breaches([create(0.0), allowed(5.0, named="bob"), refused(3.0)])
    assert [breach.invariant for breach in found] == ["I2", "I3"]
