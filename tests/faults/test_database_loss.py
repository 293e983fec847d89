"""What a restored database has lost is excluded from the invariants, and nothing else."""

import pytest

from tests.faults.checker import find_violations
from tests.faults.consistency import find_final_violations, find_wrong_lists
from tests.faults.database_loss import RestoredState, find_losses
from tests.faults.history import DatabaseRestore, Entry, Result, TokenCategory
from tests.faults.population import ClientToken
from tests.faults.sample_entries import (
    allowed,
    create,
    database_restore,
    event,
    fault,
    listing,
    migrate,
    refresh,
    refused,
    revoke,
)
from tests.faults.stats import compute_stats

ENDED = TokenCategory.ENDED
STOPPED_AT, RESTORED_AT, SETTLED_AT = 20.0, 22.0, 27.0


def restore(**lost: object) -> DatabaseRestore:
    return database_restore(STOPPED_AT, RESTORED_AT, **lost)


def violated(*history: Entry) -> list[str]:
    return [violation.invariant for violation in find_violations(history)]


# --- Lost sessions and tokens


LOST_SESSION = (create(10.0), restore(sessions={"s1"}, tokens={1}))


def test_lost_session_may_be_denied_after_the_restore() -> None:
    assert violated(*LOST_SESSION, refused(22.5)) == []
    assert violated(*LOST_SESSION, refused(19.0)) == ["I2"]


def test_lost_session_must_be_denied_after_the_bound() -> None:
    assert violated(*LOST_SESSION, allowed(26.9)) == []
    assert violated(*LOST_SESSION, allowed(27.1)) == ["I1", "I1"]


def test_lost_session_must_be_denied_at_once_by_instances_that_start() -> None:
    history = (create(10.0), restore(sessions={"s1"}, tokens={1}, bound=0.0), fault(20.0, 30.0))
    assert violated(*history, allowed(22.1)) == ["I1", "I1"]


def test_other_session_must_be_allowed_after_the_restore() -> None:
    other = restore(sessions={"s2"}, tokens={2})
    assert violated(create(1.0), other, refused(23.0)) == ["I2"]


def test_revoking_a_lost_session_may_be_refused() -> None:
    assert violated(*LOST_SESSION, revoke(23.0, Result.FAIL, status=404)) == []


def test_session_that_was_revoked_before_it_was_lost_stays_denied() -> None:
    history = (create(10.0), revoke(12.0), restore(sessions={"s1"}, tokens={1}))
    assert violated(*history, allowed(22.5, ENDED)) == ["I1"]


def test_first_restore_that_lost_a_session_counts() -> None:
    again = database_restore(40.0, 42.0, sessions={"s1"}, tokens={1})
    assert violated(*LOST_SESSION, again, allowed(43.0)) == ["I1", "I1"]


def test_lost_session_must_not_be_listed() -> None:
    history = [*LOST_SESSION, listing(23.0, "s1")]
    assert [found.invariant for found in find_wrong_lists(history)] == ["I5"]


def test_lost_session_is_not_counted_as_valid() -> None:
    period = fault(19.0, 30.0)
    history = [*LOST_SESSION, period, allowed(19.5), refused(23.0)]
    assert compute_stats(history, [period]).valid == 1.0


# --- Lost rotations


LOST_ROTATION = (create(1.0), refresh(10.0), restore(tokens={2}))


def test_token_before_a_lost_rotation_is_valid_again() -> None:
    assert violated(*LOST_ROTATION, allowed(40.0, ENDED)) == []
    assert violated(*LOST_ROTATION, refused(28.0, ENDED)) == ["I2"]


def test_token_before_a_lost_rotation_may_be_denied_until_the_caches_settle() -> None:
    assert violated(*LOST_ROTATION, refused(26.0, ENDED)) == []


def test_successor_of_a_lost_rotation_must_be_denied() -> None:
    assert violated(*LOST_ROTATION, refused(23.0, token=2)) == []
    assert violated(*LOST_ROTATION, allowed(28.0, token=2)) == ["I1"]


def test_token_before_a_lost_rotation_gets_another_successor() -> None:
    assert violated(*LOST_ROTATION, refresh(30.0, successor=3)) == []


def test_two_successors_after_the_restore_are_a_violation() -> None:
    history = (*LOST_ROTATION, refresh(30.0, successor=3), refresh(30.5, successor=4))
    assert violated(*history) == ["I6"]


def test_token_before_a_lost_migration_is_valid_again() -> None:
    history = (create(1.0), migrate(10.0), restore(tokens={3}))
    assert violated(*history, allowed(40.0, ENDED)) == []
    assert violated(*history, refused(26.0, ENDED)) == []  # until the caches settle
    assert violated(*history, refused(28.0, ENDED)) == ["I2"]


# --- Lost ends


def test_session_whose_end_is_lost_may_be_allowed_or_denied() -> None:
    history = (create(1.0), revoke(10.0), restore(ends={"s1"}))
    assert violated(*history, allowed(40.0, ENDED)) == []
    assert violated(*history, refused(40.0, ENDED)) == []


def test_session_whose_end_is_lost_stays_ended_before_the_restore() -> None:
    history = (create(1.0), revoke(10.0), restore(ends={"s1"}))
    assert violated(*history, allowed(19.0, ENDED)) == ["I1"]


def test_session_whose_end_is_lost_may_be_revoked_again() -> None:
    history = (create(1.0), revoke(10.0), restore(ends={"s1"}), revoke(30.0))
    assert violated(*history, allowed(32.0, ENDED)) == ["I1"]


def test_session_with_a_tombstone_in_redis_ends_again() -> None:
    history = (create(1.0), revoke(10.0), restore(tombstones={"s1"}))
    assert violated(*history, allowed(26.0, ENDED)) == []
    assert violated(*history, allowed(29.0, ENDED)) == ["I1"]


def test_end_that_the_database_knows_counts_at_once() -> None:
    history = (create(1.0), revoke(10.0), restore())
    assert violated(*history, allowed(22.5, ENDED)) == ["I1"]


# --- The audit trail


def final_violations(*history: Entry) -> list[str]:
    return [violation.invariant for violation in find_final_violations(history)]


def test_lost_session_has_no_event() -> None:
    other = (create(0.0, session="s2", user="bob"), event("create", 1, session="s2", user="bob"))
    assert final_violations(*LOST_SESSION, *other) == []
    assert final_violations(*LOST_SESSION, *other, event("create", 1)) == ["I8"]


def test_lost_changes_need_no_event() -> None:
    created = (create(1.0), event("create", 1))
    assert final_violations(*created, revoke(10.0), restore(ends={"s1"})) == []
    assert final_violations(*created, refresh(10.0), restore(tokens={2})) == []


def test_session_revoked_again_has_the_version_of_its_tombstone() -> None:
    history = (create(1.0), revoke(10.0), event("create", 1), event("revoke", 3))
    assert final_violations(*history, restore(tombstones={"s1"})) == []
    assert final_violations(*history, restore()) == ["I8"]


# --- Which changes are lost


TOKENS = [ClientToken(f"sgw_{number}", number, f"s{number}", "ada") for number in (1, 2, 3)]


def losses(*history: Entry, known: str = "", **state: object) -> DatabaseRestore:
    """Return what is lost if the database knows the sessions and tokens with these numbers."""
    digests = frozenset(token.digest for token in TOKENS if str(token.number) in known)
    fields: dict[str, object] = {"revoked": frozenset[str]()} | state
    return find_losses(
        history,
        RestoredState(
            RESTORED_AT,
            sessions=frozenset(f"s{number}" for number in known),
            digests=digests,
            **fields,  # type: ignore[arg-type]
        ),
        issued=TOKENS,
        stopped_at=STOPPED_AT,
        settled_at=SETTLED_AT,
        bound=5.0,
    )


def test_unknown_session_is_lost_with_its_token() -> None:
    history = (create(1.0), create(10.0, session="s2", token=2, key="k2"))
    lost = losses(*history, known="1")
    assert (set(lost.sessions), set(lost.tokens)) == ({"s2"}, {2})
    assert (lost.start, lost.end, lost.settled_at) == (STOPPED_AT, RESTORED_AT, SETTLED_AT)


def test_session_created_after_the_restore_is_not_lost() -> None:
    lost = losses(create(1.0), create(23.0, session="s2", token=2, key="k2"), known="1")
    assert (lost.sessions, lost.tokens) == (frozenset(), frozenset())


def test_unknown_successor_is_lost() -> None:
    assert losses(create(1.0), refresh(10.0), known="1").tokens == {2}


@pytest.mark.parametrize(
    ("state", "ends", "tombstones"),
    [
        ({}, {"s1"}, set()),
        ({"tombstones": frozenset({"s1"})}, set(), {"s1"}),
        ({"revoked": frozenset({"s1"})}, set(), set()),
    ],
    ids=["active", "active, tombstone in Redis", "revoked"],
)
def test_end_is_lost_where_the_session_is_active(
    state: dict[str, object], ends: set[str], tombstones: set[str]
) -> None:
    lost = losses(create(1.0), revoke(10.0), known="1", **state)
    assert (set(lost.ends), set(lost.tombstones)) == (ends, tombstones)


def test_session_that_never_ended_is_in_no_set() -> None:
    assert losses(create(1.0), known="1") == restore()
