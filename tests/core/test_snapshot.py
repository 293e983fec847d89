"""Snapshots of the database: their text, what they see, and their order."""

from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.snapshot import Snapshot

# In the order of time: each sees what the one before it does, and more, unless it is equal.
HISTORY: Final = [
    "90:90:",
    "90:100:90,95,99",
    "90:100:90,95",
    "95:100:95",
    "100:100:",
    "100:101:100",
    "101:101:",
]


@pytest.mark.parametrize("text", [*HISTORY, "1:1:", "9223372036854775806:9223372036854775807:"])
def test_text_is_parsed_and_formatted_as_postgres_does(text: str) -> None:
    assert str(Snapshot.parse(text)) == text


def test_transactions_in_progress_are_formatted_in_order() -> None:
    assert str(Snapshot(8, 12, frozenset({11, 8, 10}))) == "8:12:8,10,11"


@pytest.mark.parametrize("text", ["", "90", "90:100", "90:100:x", "90:100:,", "a:b:", "1:2:3:4"])
def test_other_text_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|invalid literal"):
        Snapshot.parse(text)


@pytest.mark.parametrize(
    ("xid", "is_seen"),
    [
        (1, True),
        (89, True),
        (90, False),
        (91, True),
        (95, False),
        (99, True),
        (100, False),
        (200, False),
    ],
)
def test_sees_what_was_committed(xid: int, is_seen: bool) -> None:
    assert Snapshot.parse("90:100:90,95").sees(xid) is is_seen


def test_later_snapshot_has_a_higher_order_and_sees_as_much() -> None:
    snapshots = [Snapshot.parse(text) for text in HISTORY]
    for earlier, later in pairwise(snapshots):
        assert earlier.order < later.order
        assert all(later.sees(xid) for xid in range(80, 110) if earlier.sees(xid))


def test_equal_snapshots_have_the_same_order() -> None:
    assert Snapshot.parse("90:100:90").order == Snapshot(90, 100, frozenset({90})).order


@given(st.lists(st.booleans(), max_size=40), st.data())
def test_order_of_any_history_is_that_of_what_is_seen(
    begins: list[bool], data: st.DataObject
) -> None:
    """A history is a list of transactions that begin, and of running ones that end."""
    running, next_xid = set[int](), 1
    snapshots = [_take(running, next_xid)]
    for begin in begins:
        if begin or not running:
            running.add(next_xid)
            next_xid += 1
        else:
            running.remove(data.draw(st.sampled_from(sorted(running))))
        snapshots.append(_take(running, next_xid))
    for earlier, later in pairwise(snapshots):
        seen_before = {xid for xid in range(next_xid) if earlier.sees(xid)}
        seen = {xid for xid in range(next_xid) if later.sees(xid)}
        assert seen_before <= seen
        assert earlier.order <= later.order
        assert (earlier.order == later.order) is (seen_before == seen)


def _take(running: set[int], next_xid: int) -> Snapshot:
    """Return the snapshot as Postgres takes it: `xmax` follows the last transaction that ended."""
    ended = [xid for xid in range(1, next_xid) if xid not in running]
    xmax = max(ended, default=0) + 1
    in_progress = frozenset(xid for xid in running if xid < xmax)
    return Snapshot(min(in_progress, default=xmax), xmax, in_progress)
