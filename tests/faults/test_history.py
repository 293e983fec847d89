"""Histories are written entry by entry, and read back unchanged."""

import json
from pathlib import Path

import pytest

from tests.faults import sample_entries
from tests.faults.history import Entry, HistoryRecorder, Result, TokenCategory, read_history

ENTRIES: tuple[Entry, ...] = (
    sample_entries.create(0.5, limit=3),
    sample_entries.allowed(1.0, after_restart=True),
    sample_entries.unavailable(1.5, status=0, aborted=True),
    sample_entries.refresh(2.0),
    sample_entries.revoke(3.0, Result.INFO),
    sample_entries.migrate(3.5),
    sample_entries.listing(4.0, "s1", "s2"),
    sample_entries.fault(5.0, 6.0, cpu_starved=True),
    sample_entries.instance_fault(5.0, 6.0),
    sample_entries.stores_down(5.0, 6.0),
    sample_entries.redis_data_loss(5.0),
    sample_entries.database_restore(5.0, 6.0, sessions={"s1"}, tokens={1}, ends={"s2"}),
    sample_entries.stall(5.0, 6.0, 0.5),
    sample_entries.active_count(3),
    sample_entries.event("create", 1),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def test_entries_are_read_back_unchanged(path: Path) -> None:
    with HistoryRecorder(path) as recorder:
        for entry in ENTRIES:
            recorder.add(entry)
    assert tuple(read_history(path)) == ENTRIES


def test_line_is_json_with_its_kind(path: Path) -> None:
    with HistoryRecorder(path) as recorder:
        recorder.add(sample_entries.revoke(3.0))
    line = json.loads(path.read_text())
    assert (line["kind"], line["start"], line["result"]) == ("revoke", 3.0, "ok")


def test_discarded_checks_stay_in_the_file(path: Path) -> None:
    values = [
        sample_entries.create(0.0),
        sample_entries.refused(2.0, TokenCategory.ENDED),
        sample_entries.fault(1.0, 2.0),
    ]
    with HistoryRecorder(path) as recorder:
        for entry in (
            *values,
            sample_entries.allowed(1.0),
            sample_entries.refused(1.0, TokenCategory.FORGED),
        ):
            recorder.add(entry)
        recorder.discard_checks()
        assert recorder.entries == values
    assert len(list(read_history(path))) == 5


def test_first_uses_of_a_successor_are_kept(path: Path) -> None:
    refreshed = sample_entries.refresh(1.0)
    unanswered, used = (
        sample_entries.unavailable(2.0, token=2),
        sample_entries.allowed(3.0, token=2),
    )
    with HistoryRecorder(path) as recorder:
        for entry in (
            refreshed,
            unanswered,
            used,
            sample_entries.unavailable(4.0, token=2),
            sample_entries.allowed(5.0, token=2),
            sample_entries.allowed(5.0, token=3),
        ):
            recorder.add(entry)
        recorder.discard_checks()
        recorder.discard_checks()
        assert recorder.entries == [refreshed, unanswered, used]


def test_cpu_waits_are_summed_by_process(path: Path) -> None:
    with HistoryRecorder(path) as recorder:
        for process, waited in (("one", 0.5), ("rig", 0.25), ("one", 0.25)):
            recorder.add(sample_entries.stall(1.0, 2.0, waited, process))
        assert recorder.cpu_wait_seconds == {"one": 0.75, "rig": 0.25}
